"""What HTTP services have in common: a request's body, name and sender, and an answer's headers."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from werkzeug.datastructures import Headers

from shared.errors import Invalid

_DISCARDED_LIMITS = 16
_OFFERED_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_Networks = Sequence[IPv4Network | IPv6Network]


class BodyTooLarge(Invalid):
    """The body is longer than the route accepts."""

    code = "body_too_large"


def offered_id(header: str | None) -> str | None:
    """Return the id that a caller gave in *header*, None if it gave none that can be logged."""
    return header if header and _OFFERED_ID.fullmatch(header) else None


class TrustedProxies:
    """WSGI middleware: REMOTE_ADDR becomes the caller's address, if a proxy of ours names it."""

    def __init__(self, app: Callable[..., Iterable[bytes]], proxies: _Networks) -> None:
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
_PROTECTIVE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def protect(headers: Headers) -> None:
    """Add the protective headers to those of an answer that does not set them itself."""
    for name, value in _PROTECTIVE.items():
        headers.setdefault(name, value)
