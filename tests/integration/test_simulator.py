"""The provider simulator, as a real process: its API and its notices."""

from decimal import Decimal
from typing import Any

import pytest

from tests.provider_harness import ORDER

READ_FIELDS = (
    "payment_id invoice_id payment_status pay_address payin_extra_id price_amount price_currency "
    "pay_amount actually_paid pay_currency order_id order_description purchase_id outcome_amount "
    "outcome_currency payout_hash payin_hash created_at updated_at burning_percent type "
    "payment_extra_ids parent_payment_id origin_type"
)


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
    assert " ".join(read) == READ_FIELDS
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


def test_a_token_is_good_for_five_minutes(simulator):
    login = simulator.post("/v1/auth", {"email": "dev@example.com", "password": "any"})
    bearer = {"Authorization": f"Bearer {login.json()['token']}"}

    def list_after(seconds: int) -> int:
        simulator.control("clock", ahead_seconds=seconds)
        return simulator.get("/v1/payment/", headers=bearer).status_code

    assert [list_after(seconds) for seconds in (0, 295, 301)] == [200, 200, 401]
    simulator.control("clock")
    assert simulator.post("/v1/auth", {"email": "dev@example.com"}).status_code == 400


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
    simulator.advance(payment_id, "finished", outcome_currency="spice", notify=False)
    assert simulator.read(payment_id)["outcome_currency"] == "spice"
    assert simulator.advance(payment_id, "refunded", notify=False)["deliveries"] == []
    assert simulator.read(payment_id)["payment_status"] == "refunded"
    assert simulator.read(payment_id)["outcome_currency"] == "usdttrc20"
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
