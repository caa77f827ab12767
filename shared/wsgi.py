"""What HTTP services have in common: a request's body, name and sender, and an answer's headers."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import structlog
from flask import Flask, Response, g, request
from prometheus_client import Counter, Histogram

from shared import tracing
from shared.clock import Clock
from shared.errors import Invalid
from shared.ids import new_id
from shared.observability import REQUEST_SECONDS, REQUESTS

log = structlog.get_logger()

_DISCARDED_LIMITS = 16
_OFFERED_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_Networks = Sequence[IPv4Network | IPv6Network]
Headers = list[tuple[str, str]]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class BodyTooLarge(Invalid):
    """The body is longer than the route accepts."""

    code = "body_too_large"


def offered_id(header: str | None) -> str | None:
    """Return the id that a caller gave in *header*, None if it gave none that can be logged."""
    return header if header and _OFFERED_ID.fullmatch(header) else None


class TrustedProxies:
    """WSGI middleware: REMOTE_ADDR becomes the caller's address, if a proxy of ours names it."""

    def __init__(self, app: WsgiApp, proxies: _Networks) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve the request with the address that :func:`client_address` finds."""
        peer, forwarded = environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", "")
        environ["REMOTE_ADDR"] = client_address(peer, forwarded, self._proxies)
        return self._app(environ, start_response)


def client_address(peer: str, forwarded: str, proxies: _Networks) -> str:
    """Return who sent the request: *peer*, or whom the trusted *proxies* on its way saw.

    Each proxy adds at the right of X-Forwarded-For whom it heard from, so that the text is believed
    from the right, as long as who says it is a proxy of ours. The rest is the caller's word.
    """
    address = peer
    for said in reversed(forwarded.split(",")):
        if not _is_in(_address(address), proxies):
            break
        heard_from = _address(said.strip())
        if heard_from is None:
            break
        address = str(heard_from)
    return address


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    # A socket for both families names an IPv4 peer as ::ffff:192.0.2.1.
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _is_in(address: IPv4Address | IPv6Address | None, networks: _Networks) -> bool:
    return address is not None and any(address in network for network in networks)


def read_body(environ: Mapping[str, Any], limit_bytes: int) -> bytes:
    """Return the whole body, plain or chunked. Raises BodyTooLarge, and Invalid if it is cut off.

    One byte more than the limit is asked for: frameworks cut a chunked body off in silence.
    """
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared and (not declared.isascii() or not declared.isdigit()):
        raise Invalid("Content-Length is not a number.", code="invalid_content_length")
    stream = environ["wsgi.input"]
    body = _read_up_to(stream, min(int(declared or limit_bytes + 1), limit_bytes + 1))
    if len(body) > limit_bytes:
        # A sender reads the answer after it has sent all, so a bounded rest is taken and dropped.
        for _ in range(_DISCARDED_LIMITS):
            if len(_read_up_to(stream, limit_bytes)) < limit_bytes:
                break
        raise BodyTooLarge(f"The body is longer than {limit_bytes} bytes.")
    if declared and len(body) != int(declared):
        raise Invalid("The body is shorter than its Content-Length.", code="body_cut_off")
    return body


def _read_up_to(stream: Any, wanted: int) -> bytes:
    pieces: list[bytes] = []
    while wanted > 0:
        piece = stream.read(wanted)
        if not piece:
            break
        pieces.append(piece)
        wanted -= len(piece)
    return b"".join(pieces)


# Answers are JSON about somebody's money: no cache keeps them, no browser guesses what they are,
# and nothing in them is ever run or framed. The proxy in front adds HSTS, for it has the TLS.
_PROTECTIVE = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)
_SERVED = "arrakis.served"


@dataclass(slots=True)
class Served:
    """One request that is being served: its names, and what is known of it by and by.

    ``route`` is the rule that matched, ``touched`` the ids of what the request was about, for its
    log line; ``headers`` go into its answer unless that has them already.
    """

    request_id: str
    correlation_id: str
    began: float
    route: str = "unknown"
    touched: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


def served() -> Served:
    """Return what is known of the request that this thread serves."""
    found: Served = request.environ[_SERVED]
    return found


def observe(app: Flask, service: str, clock: Clock) -> None:
    """Name, count, time, log and trace what *app* serves, and complete its answers."""
    app.wsgi_app = _Observed(app.wsgi_app, service, clock)  # type: ignore[method-assign]
    app.before_request(_note_route)
    if tracing.is_on():
        app.before_request(_trace)
        app.after_request(_note_answer)
        app.teardown_request(_end_trace)


def _note_route() -> None:
    served().route = request.url_rule.rule if request.url_rule else "unknown"


def _trace() -> None:
    caller = request.headers.get("traceparent")
    g.tracing = tracing.serving(served().route, request.method, caller)
    g.span = g.tracing.__enter__()


def _note_answer(response: Response) -> Response:
    tracing.answered(g.span, response.status_code, **served().touched)
    return response


def _end_trace(_error: BaseException | None) -> None:
    if "tracing" in g:
        g.pop("tracing").__exit__(None, None, None)


class _Observed:
    """WSGI middleware: names each request, counts, times and logs it, completes its answer.

    It is not made of the framework's hooks because it is on every request's way: a header that is
    added here costs a tenth of one that is set in a response.
    """

    def __init__(self, app: WsgiApp, service: str, clock: Clock) -> None:
        self._app = app
        self._service = service
        self._clock = clock

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Serve the request; what it did is told once its answer begins."""
        request_id = offered_id(environ.get("HTTP_X_REQUEST_ID")) or new_id(self._clock())
        correlation_id = offered_id(environ.get("HTTP_X_CORRELATION_ID")) or request_id
        known = environ[_SERVED] = Served(request_id, correlation_id, time.perf_counter())
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            service=self._service, request_id=request_id, correlation_id=correlation_id
        )

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            self._tell(known, environ["REQUEST_METHOD"], int(status[:3]))
            return start_response(status, _completed(headers, known), exc_info)

        return self._app(environ, start)

    def _tell(self, known: Served, method: str, status: int) -> None:
        seconds = time.perf_counter() - known.began
        answered, taken = _counters(self._service, known.route, status)
        answered.inc()
        taken.observe(seconds)
        log.info(
            "request_answered",
            method=method,
            route=known.route,
            status=status,
            ms=round(seconds * 1000, 2),
            **known.touched,
        )


@lru_cache(maxsize=1024)
def _counters(service: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(service, route, status), REQUEST_SECONDS.labels(service, route)


def _completed(headers: Headers, known: Served) -> Headers:
    given = {name.lower() for name, _ in headers}
    return [
        *headers,
        ("X-Request-Id", known.request_id),
        ("X-Correlation-Id", known.correlation_id),
        *(pair for pair in (*_PROTECTIVE, *known.headers.items()) if pair[0].lower() not in given),
    ]
