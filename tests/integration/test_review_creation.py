"""Faults that a review found in creating payments, against a provider that answers as told."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy import text

from deploy.local.servers import free_port
from shared.clock import to_wire
from shared.database import Database
from shared.errors import ArrakisError, Invalid, Unavailable
from shared.payments import creation
from shared.payments.providers.nowpayments import NowPayments, OutcomeUnknown, ProviderAway
from tests.harness import Databases, make_account, unique, wait_until

M = 1_000_000
CALLS_AT_ONCE = 4


class Provider(ThreadingHTTPServer):
    """A provider that gives the next of *answers* (raw, if bytes), and then payments.

    It answers nobody before its gate is open, and knows how many were inside at once.
    """

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ProviderHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: list[tuple[int, Any]] = []
        self.orders: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.inside = self.most_inside = 0

    def enter(self, order: dict[str, Any]) -> int:
        """Count an order in and return its number."""
        with self.lock:
            self.orders.append(order)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            return len(self.orders)

    def leave(self) -> None:
        """Count an order out."""
        with self.lock:
            self.inside -= 1


class ProviderHandler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = self.server.enter(order)
        assert self.server.gate.wait(20)
        self.server.leave()
        status, body = 201, created(number)
        if self.server.answers:
            status, body = self.server.answers.pop(0)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if status == 0:  # not even a status line
            self.wfile.write(raw)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw) + 7 * raw.endswith(b"...")))
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: object) -> None:
        pass


def created(number: int, **changes: Any) -> dict[str, Any]:
    answer = {
        "payment_id": str(5_000_000_000 + number),
        "payment_status": "waiting",
        "pay_address": f"bc1q{number}",
        "pay_amount": 0.0004,
        "pay_currency": "btc",
        "expiration_estimate_date": "2030-01-02T03:04:05.678Z",
    }
    return {name: value for name, value in {**answer, **changes}.items() if value is not None}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


class Shop:
    """One account that buys for $25, with a client of the provider."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.account = make_account(database)
        self.client = NowPayments(url=url, api_key="key")

    def buy(self, key: str, client: NowPayments | None = None) -> dict[str, Any]:
        """Create a payment."""
        return creation.create_payment(
            self.database,
            client or self.client,
            account_id=self.account,
            amount_micro=25 * M,
            pay_currency="btc",
            ceiling_micro=100 * M,
            idempotency_key=key,
        )[0]

    def refusal(self, key: str, client: NowPayments | None = None) -> ArrakisError:
        """Ask for a payment that must not be made; return why."""
        with pytest.raises(ArrakisError) as refused:
            self.buy(key, client)
        return refused.value

    def payments(self) -> list[tuple[Any, ...]]:
        """Return status and key of every payment, in the order of their making."""
        statement = text("SELECT status, idempotency_key FROM crypto_payments ORDER BY id")
        with self.database.reading() as tx:
            return [tuple(row) for row in tx.all(statement)]


@pytest.fixture
def shop(database: Database, provider: Provider) -> Shop:
    return Shop(database, provider.url)


def test_four_callers_with_one_key_make_one_payment_and_one_call(
    shop: Shop, provider: Provider
) -> None:
    keys = [f"key-{number:02}" for number in range(60)]
    start = threading.Barrier(4)

    def ask(_caller: int) -> list[dict[str, Any]]:
        told = []
        for key in keys:
            start.wait()
            try:
                told.append(shop.buy(key))
            except OutcomeUnknown as unknown:  # another caller's answer is not there yet
                told.append(dict(unknown.details))
        return told

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(ask, range(4)))
    assert shop.payments() == [("waiting", key) for key in keys]
    assert len({order["order_id"] for order in provider.orders}) == len(provider.orders) == 60
    for answers in zip(*told, strict=True):
        assert len({answer["paymentId"] for answer in answers}) == 1
        assert [a["status"] for a in answers if "status" in a].count("waiting") >= 1


def test_a_provider_that_takes_no_payments_now_takes_the_same_key_later(
    shop: Shop, provider: Provider
) -> None:
    provider.answers = [(status, {"message": "not now"}) for status in (401, 403, 429)]
    for _ in range(3):
        refused = shop.refusal("key")
        assert isinstance(refused, ProviderAway)
        assert refused.code == "provider_unavailable"
    made = shop.buy("key")
    assert (made["status"], made["payAddress"]) == ("waiting", "bc1q4")
    assert shop.buy("key") == made
    assert [order["order_id"] for order in provider.orders] == [made["paymentId"]] * 4
    assert shop.payments() == [("waiting", "key")]


def test_a_provider_that_cannot_be_reached_takes_the_same_key_later(
    shop: Shop, provider: Provider
) -> None:
    away = NowPayments(url=f"http://127.0.0.1:{free_port()}", api_key="key")
    nameless = NowPayments(url="http://provider.invalid", api_key="key")
    for client in (away, nameless, NowPayments(url=provider.url, api_key="")):
        assert isinstance(shop.refusal("key", client), ProviderAway)
    assert shop.buy("key")["status"] == "waiting"
    assert len(provider.orders) == 1
    assert shop.payments() == [("waiting", "key")]


REFUSALS: list[tuple[Any, str]] = [
    ({"message": "amount is too small"}, "amount is too small"),
    ({"message": "a\u0000b\ud800c"}, "abc"),
    ({"message": "x" * 5_000}, "x" * 200),
    (b"<html>", "status 400"),
    (b"[" * 100_000, "status 400"),
    ([], "status 400"),
]


