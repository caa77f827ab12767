"""HTTP: the API and the receiver against servers that check the same token or signature only."""

import hashlib
import hmac
import itertools
import json
import os
import selectors
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jwt
import requests

from bench.measuring import give_up
from deploy.local.serving import granian_command
from deploy.local.sockets import free_port

CONNECTIONS = 64
_SECRETS = {
    "BILLING_INTERNAL_JWT_SECRET": "bench-internal-" + "s" * 32,
    "BILLING_ADMIN_JWT_SECRET": "bench-admin-" + "s" * 32,
    "BILLING_MEMBER_JWT_SECRET": "bench-member-" + "s" * 32,
    "NOWPAYMENTS_IPN_SECRET": "bench-ipn-" + "s" * 32,
}
_RESERVE, _FINALIZE = "/api/internal/reserve", "/api/internal/finalize"
_NOTICES = "/api/billing/webhooks/nowpayments"
_PATIENCE_SECONDS = 30
_TENANTS = 4_000  # a token each, as many services' tenants have; none reaches its limit


Talker = Callable[[bytes | None], bytes]


@dataclass
class Answers:
    """What came back: the seconds that each answer took, and how many came in a second."""

    seconds: list[float] = field(default_factory=list)
    rate: float = 0.0


@dataclass(frozen=True)
class Server:
    """A server of ours that runs."""

    port: int
    pid: int


class Talk:
    """One kept-alive connection that sends its next request when the last one is answered.

    *next_request* is given the last body, or None at first, and returns the bytes to send.
    """

    def __init__(self, port: int, next_request: Talker) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._next_request = next_request
        self._read = b""
        self.began = 0.0

    def send(self, last: bytes | None = None) -> None:
        """Send the next request."""
        self.began = time.perf_counter()
        self.socket.sendall(self._next_request(last))

    def receive(self) -> bytes | None:
        """Read what is there; return the body once an answer is complete."""
        part = self.socket.recv(65_536)
        if not part:
            give_up("the server closed a connection")
        self._read += part
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return None
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(body) < length:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            give_up(f"an answer was {head[:40]!r}: {body[:200]!r}")
        self._read = b""
        return body


def load(port: int, talkers: list[Talker], seconds: float) -> Answers:
    """Keep a connection for each of *talkers* busy for *seconds*, all from one thread.

    It lasts until there is an answer for each of them, however slow the machine is.
    """
    talks = [Talk(port, talker) for talker in talkers]
    found, began = Answers(), time.perf_counter()
    with selectors.DefaultSelector() as ready:
        for talk in talks:
            ready.register(talk.socket, selectors.EVENT_READ, talk)
            talk.send()
        while time.perf_counter() < began + seconds or len(found.seconds) < len(talks):
            for talk, body in answered(ready):
                found.seconds.append(time.perf_counter() - talk.began)
                talk.send(body)
    found.rate = len(found.seconds) / (time.perf_counter() - began)
    for talk in talks:
        talk.socket.close()
    return found


def answered(
    ready: selectors.BaseSelector, wait_seconds: float | None = None
) -> Iterator[tuple[Talk, bytes]]:
    """Yield the connections that have their answer; none if none came in *wait_seconds*.

    Without *wait_seconds* an answer must come.
    """
    events = ready.select(timeout=_PATIENCE_SECONDS if wait_seconds is None else wait_seconds)
    if not events and wait_seconds is None:
        give_up(f"no answer in {_PATIENCE_SECONDS} s")
    for key, _ in events:
        body = key.data.receive()
        if body is not None:
            yield key.data, body


@contextmanager
def serving(app: str, health: str, environment: dict[str, str], log: Path) -> Iterator[Server]:
    """Serve *app* as the local stack does, but with a thread for each of the connections."""
    port = free_port()
    counted = log.with_suffix(".metrics")
    counted.mkdir()
    command = granian_command(app, port, threads=CONNECTIONS)
    with log.open("wb") as out:
        values = _SECRETS | environment | {"PROMETHEUS_MULTIPROC_DIR": str(counted)}
        running = subprocess.Popen(command, env=os.environ | values, stdout=out, stderr=out)
    try:
        _wait(port, health, running, log)
        yield Server(port, running.pid)
    finally:
        running.terminate()
        running.wait(20)


def _wait(port: int, health: str, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(400):
        try:
            if requests.get(f"http://127.0.0.1:{port}{health}", timeout=1).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    running.kill()
    give_up(f"{health} does not answer:\n{log.read_text()}")


def _post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ledger_talkers(accounts: list[str]) -> list[Talker]:
    """Return callers that reserve and finalize in turn, each with many tenants' tokens."""
    now = int(time.time())
    tokens = itertools.cycle(
        jwt.encode(
            {
                "iss": "loa-finn",
                "aud": "arrakis-internal",
                "sub": f"tenant-{place}",
                "iat": now - 5,
                "exp": now + 290,
            },
            _SECRETS["BILLING_INTERNAL_JWT_SECRET"],
            algorithm="HS256",
        )
        for place in range(_TENANTS)
    )
    payers = itertools.cycle(accounts)

    def talker() -> Talker:
        is_finalize = True

        def following(last: bytes | None) -> bytes:
            nonlocal is_finalize
            is_finalize = not is_finalize
            body: dict[str, str] = {"accountId": next(payers), "estimatedCostMicro": "10"}
            if is_finalize and last is not None:
                body = {
                    "reservationId": json.loads(last)["reservationId"],
                    "actualCostMicro": "7",
                }
            path = _FINALIZE if is_finalize else _RESERVE
            text = json.dumps(body).encode()
            return _post(path, text, f"Authorization: Bearer {next(tokens)}")

        return following

    return [talker() for _ in range(CONNECTIONS)]


def notice_talkers(numbers: Iterator[int]) -> list[Talker]:
    """Return senders of signed notices, each about another payment."""
    secret = _SECRETS["NOWPAYMENTS_IPN_SECRET"].encode()

    def following(_last: bytes | None) -> bytes:
        notice = {"payment_id": next(numbers), "payment_status": "waiting", "actually_paid": 0}
        body = json.dumps(notice, sort_keys=True, separators=(",", ":")).encode()
        signature = hmac.new(secret, body, hashlib.sha512).hexdigest()
        return _post(_NOTICES, body, f"x-nowpayments-sig: {signature}")

    return [following] * CONNECTIONS


def percentile_ms(seconds: list[float], percent: int) -> float:
    """Return a percentile of *seconds*, in milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=100)[percent - 1]
