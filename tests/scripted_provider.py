"""A provider on a real socket that answers as a test tells it, down to the single byte."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from shared.payments.providers.calls import Limits
from shared.payments.providers.nowpayments import NowPayments

API_KEY = "an-api-key-of-the-tests"
QUICK = Limits(connect_seconds=1.0, answer_seconds=0.5, total_seconds=5.0)


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        return json.loads(self.body)


Reply = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the script."""

    server: "ScriptedProvider"

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(parse_qsl(address.query))
        self.request_seen = Request(self.command, address.path, query, self.headers, body)
        reply = self.server.next_reply(self.request_seen)
        try:
            reply(self)
        except OSError:  # the client has had enough
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class ScriptedProvider(ThreadingHTTPServer):
    """Gives the next of *replies*; when there are none, what *usual* makes of the request."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, usual: Callable[[Request], Reply], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.usual = usual
        self.replies: list[Reply] = []
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()

    def next_reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            return self.replies.pop(0) if self.replies else self.usual(request)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@contextmanager
def scripted(usual: Callable[[Request], Reply], port: int = 0) -> Iterator[ScriptedProvider]:
    with ScriptedProvider(usual, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


def answer(status: int, body: Any = b"", **headers: str) -> Reply:
    """Answer with *body*, as JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(raw))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(raw)

    return reply


def hang(handler: Handler) -> None:
    """Say nothing."""
    handler.server.stopping.wait(10)


def hang_up(handler: Handler) -> None:
    """Close the connection without a word."""


def drip(text: bytes) -> Reply:
    """Send *text* and then spaces for ever, a byte at a time: no single wait is long."""

    def reply(handler: Handler) -> None:
        for byte in text + b" " * 10_000:
            handler.wfile.write(bytes([byte]))
            if handler.server.stopping.wait(0.02):
                return

    return reply


DRIPS = {
    "the status line": drip(b""),
    "the headers": drip(b"HTTP/1.1 200 OK\r\nX-Header: "),
    "the body": drip(b'HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{"message":"OK"'),
}


def created(request: Request, number: int, **changes: Any) -> dict[str, Any]:
    """Return the answer to a creation."""
    return {
        "payment_id": str(5_000_000_000 + number),
        "payment_status": "waiting",
        "pay_address": f"bc1q{number}",
        "price_amount": request.fields["price_amount"],
        "price_currency": "usd",
        "pay_amount": 0.00039063,
        "pay_currency": "btc",
        "order_id": request.fields["order_id"],
        "expiration_estimate_date": "2030-01-02T03:04:05.678Z",
        **changes,
    }


def shown(number: int, **changes: Any) -> dict[str, Any]:
    """Return a payment as the provider shows it."""
    return {
        "payment_id": number,
        "invoice_id": None,
        "payment_status": "waiting",
        "pay_address": "bc1q",
        "price_amount": 25,
        "price_currency": "usd",
        "pay_amount": 0.00039063,
        "actually_paid": 0,
        "pay_currency": "btc",
        "order_id": "cp_1",
        "purchase_id": 77,
        "outcome_amount": "24.875",
        "outcome_currency": "usdttrc20",
        "created_at": "2026-11-22T10:00:00.000Z",
        "updated_at": 1765249461097,
        **changes,
    }


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Client:
    """A client of *url* with a clock and pauses that take no time but are noted."""

    def __init__(self, url: str, **more: Any) -> None:
        self.clock = Clock()
        self.pauses: list[float] = []
        settings = {"api_key": API_KEY, "sleep": self.pauses.append} | more
        self.nowpayments = NowPayments(url=url, clock=self.clock, **settings)

    def create(self, order_id: str = "cp_1", amount_micro: int = 25_000_000) -> Any:
        return self.nowpayments.create_payment(
            order_id=order_id, amount_micro=amount_micro, pay_currency="btc", description="Credits"
        )


@contextmanager
def takes_at_most(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds
