"""The provider simulator, as a real process: its API, its notices, its scenarios and its faults."""

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

API_KEY = "simulator-test-api-key"
IPN_SECRET = "simulator-test-ipn-secret-0123456789"
ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture(scope="module")
def one_receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
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
    one_simulator.control("faults", mode="none")


def test_the_status_is_open_and_every_other_call_needs_the_key(simulator):
    wrong = {"x-api-key": "wrong"}
    assert simulator.get("/v1/status", headers=wrong).text == '{"message":"OK"}'
    for path in ("currencies", "payment/5000000000", "estimate"):
        refused = simulator.get(f"/v1/{path}", headers=wrong)
        assert refused.status_code == 403
        assert refused.text == (
            '{"status":false,"statusCode":403,"code":"INVALID_API_KEY","message":"Invalid api key"}'
        )
    assert simulator.post("/v1/payment", ORDER, headers=wrong).status_code == 403


def test_a_payment_is_created_and_read_in_the_documented_shapes(simulator):
    created = simulator.create(order_id="order-1", order_description="Credits", is_fixed_rate=True)
    assert created["payment_id"].isdecimal()
    assert created["purchase_id"].isdecimal()
    assert created["created_at"].endswith("Z")
    assert created["created_at"] < created["expiration_estimate_date"] == created["valid_until"]
    assert (created["payment_status"], created["pay_amount"]) == ("waiting", Decimal("0.00039063"))
    assert {"ipn_callback_url", "amount_received", "network", "smart_contract"} <= set(created)
    read = simulator.read(int(created["payment_id"]))
    assert read["payment_id"] == int(created["payment_id"])
    same = ("payment_status", "pay_address", "price_amount", "pay_amount", "order_id", "created_at")
    assert [read[name] for name in same] == [created[name] for name in same]
    assert (read["actually_paid"], read["parent_payment_id"]) == (0, None)
    assert (read["outcome_amount"], read["outcome_currency"]) == (Decimal("24.875"), "usdttrc20")


def test_creating_twice_makes_two_payments(simulator):
    assert simulator.new_id(order_id="same") != simulator.new_id(order_id="same")
    assert simulator.count_of_order("same") == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"price_amount": None}, "price_amount is required"),
        ({"price_amount": "25"}, "price_amount must be a positive number"),
        ({"price_amount": True}, "price_amount must be a positive number"),
        ({"price_amount": -1}, "price_amount must be a positive number"),
        ({"price_currency": "xyz"}, "Currency XYZ was not found"),
        ({"pay_currency": "usd"}, "Currency USD was not found"),
        ({"pay_currency": None}, "pay_currency is required"),
        ({"order_id": 7}, "order_id must be a string"),
        ({"is_fixed_rate": 1}, "is_fixed_rate must be a boolean"),
        ({"price_amount": 0.5}, "Crypto amount 0.00000782 is less than minimal"),
        ({"price_amount": 0.01}, "Crypto amount 1.6e-7 is less than minimal"),
    ],
)
def test_a_bad_order_is_refused_in_the_words_of_the_provider(simulator, fields, message):
    answer = simulator.post("/v1/payment", ORDER | fields)
    code = "AMOUNT_MINIMAL_ERROR" if "minimal" in message else "BAD_REQUEST"
    expected = {"status": False, "statusCode": 400, "code": code, "message": message}
    assert (answer.status_code, answer.json()) == (400, expected)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"price_amount":NaN}', b"[" * 20000])