def test_a_refused_payment_is_refused_again_without_asking_again(
    shop: Shop, provider: Provider
) -> None:
    for number, (body, said) in enumerate(REFUSALS):
        provider.answers = [(400, body)]
        for _ in range(2):
            refused = shop.refusal(f"key-{number}")
            assert isinstance(refused, Invalid)
            assert refused.code == "payment_refused"
            assert refused.message == f"The provider refused the payment: {said}"
    assert len(provider.orders) == len(REFUSALS)
    assert {status for status, _ in shop.payments()} == {"failed"}
    assert shop.buy("another")["status"] == "waiting"


def test_a_payment_is_not_lost_for_an_odd_time_of_expiry(shop: Shop, provider: Provider) -> None:
    odd = ["", "soon", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00", "2030-13-45", 5]
    for number, moment in enumerate(odd):
        provider.answers = [(201, created(number, expiration_estimate_date=moment))]
        made = shop.buy(f"key-{number}")
        assert (made["status"], made["payAddress"]) == ("waiting", f"bc1q{number}")
        assert shop.buy(f"key-{number}") == made
        begins, ends = (datetime.fromisoformat(made[name]) for name in ("createdAt", "expiresAt"))
        assert timedelta(days=7) <= ends - begins < timedelta(days=7, minutes=1)


def test_an_answer_with_odd_extra_fields_is_kept_as_it_came(shop: Shop, provider: Provider) -> None:
    odd = created(1, payment_id=5_000_000_001, note="\u0000\ud800", pay_amount="1E-18")
    provider.answers = [(201, odd)]
    made = shop.buy("key")
    assert (made["providerPaymentId"], made["payAmount"]) == ("5000000001", f"{0:.17f}1")
    assert made["expiresAt"] == to_wire(datetime.fromisoformat("2030-01-02T03:04:05.678Z"))


ODD: dict[str, tuple[int, Any]] = {
    "NUL in the address": (201, created(1, pay_address="bc1\u0000q")),
    "half a character": (201, created(1, pay_address="bc1\ud800q")),
    "no id": (201, created(1, payment_id=None)),
    "no number": (201, created(1, payment_id="-5")),
    "a long id": (201, created(1, payment_id="5" * 21)),
    "no amount": (201, created(1, pay_amount=float("nan"))),
    "a vast amount": (201, created(1, pay_amount="1e99")),
    "HTML": (201, b"<html><body>Welcome!</body></html>"),
    "nothing": (201, b""),
    "a list": (201, []),
    "too deep": (201, b"[" * 100_000),
    "truncated": (201, json.dumps(created(1)).encode()[:60] + b"..."),
    "no HTTP": (0, b"what?"),
    "hung up": (0, b""),
    "moved": (302, b""),
    "not created": (200, created(1)),
    "a server's fault": (500, {"message": "oh"}),
    "a gateway's fault": (502, b"<html>"),
}


def test_an_odd_answer_leaves_the_outcome_unknown_and_is_not_asked_for_again(
    shop: Shop, provider: Provider
) -> None:
    for name, odd in ODD.items():
        provider.answers = [odd]
        for _ in range(2):
            unknown = shop.refusal(name)
            assert isinstance(unknown, OutcomeUnknown), name
            assert unknown.code == "payment_outcome_unknown"
            assert unknown.details == {"paymentId": provider.orders[-1]["order_id"]}
    assert len(provider.orders) == len(ODD)
    assert shop.payments() == [("creating", name) for name in ODD]


def test_an_answer_with_the_id_of_another_payment_changes_neither(
    shop: Shop, provider: Provider
) -> None:
    provider.answers = [(201, created(1)), (201, created(1, pay_address="bc1-other"))]
    made = shop.buy("first")
    for _ in range(2):
        assert isinstance(shop.refusal("second"), OutcomeUnknown)
    assert shop.buy("first") == made
    assert len(provider.orders) == 2
    assert shop.payments() == [("waiting", "first"), ("creating", "second")]


def test_a_slow_provider_holds_four_callers_and_tells_the_rest_to_come_again(
    databases: Databases, provider: Provider
) -> None:
    database = Database(databases.make("postgresql"), pool_size=2)
    shop = Shop(database, provider.url)
    keys = [unique("key") for _ in range(9)]
    provider.gate.clear()
    with ThreadPoolExecutor(len(keys)) as threads:
        asked = {key: threads.submit(shop.buy, key) for key in keys}
        wait_until("full slots", lambda: provider.inside == CALLS_AT_ONCE)
        refused = wait_until(
            "the rest",
            lambda: (found := [k for k in keys if asked[k].done()]) and len(found) == 5 and found,
        )
        provider.gate.set()
        held = [asked[key].result() for key in keys if key not in refused]
    assert [payment["status"] for payment in held] == ["waiting"] * CALLS_AT_ONCE
    for key in refused:
        error = asked[key].exception()
        assert isinstance(error, ProviderAway)
        assert isinstance(error, Unavailable)
        assert shop.buy(key)["status"] == "waiting"
    assert (provider.most_inside, len(provider.orders)) == (CALLS_AT_ONCE, len(keys))
    assert [status for status, key in shop.payments() if key] == ["waiting"] * len(keys)
    database.dispose()
