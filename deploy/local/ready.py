"""Checks that a server answers. A check returns None when it does, else the reason in words."""

import http.client
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg

Check = Callable[[], str | None]

POLL_SECONDS = 0.03
ANSWER_SECONDS = 2.0


def http_ready(url: str) -> Check:
    """GET *url* is answered with 200."""
    parts = urlsplit(url)

    def check() -> str | None:
        client = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port, timeout=ANSWER_SECONDS
        )
        try:
            client.request("GET", parts.path or "/")
            response = client.getresponse()
            body = response.read(300).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"GET {url}: {error}"
        finally:
            client.close()
        return (
            None
            if response.status == http.HTTPStatus.OK
            else f"GET {url}: {response.status} {body}"
        )

    return check


def tcp_ready(port: int) -> Check:
    """Something accepts connections on 127.0.0.1:*port*."""

    def check() -> str | None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            return f"127.0.0.1:{port}: {error}"
        return None

    return check


def redis_ready(port: int) -> Check:
    """A PING is answered with PONG: a Redis that still reads its file answers LOADING."""

    def check() -> str | None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as client:
                client.sendall(b"PING\r\n")
                answer = client.recv(64)
        except OSError as error:
            return f"PING to 127.0.0.1:{port}: {error}"
        return None if answer.startswith(b"+PONG") else f"PING to 127.0.0.1:{port}: {answer!r}"

    return check


def postgres_ready(*, host: str, port: int, database: str) -> Check:
    """A connection to *database* is accepted."""

    def check() -> str | None:
        try:
            psycopg.connect(
                host=host, port=port, dbname=database, user="postgres", connect_timeout=2
            ).close()
        except psycopg.Error as error:
            return f"connection to PostgreSQL in {host}: {error}"
        return None

    return check


def wait_until(check: Check, *, timeout_seconds: float) -> str | None:
    """Poll *check* until it passes or the time is up; return its last answer."""
    deadline = time.monotonic() + timeout_seconds
    while (reason := check()) is not None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return reason