def test_a_body_that_is_no_json_object_is_a_bad_request(simulator, body):
    answer = simulator.post("/v1/payment", data=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")


def test_reading_an_unknown_payment_is_404_and_a_word_is_400(simulator):
    unknown, word = simulator.get("/v1/payment/12345"), simulator.get("/v1/payment/status")
    assert (unknown.status_code, unknown.json()["message"]) == (404, "Payment not found")
    assert (word.status_code, word.json()["message"]) == (400, "Payment id must be a number")


def test_the_list_needs_a_token_too_and_comes_in_pages(simulator):
    assert simulator.get("/v1/payment/?limit=1").json()["code"] == "AUTH_REQUIRED"
    login = simulator.post("/v1/auth", {"email": "dev@example.com", "password": "any"})
    bearer = {"Authorization": f"Bearer {login.json()['token']}"}
    ids = [simulator.new_id() for _ in range(3)]

    def page(query: str) -> Any:
        return simulator.get(f"/v1/payment/?{query}", headers=bearer).json()

    newest = page("limit=2&page=0&orderBy=desc")
    assert (len(newest["data"]), newest["limit"], newest["page"]) == (2, 2, 0)
    assert newest["pagesCount"] == (newest["total"] + 1) // 2
    by_id = [one["payment_id"] for one in page("limit=500&sortBy=payment_id&orderBy=asc")["data"]]
    assert by_id == sorted(by_id)
    assert set(ids) <= set(by_id)
    for nothing in ("dateFrom=2999-01-01", "dateTo=2020-01-01", "invoiceId=7"):
        assert page(nothing)["total"] == 0
    for bad in ("limit=0", "limit=501", "page=-1", "sortBy=age", "orderBy=up", "dateFrom=soon"):
        assert page(bad)["statusCode"] == 400


def test_currencies_minimum_and_estimate_have_the_documented_shapes(simulator):
    currencies = simulator.get("/v1/currencies").json()["currencies"]
    assert {"btc", "eth", "ltc", "sol", "doge", "matic", "usdttrc20", "usdc"} <= set(currencies)
    least = simulator.get("/v1/min-amount?currency_from=eth&currency_to=trx&fiat_equivalent=usd")
    expected = (
        '"currency_from":"eth","currency_to":"trx","min_amount":0.0003125,"fiat_equivalent":1'
    )
    assert least.text == f"{{{expected}}}"
    estimate = simulator.get("/v1/estimate?amount=40&currency_from=usd&currency_to=ltc")
    expected = '"currency_from":"usd","amount_from":40,"currency_to":"ltc","estimated_amount":0.5'
    assert estimate.text == f"{{{expected}}}"
    assert simulator.get("/v1/min-amount?currency_from=xyz").status_code == 400
    assert simulator.get("/v1/estimate?amount=-1&currency_from=usd").status_code == 400


def test_a_notice_is_signed_and_spelled_like_a_real_one(simulator, receiver):
    payment_id = simulator.new_id(order_id="ord", order_description='Café ☕ "q" </b>')
    answer = simulator.advance(payment_id, "finished")
    assert answer["deliveries"][0]["body"] == '{"received":true}'
    assert answer["payment"]["payment_status"] == "finished"
    (arrival,) = receiver.about(payment_id)
    assert (arrival.is_signed, arrival.path) == (True, "/hook")
    assert arrival.headers["content-type"] == "application/json"
    assert arrival.headers["user-agent"] == "NOWPayments v1.0"
    notice = arrival.notice
    assert isinstance(notice["updated_at"], int)
    assert arrival.raw.decode() == (
        '{"actually_paid":0.00039063,"actually_paid_at_fiat":0,"fee":{"currency":"usdttrc20",'
        '"depositFee":0,"serviceFee":0.125,"withdrawalFee":0},"invoice_id":null,'
        '"order_description":"Café ☕ \\"q\\" </b>","order_id":"ord","outcome_amount":24.875,'
        '"outcome_currency":"usdttrc20","parent_payment_id":null,'
        f'"pay_address":"{notice["pay_address"]}","pay_amount":0.00039063,"pay_currency":"btc",'
        f'"payin_extra_id":null,"payment_extra_ids":null,"payment_id":{payment_id},'
        '"payment_status":"finished","price_amount":25,"price_currency":"usd",'
        f'"purchase_id":"{notice["purchase_id"]}","updated_at":{notice["updated_at"]}}}'
    )


def test_numbers_are_printed_as_javascript_prints_them(simulator, receiver):
    given = "[10.0,-0.0,0.000002,1e-7,1.20e-7,0.1000000000000000055,1e21,123456789012345678901]"
    printed = "[10,0,0.000002,1e-7,1.2e-7,0.1,1e+21,123456789012345680000]"
    payment_id = simulator.new_id()
    body = f'{{"fee":{{"z":{given},"depositFee":-1.50}},"order_id":"\\ud800"}}'
    assert simulator.post(f"/sim/payments/{payment_id}/notify", data=body).status_code == 200
    (arrival,) = receiver.about(payment_id)
    assert f'"fee":{{"depositFee":-1.5,"z":{printed}}}'.encode() in arrival.raw
    assert b'"order_id":"\\ud800"' in arrival.raw
    assert arrival.is_signed


def test_amounts_given_to_advance_are_used_and_the_outcome_follows(simulator, receiver):
    payment_id = simulator.new_id(pay_currency="usdc", price_amount=100)
    simulator.advance(payment_id, "partially_paid", actually_paid="40.5")
    simulator.advance(payment_id, "finished", actually_paid=110, outcome_amount="99.1")
    amounts = [
        (one.notice["actually_paid"], one.notice["outcome_amount"]) for one in receiver.arrivals
    ]
    assert amounts == [(Decimal("40.5"), Decimal("40.2975")), (110, Decimal("99.1"))]
    assert simulator.advance(payment_id, "refunded", notify=False)["deliveries"] == []
    assert simulator.read(payment_id)["payment_status"] == "refunded"
    assert len(receiver.arrivals) == 2


def test_an_older_notice_is_sent_again_byte_for_byte_without_changing_the_state(
    simulator, receiver
):
    payment_id = simulator.new_id()
    simulator.advance(payment_id, "confirming")
    simulator.advance(payment_id, "finished")
    simulator.notify(payment_id, status="confirming", times=2)
    first, _, *again = receiver.about(payment_id)
    assert [one.raw for one in again] == [first.raw, first.raw]
    assert simulator.read(payment_id)["payment_status"] == "finished"


def test_fields_of_a_notice_can_be_replaced_and_it_is_still_signed(simulator, receiver):
    payment_id = simulator.new_id()
    simulator.notify(payment_id, payment_status="surprising", unheard_of=[1, "x"])
    (arrival,) = receiver.about(payment_id)
    assert (arrival.is_signed, arrival.status) == (True, "surprising")
    assert arrival.notice["unheard_of"] == [1, "x"]


def test_the_callback_address_of_the_payment_is_preferred(simulator, receiver):
    simulator.advance(simulator.new_id(ipn_callback_url=f"{receiver.url}/own?a=1"), "confirming")
    assert [one.path for one in receiver.arrivals] == ["/own?a=1"]


def test_a_callback_address_on_another_machine_is_refused(simulator):
    hosts = ("example.com", "127.0.0.1@example.com", "127.0.0.1.example.com", "10.0.0.1", "")
    tricks = ("127.0.0.1\\@example.com", "example.com\\@127.0.0.1", "localhost:80@example.com")
    for host in hosts + tricks:
        answer = simulator.post("/v1/payment", ORDER | {"ipn_callback_url": f"http://{host}/"})
        assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("answers", "attempts"),
    [
        ([503, 500, 200], [(1, 503), (2, 500), (3, 200)]),
        ([401, 302, 404, 200], [(1, 401), (2, 302), (3, 404)]),
        ([0, 204], [(1, None), (2, 204)]),
    ],
    ids=["accepted at last", "never accepted", "too slow at first"],
)
def test_a_notice_is_sent_until_it_is_accepted_or_the_tries_are_used_up(
    simulator, receiver, answers, attempts
):
    receiver.statuses[:] = answers
    payment_id = simulator.new_id()
    (last,) = simulator.advance(payment_id, "finished")["deliveries"]
    assert (last["attempts"], last["http_status"]) == attempts[-1]
    log = simulator.get(f"/sim/deliveries?payment_id={payment_id}").json()["deliveries"]
    assert [(one["attempt"], one["http_status"]) for one in log] == attempts
    assert [one["sent"].encode() for one in log] == [one.raw for one in receiver.arrivals]
    assert len({one.raw for one in receiver.arrivals}) == 1


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("happy", HAPPY),
        ("finished-twice", [*HAPPY, "finished"]),
        ("out-of-order", LATE),
        ("partial", HALF),
        ("partial-then-finished", HALF + PAID),
        ("repeated-deposit", HAPPY),
        ("wrong-asset", ["waiting"]),
        ("late-after-expired", ["waiting", "expired", *PAID]),
        ("refunded", [*HAPPY, "refunded"]),
        ("failed", ["waiting", "confirming", "failed"]),
        ("expired", ["waiting", "expired"]),
        ("missed", []),
    ],
)
def test_a_scenario_sends_its_notices_and_leaves_its_state(simulator, receiver, name, sent):
    payment_id = simulator.new_id()
    deliveries = simulator.play(payment_id, name)["deliveries"]
    assert receiver.statuses_of(payment_id) == sent
    assert [one["status"] for one in deliveries] == [one.status for one in receiver.arrivals]
    assert {one["http_status"] for one in deliveries} <= {200}
    assert all(one.is_signed for one in receiver.arrivals)
    final = sent[-1] if sent else "finished"
    assert simulator.read(payment_id)["payment_status"] == final
    assert simulator.get("/sim/scenarios").json()[name].endswith(".")


