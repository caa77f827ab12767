"""One HTTP exchange that ends: a server may be slow, endless or rude, the thread gets free in time.

*requests* bounds the wait for each byte, so a server that sends one every few seconds holds its
caller for as long as it likes. Here the answer as a whole, status line to last byte, has its time.
Every exchange has a connection of its own: one from a pool may be closed at the other end already,
and then nobody could say whether a request was seen.
"""

import io
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

BODY_BYTES_MAX = 256 * 1024


class NeverSent(Exception):
    """No connection was made: the server knows nothing of the request."""


class NoWholeAnswer(Exception):
    """The request may have arrived, but what came back is broken, too late or too long."""


@dataclass(frozen=True)
class Answer:
    """What a server answered: any status, and the whole body as it came."""

    status: int
    body: bytes
    retry_after_seconds: int | None = None


def exchange(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    params: Mapping[str, str] | None = None,
    body: bytes | None = None,
    connect_seconds: float,
    answer_seconds: float,
) -> Answer:
    """Send one request and return the answer to it, whatever its status; follow no redirect.

    *connect_seconds* is for each address of the host, *answer_seconds* for the whole answer.
    Raises NeverSent or NoWholeAnswer.
    """
    session = requests.Session()
    request = requests.Request(
        method,
        url,
        # A compressed body could grow without end.
        headers={**headers, "Accept-Encoding": "identity"},
        params=params,
        data=body,
        auth=_keep_headers,
    )
    try:
        prepared = session.prepare_request(request)
        # Proxies and certificate authorities of the environment.
        settings = session.merge_environment_settings(
            prepared.url, proxies={}, stream=True, verify=None, cert=None
        )
    except requests.RequestException as error:
        raise NeverSent("The request cannot be built.") from error
    failures = (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        UnicodeError,
    )
    # Not session.send: it reads the body of a redirect to its end, and parses where it leads to.
    with closing(_Adapter()) as adapter:
        try:
            response = adapter.send(
                prepared,
                stream=True,
                timeout=(connect_seconds, answer_seconds),
                verify=settings["verify"] or True,
                proxies=settings["proxies"],
            )
            with response:
                return Answer(response.status_code, _body_of(response), _retry_after(response))
        except failures as error:
            if _was_never_sent(error):
                raise NeverSent("The server cannot be reached.") from error
            raise NoWholeAnswer("The server did not answer, or broke off.") from error


def _keep_headers(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stand in for authentication: else a line in ~/.netrc would replace our Authorization."""
    return request


def _body_of(response: requests.Response) -> bytes:
    body = b""
    while piece := response.raw.read(BODY_BYTES_MAX + 1 - len(body), decode_content=False):
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise NoWholeAnswer("The server's answer is too long.")
    return body


def _retry_after(response: requests.Response) -> int | None:
    text = response.headers.get("Retry-After", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None  # noqa: PLR2004  a day is 86400


def _was_never_sent(error: Exception) -> bool:
    """Tell whether *error* came before the request left. When in doubt it has left."""
    # A header that cannot be encoded is found out after connecting, but before anything is sent.
    if isinstance(error, (requests.ConnectTimeout, requests.exceptions.InvalidURL, UnicodeError)):
        return True
    cause = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(cause, urllib3.exceptions.ProxyError):
        cause = cause.original_error
    if isinstance(cause, urllib3.exceptions.SSLError):
        return isinstance(cause.args[0], ssl.SSLCertVerificationError)
    return isinstance(cause, urllib3.exceptions.NewConnectionError)


class _BytesUntil(io.RawIOBase):
    """The bytes of a socket, until a deadline."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self._socket = connected
        self._bytes = connected.makefile("rb", buffering=0)
        self._ends_at = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        seconds_left = self._ends_at - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(seconds_left)
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class BoundedResponse(HTTPResponse):
    """An answer that is read, from its first byte to its last, within the socket's time-out."""

    def __init__(self, connected: socket.socket, *arguments: Any, **options: Any) -> None:
        super().__init__(connected, *arguments, **options)
        seconds = connected.gettimeout()
        assert seconds is not None, "every exchange has a time-out"
        self.fp.close()
        self.fp = io.BufferedReader(_BytesUntil(connected, seconds))


class _Connection(HTTPConnection):
    response_class = BoundedResponse


class _SecureConnection(HTTPSConnection):
    response_class = BoundedResponse


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


_POOLS = {"http": _Pool, "https": _SecurePool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager
