"""Traces: what a request or a run led to, told to an OpenTelemetry collector, if one is set.

Without OTEL_EXPORTER_OTLP_ENDPOINT nothing of OpenTelemetry is imported, and a span costs a test
of one variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

_SERVER_ERROR = 500
Kind = Literal["internal", "server", "client", "consumer"]


class Span(Protocol):
    """A piece of work that is being timed."""

    def note(self, **attributes: Any) -> None:
        """Add what is known of it: numbers, texts, lists of texts; no secrets."""

    def fail(self, reason: str) -> None:
        """Mark it as failed, with the name of the reason."""


class Tracer(Protocol):
    """What makes spans."""

    def span(
        self,
        name: str,
        *,
        kind: Kind,
        parent: str | None,
        links: Sequence[str | None],
        attributes: dict[str, Any],
    ) -> AbstractContextManager[Span]: ...

    def here(self) -> str | None: ...

    def note(self, attributes: dict[str, Any]) -> None: ...


class _Silent:
    def note(self, **attributes: Any) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass


_OFF: AbstractContextManager[Span] = nullcontext(_Silent())
_tracers: list[Tracer] = []  # one at most


def start(service: str, endpoint: str) -> None:
    """Send the spans of this process to *endpoint* from now on; nothing if it is empty.

    Raises SystemExit with a sentence if OpenTelemetry is not installed.
    """
    if not endpoint or _tracers:
        return
    try:
        from shared.tracing_export import Exporter  # noqa: PLC0415  only who traces needs it
    except ImportError as error:
        raise SystemExit(
            "Cannot start: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed. "
            "Install the dependency group `tracing`, or unset it."
        ) from error
    _tracers.append(Exporter(service, endpoint))


def is_on() -> bool:
    """Say whether spans are told to anybody."""
    return bool(_tracers)


def span(
    name: str,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Sequence[str | None] = (),
    **attributes: Any,
) -> AbstractContextManager[Span]:
    """Time a block; what is begun in it, on this thread, is part of it.

    *parent* (a W3C traceparent) is who caused it, where that is not the span around it; *links* are
    others that it has to do with.
    """
    if not _tracers:
        return _OFF
    return _tracers[0].span(name, kind=kind, parent=parent, links=links, attributes=attributes)


def here() -> str | None:
    """Return the traceparent of the span around the caller, None if there is none."""
    return _tracers[0].here() if _tracers else None


def note(**attributes: Any) -> None:
    """Add to the span around the caller, if there is one."""
    if _tracers:
        _tracers[0].note(attributes)


def serving(route: str, method: str, traceparent: str | None) -> AbstractContextManager[Span]:
    """Time an HTTP request, which goes on with the trace of its caller."""
    name = f"{method} {route}"
    facts = {"http.request.method": method, "http.route": route}
    return span(name, kind="server", parent=traceparent, **facts)


def answered(served: Span, status: int, **ids: Any) -> None:
    """Note how a request was answered, and what it touched."""
    served.note(**{"http.response.status_code": status}, **ids)
    if status >= _SERVER_ERROR:
        served.fail(str(status))