def test_a_repeated_or_late_notice_is_the_old_one(simulator, receiver):
    payment_id = simulator.new_id()
    simulator.play(payment_id, "out-of-order")
    _, first, *_, second = receiver.arrivals
    assert first.raw == second.raw
    by_status = {one.status: one.notice for one in receiver.arrivals}
    times = [by_status[status]["updated_at"] for status in PAID]
    assert times == sorted(set(times))
    assert by_status["waiting"]["actually_paid"] == 0


def test_a_partial_payment_has_an_outcome_in_proportion(simulator, receiver):
    payment_id = simulator.new_id(pay_currency="ltc")
    simulator.play(payment_id, "partial-then-finished")
    outcomes = {one.status: one.notice["outcome_amount"] for one in receiver.arrivals}
    assert (outcomes["partially_paid"], outcomes["finished"]) == (
        Decimal("12.4375"),
        Decimal("24.875"),
    )


@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("repeated-deposit", ("sol", Decimal("0.0625"), Decimal("9.95"))),
        ("wrong-asset", ("ltc", Decimal("0.3125"), Decimal("24.875"))),
    ],
)
def test_another_deposit_is_a_new_payment_with_a_parent(simulator, receiver, name, amounts):
    parent_id = simulator.new_id(pay_currency="sol", order_id=name)
    simulator.play(parent_id, name)
    confirming, child = (one.notice for one in receiver.arrivals[-2:])
    assert (confirming["payment_status"], child["payment_status"]) == ("confirming", "finished")
    assert child["payment_id"] == confirming["payment_id"] != parent_id
    assert (child["pay_currency"], child["actually_paid"], child["outcome_amount"]) == amounts
    assert (child["order_id"], child["price_amount"]) == (name, 25)
    assert simulator.read(child["payment_id"])["parent_payment_id"] == parent_id
    assert child["parent_payment_id"] == parent_id


