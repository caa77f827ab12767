"""One POST of a webhook: to a checked address, bounded in time and size, following nothing."""

import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from typing import Any

from certifi import where
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from shared.errors import ArrakisError
from shared.notifications.addresses import check_url, resolve
from shared.payments.providers.exchange import BoundedResponse

RESPONSE_BYTES_MAX = 1024
_ADDRESSES_MAX = 3


class NoAnswer(Exception):
    """Nothing can be said of what became of the message, so it is sent again."""


@dataclass(frozen=True)
class Patience:
    """How long one try may take, in seconds: to connect (each address), and for the answer."""

    connect_seconds: float = 3.05
    answer_seconds: float = 10.0


@dataclass(frozen=True)
class Reply:
    """What the endpoint answered; ``text`` is the beginning of the body."""

    status: int
    text: str


def post(
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    allow_private: bool,
    patience: Patience,
) -> Reply:
    """Send *body* to *url* and return the answer, whatever its status. Raises NoAnswer.

    Proxies of the environment are not used: a proxy would resolve the name again.
    """
    try:
        target = check_url(url, allow_private=allow_private)
        addresses = resolve(target, allow_private=allow_private)
    except ArrakisError as error:
        raise NoAnswer(error.message) from error
    options: dict[str, Any] = {"port": target.port, "timeout": patience.connect_seconds}
    connection: _Connection | _SecureConnection
    if target.scheme == "https":
        connection = _SecureConnection(target.host, ssl_context=_trust(), **options)
    else:
        connection = _Connection(target.host, **options)
    connection.addresses = addresses[:_ADDRESSES_MAX]
    with closing(connection):
        try:
            connection.connect()
            connection.timeout = patience.answer_seconds
            assert connection.sock is not None
            connection.sock.settimeout(patience.answer_seconds)
            connection.request(
                "POST",
                target.path,
                body=body,
                headers={**headers, "Accept-Encoding": "identity"},
                preload_content=False,
                decode_content=False,
            )
            response = connection.getresponse()
        except (OSError, HTTPError, HTTPException) as error:
            raise NoAnswer(f"No answer: {type(error).__name__}.") from error
        return Reply(response.status, _beginning(response))


def _beginning(response: Any) -> str:
    """Return what can be read of the answer's text. The status has been told by then."""
    try:
        text: bytes = response.read(RESPONSE_BYTES_MAX)
    except (OSError, HTTPError, HTTPException):
        return ""
    # NUL cannot be stored, and what cannot be shown helps nobody.
    return "".join(c for c in text.decode(errors="replace") if c.isprintable() or c == "\n")


@cache
def _trust() -> ssl.SSLContext:
    """Trust the system's authorities (SSL_CERT_FILE is heeded) and those that come with us."""
    context = ssl.create_default_context()
    context.load_verify_locations(where())
    return context


def _connect(addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
    """Connect to the first of *addresses* that lets us."""
    failure: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), seconds)
        except OSError as error:
            failure = error
    raise failure or OSError("there is no address")


class _Connection(HTTPConnection):
    response_class = BoundedResponse
    addresses: Sequence[str] = ()

    def _new_conn(self) -> socket.socket:
        assert isinstance(self.timeout, float)
        return _connect(self.addresses, self.port, self.timeout)


class _SecureConnection(HTTPSConnection):
    response_class = BoundedResponse
    addresses: Sequence[str] = ()

    def _new_conn(self) -> socket.socket:
        assert isinstance(self.timeout, float)
        return _connect(self.addresses, self.port, self.timeout)
