"""The spans of a process on their way to an OTLP collector; only `shared.tracing` imports this."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.tracing import Kind

ITEMS = "arrakis.items"
_HELD_SPANS_MAX = 2_000
_propagator = TraceContextTextMapPropagator()
_KINDS: dict[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "consumer": trace.SpanKind.CONSUMER,
}


class Exporter:
    """Makes spans and sends them in the background; a collector that is away costs spans only."""

    def __init__(self, service: str, endpoint: str) -> None:
        sender = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        provider = TracerProvider(resource=Resource.create({"service.name": f"arrakis-{service}"}))
        provider.add_span_processor(_Worthwhile(sender))
        self._tracer = provider.get_tracer("arrakis")

    @contextmanager
    def span(
        self,
        name: str,
        *,
        kind: Kind,
        parent: str | None,
        links: Sequence[str | None],
        attributes: dict[str, Any],
    ) -> Iterator["_Span"]:
        """Time the block; an error is noted by its kind only, its text may hold anything."""
        context = _propagator.extract({"traceparent": parent}) if parent else None
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=_KINDS[kind],
            links=[trace.Link(_context_of(link)) for link in links if link],
            attributes=_named(attributes),
            record_exception=False,
            set_status_on_exception=False,
        ) as started:
            made = _Span(started)
            try:
                yield made
            except BaseException as error:
                made.fail(type(error).__name__)
                raise

    def note(self, attributes: dict[str, Any]) -> None:
        """Add to the current span."""
        trace.get_current_span().set_attributes(_named(attributes))

    def here(self) -> str | None:
        """Return the traceparent of the current span."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier.get("traceparent")


class _Span:
    def __init__(self, started: trace.Span) -> None:
        self._started = started

    def note(self, **attributes: Any) -> None:
        self._started.set_attributes(_named(attributes))

    def fail(self, reason: str) -> None:
        self._started.set_status(trace.StatusCode.ERROR, reason)


class _Worthwhile(BatchSpanProcessor):
    """Sends all but the runs of workers that found nothing to do, which are most."""

    def __init__(self, sender: OTLPSpanExporter) -> None:
        super().__init__(sender)
        self._held: dict[int, list[ReadableSpan]] = {}

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        super().on_start(span, parent_context)
        if span.parent is None and ITEMS in (span.attributes or {}):
            self._held[span.context.trace_id] = []

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context is not None
        held = self._held.get(span.context.trace_id)
        if held is None:
            super().on_end(span)
            return
        held.append(span)
        is_root = span.parent is None
        if not is_root and len(held) < _HELD_SPANS_MAX:
            return
        del self._held[span.context.trace_id]
        is_idle = (
            is_root
            and span.status.status_code is not trace.StatusCode.ERROR
            and not (span.attributes or {}).get(ITEMS)
        )
        if not is_idle:
            for one in held:
                super().on_end(one)


def _context_of(traceparent: str) -> trace.SpanContext:
    context = _propagator.extract({"traceparent": traceparent})
    return trace.get_current_span(context).get_span_context()


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return *attributes* with our names in our namespace; those of the standard have dots."""
    return {
        name if "." in name else f"arrakis.{name}": value
        for name, value in attributes.items()
        if value is not None
    }