def test_scenarios_in_the_background_do_not_mix(simulator, receiver):
    ids = [simulator.new_id() for _ in range(20)]
    for payment_id in ids:
        assert simulator.play(payment_id, "happy", wait=False)["started"] is True
    until(lambda: all(receiver.statuses_of(payment_id) == HAPPY for payment_id in ids))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("advance", {"status": "paid"}),
        ("advance", {"status": "finished", "actually_paid": -1}),
        ("advance", {"status": "finished", "notify": "yes"}),
        ("notify", {"times": 0}),
        ("notify", {"status": 3}),
        ("notify", {"price_amount": 10**400}),
        ("scenario", {"name": "unheard-of"}),
        ("scenario", [1]),
    ],
)
def test_a_senseless_control_call_is_refused_and_changes_nothing(simulator, receiver, path, body):
    payment_id = simulator.new_id()
    before = simulator.read(payment_id)
    assert simulator.post(f"/sim/payments/{payment_id}/{path}", body).status_code == 400
    assert simulator.read(payment_id) == before
    assert receiver.arrivals == []
    sensible = {"status": "finished", "name": "happy"}  # for any of the three
    assert simulator.post(f"/sim/payments/77/{path}", sensible).status_code == 404


@pytest.mark.parametrize(("mode", "status"), [("down", 503), ("html", 502)])
def test_a_provider_that_is_away_does_nothing(simulator, mode, status):
    simulator.control("faults", mode=mode, count=2)
    assert simulator.post("/v1/payment", ORDER | {"order_id": mode}).status_code == status
    assert simulator.get("/v1/status").status_code == status
    assert simulator.get("/v1/status").status_code == 200, "a fault lasts for its count of calls"
    assert simulator.count_of_order(mode) == 0


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("garbage", requests.JSONDecodeError),
        ("truncated", requests.exceptions.ChunkedEncodingError),
        ("timeout_after_create", requests.ReadTimeout),
    ],
)
def test_a_payment_can_be_created_without_a_usable_answer(simulator, mode, error):
    simulator.control("faults", mode=mode, seconds=60)
    with pytest.raises(error):
        simulator.post("/v1/payment", ORDER | {"order_id": mode}, timeout=0.5).json()
    assert simulator.count_of_order(mode) == 1


