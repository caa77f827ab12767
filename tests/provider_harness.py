"""What the simulator's tests stand on: the simulator as a process, and a receiver of notices."""

import hashlib
import hmac
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.x402_harness import X402

API_KEY = "simulator-test-api-key"
IPN_SECRET = "simulator-test-ipn-secret-0123456789"
ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 8.0
ORDER = {"price_amount": 25, "price_currency": "usd", "pay_currency": "btc"}
PAID = ["confirming", "confirmed", "sending", "finished"]
HAPPY = ["waiting", *PAID]
LATE = ["confirming", "finished", "confirmed", "waiting", "sending", "finished"]
HALF = ["waiting", "confirming", "confirmed", "partially_paid"]


def exact(text: str | bytes) -> Any:
    return json.loads(text, parse_float=Decimal)


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, "it did not become true in time"
        time.sleep(0.01)


class Arrival:
    """One request that reached the receiver, its signature and its key order checked."""

    def __init__(self, path: str, headers: Any, raw: bytes) -> None:
        expected = hmac.new(IPN_SECRET.encode(), raw, hashlib.sha512).hexdigest()
        self.is_signed = headers["x-nowpayments-sig"] == expected
        self.path, self.headers, self.raw, self.notice = path, headers, raw, exact(raw)
        self.status = self.notice["payment_status"]


class Receiver(ThreadingHTTPServer):
    """A webhook receiver that answers the next of *statuses* (0: far too late), then 200."""

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ReceiverHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.arrivals: list[Arrival] = []
        self.statuses: list[int] = []
        self.released = threading.Event()

    def about(self, payment_id: int) -> list[Arrival]:
        return [one for one in self.arrivals if one.notice["payment_id"] == payment_id]

    def statuses_of(self, payment_id: int) -> list[str]:
        return [one.status for one in self.about(payment_id)]


class ReceiverHandler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrivals.append(Arrival(self.path, self.headers, raw))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 0:
            self.server.released.wait(DEADLINE_SECONDS)
            return
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b'{"received":true}')

    def log_message(self, *args: object) -> None:
        pass


class Simulator:
    """A running simulator process and a client of it."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "deploy.simulator", "--port", "0", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **pipes)
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["x-api-key"] = API_KEY
        is_readable, _, _ = select.select([self.process.stdout], [], [], DEADLINE_SECONDS)
        line = self.process.stdout.readline() if is_readable else ""
        if not line.startswith("Simulator ready: provider http://127.0.0.1:"):
            self.stop()
            pytest.fail(f"the simulator did not start: {line}")
        self.url = line.split()[3].removesuffix("/v1,")

    def get(self, path: str, *, timeout: float = DEADLINE_SECONDS, **more: Any) -> Any:
        return self.session.get(self.url + path, timeout=timeout, **more)

    def post(
        self, path: str, body: Any = None, *, timeout: float = DEADLINE_SECONDS, **more: Any
    ) -> Any:
        return self.session.post(self.url + path, json=body, timeout=timeout, **more)

    def create(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("/v1/payment", ORDER | fields)
        assert answer.status_code == 201, answer.text
        return exact(answer.text)

    def new_id(self, **fields: Any) -> int:
        return int(self.create(**fields)["payment_id"])

    def read(self, payment_id: int) -> dict[str, Any]:
        return exact(self.get(f"/v1/payment/{payment_id}").text)

    def count_of_order(self, order_id: str) -> int:
        return len(self.get(f"/sim/payments?order_id={order_id}").json()["payments"])

    def control(self, path: str, **body: Any) -> Any:
        answer = self.post(f"/sim/{path}", body)
        assert answer.status_code in {200, 202}, answer.text
        return exact(answer.text)

    def advance(self, payment_id: int, status: str, **more: Any) -> Any:
        return self.control(f"payments/{payment_id}/advance", status=status, **more)

    def notify(self, payment_id: int, **body: Any) -> Any:
        return self.control(f"payments/{payment_id}/notify", **body)

    def play(self, payment_id: int, name: str, *, wait: bool = True) -> Any:
        return self.control(f"payments/{payment_id}/scenario", name=name, wait=wait)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.session.close()
        with self.process:  # closes the pipe and waits, also after the kill
            self.process.send_signal(number)
            try:
                return self.process.wait(timeout=3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise


@pytest.fixture(scope="session")
def one_receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def one_simulator(one_receiver: Receiver) -> Iterator[Simulator]:
    secrets = ("--api-key", API_KEY, "--ipn-secret", IPN_SECRET)
    patience = ("--retries", "2", "--retry-seconds", "0.02", "--answer-seconds", "1")
    running = Simulator(*secrets, *patience, "--ipn-url", f"{one_receiver.url}/hook")
    yield running
    assert running.stop() == 0


@pytest.fixture
def receiver(one_receiver: Receiver) -> Iterator[Receiver]:
    one_receiver.arrivals.clear()
    one_receiver.statuses.clear()
    one_receiver.released.clear()
    yield one_receiver
    one_receiver.released.set()


@pytest.fixture
def simulator(one_simulator: Simulator, receiver: Receiver) -> Iterator[Simulator]:
    yield one_simulator
    for path in ("faults", "facilitator/faults", "rpc/faults"):
        one_simulator.control(path, mode="none")


@pytest.fixture
def x402(simulator: Simulator) -> Iterator[X402]:
    """The facilitator and the chain, begun anew as Base, with the clock right."""
    made = X402(simulator)
    yield made
    made.reset()