def test_a_slow_provider_answers_right_but_late(simulator):
    simulator.control("faults", mode="slow", seconds=0.3, count=1)
    began = time.monotonic()
    assert simulator.get("/v1/status").json() == {"message": "OK"}
    assert time.monotonic() - began >= 0.3


def test_a_senseless_fault_is_refused(simulator):
    for body in (
        {"mode": "broken"},
        {"mode": "down", "count": 0},
        {"mode": "slow", "seconds": "x"},
    ):
        assert simulator.post("/sim/faults", body).status_code == 400
    assert simulator.get("/sim/faults").json()["mode"] == "none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_while_a_call_hangs_and_a_notice_waits(receiver, number):
    secrets = {"NOWPAYMENTS_API_KEY": API_KEY, "NOWPAYMENTS_IPN_SECRET": IPN_SECRET}
    own = Simulator("--retry-seconds", "60", ARRAKIS_SIMULATOR_IPN_URL=receiver.url, **secrets)
    try:
        receiver.statuses[:] = [503]
        payment_id = own.new_id()
        own.play(payment_id, "happy", wait=False)
        until(lambda: receiver.statuses_of(payment_id) == ["waiting"])
        own.control("faults", mode="hang", seconds=60)
        with pytest.raises(requests.ReadTimeout):
            own.get("/v1/status", timeout=0.2)
    finally:
        began = time.monotonic()
        code = own.stop(number)
    assert code == 0
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--api-key"),
        (["--api-key", "k"], "--ipn-secret"),
        (["--api-key", "k", "--ipn-secret", "s", "--ipn-url", "http://example.com"], "loopback"),
    ],
)
def test_it_does_not_start_without_its_settings(arguments, complaint):
    command = [sys.executable, "-m", "deploy.simulator", "--port", "0", *arguments]
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=8, check=False
    )
    assert result.returncode == 2
    assert complaint in result.stderr
