"""The NOWPayments client: what it asks, and what it understands (protocols 1, behaviours 91-93)."""

import hmac
import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from services.webhooks.signatures import BadSignature, Malformed, verify
from shared.config import ApiSettings, ProviderSettings, load_settings
from shared.errors import Invalid
from shared.payments.providers.nowpayments import ProviderAway
from tests.harness import SECRETS
from tests.scripted_provider import (
    API_KEY,
    Client,
    Request,
    ScriptedProvider,
    answer,
    created,
    scripted,
    shown,
)

NINE = (
    "waiting",
    "confirming",
    "confirmed",
    "sending",
    "partially_paid",
    "finished",
    "failed",
    "refunded",
    "expired",
)
IPN_SECRET = "an-ipn-secret-of-the-tests"


def usual(request: Request) -> Any:
    if request.method == "POST":
        return answer(201, created(request, 1))
    return answer(200, shown(int(request.path.rsplit("/", 1)[1])))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(usual) as server:
        yield server


@pytest.fixture
def client(provider: ScriptedProvider) -> Client:
    return Client(provider.url + "/v1/")


# Behaviours 91 and 92: notices. All spellings and refusals are in test_signatures.py.


def sign(body: str) -> str:
    return hmac.new(IPN_SECRET.encode(), body.encode(), "sha512").hexdigest()


def test_behaviour_91_a_genuine_notice_is_read_and_any_other_refused() -> None:
    body = '{"payment_id":5,"payment_status":"finished","actually_paid":0.5}'
    notice = verify(body.encode(), sign(body), [IPN_SECRET])
    assert [notice[name] for name in ("payment_id", "payment_status", "actually_paid")] == [
        *("5", "finished", "0.5")
    ]
    for signature, secrets in (("0" * 128, [IPN_SECRET]), (sign(body), []), (sign(body), [""])):
        with pytest.raises(BadSignature):
            verify(body.encode(), signature, secrets)
    with pytest.raises(Malformed):
        verify(b"{", sign("{"), [IPN_SECRET])


def test_behaviour_91_the_nine_statuses_are_themselves_and_no_other_becomes_waiting(
    provider: ScriptedProvider, client: Client
) -> None:
    for status in (*NINE, "cancelled"):
        for spelled in (status, status.upper()):
            provider.replies = [answer(200, shown(7, payment_status=spelled))]
            reading = client.nowpayments.read_payment("7")
            assert reading is not None
            assert reading.payment_status == status


def test_behaviour_92_a_signature_of_sorted_keys_holds_until_the_price_is_changed() -> None:
    sent = '{"price_amount":25,"payment_id":5,"fee":{"b":1,"a":2}}'
    signature = sign('{"fee":{"a":2,"b":1},"payment_id":5,"price_amount":25}')
    assert verify(sent.encode(), signature, [IPN_SECRET])["price_amount"] == "25"
    tampered = sent.replace("25", "999.99")
    with pytest.raises(BadSignature):
        verify(tampered.encode(), signature, [IPN_SECRET])


# Behaviour 93: the calls.


def test_behaviour_93_a_creation_tells_the_order_with_its_exact_price(
    provider: ScriptedProvider,
) -> None:
    client = Client(provider.url, callback_url="https://example.com/hook")
    client.create("cp_9", 9_007_199_254_740_993)
    made = client.create("cp_9")
    assert (made.provider_payment_id, made.status) == ("5000000001", "waiting")
    assert (made.pay_address, made.pay_currency) == ("bc1q1", "btc")
    assert made.pay_amount == Decimal("0.00039063")
    assert made.expires_at == datetime(2030, 1, 2, 3, 4, 5, 678_000, UTC)
    assert json.loads(made.raw)["order_id"] == "cp_9"
    [large, sent] = provider.requests
    assert b'"price_amount": 9007199254.740993,' in large.body
    assert sent.path == "/payment"
    assert sent.headers["x-api-key"] == API_KEY
    assert sent.fields == {
        "price_amount": 25,
        "price_currency": "usd",
        "pay_currency": "btc",
        "order_id": "cp_9",
        "order_description": "Credits",
        "ipn_callback_url": "https://example.com/hook",
    }


def test_behaviour_93_a_refusal_is_told_and_not_asked_for_again(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [answer(400, {"statusCode": 400, "message": "amount is too small"})]
    with pytest.raises(Invalid, match="The provider refused the payment: amount is too small"):
        client.create()
    assert (len(provider.requests), client.pauses) == (1, [])


def test_behaviour_93_an_unknown_payment_is_none(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [answer(404, {"message": "Payment not found"})]
    assert client.nowpayments.read_payment("12345678901234567890") is None
    assert provider.paths() == ["/v1/payment/12345678901234567890"]


def test_behaviour_93_currencies_are_those_of_ours_that_the_provider_takes(
    provider: ScriptedProvider, client: Client
) -> None:
    tickers = ["XRP", "btc", "ETH", "usdttrc20", "usdc", "trx", "sol", None, 5, "usdt\u0000"]
    provider.replies = [answer(200, {"currencies": tickers})]
    assert client.nowpayments.currencies() == ("btc", "eth", "usdttrc20", "usdc", "sol")


@pytest.mark.parametrize(
    ("reply", "is_healthy"),
    [
        (answer(200, {"message": "OK"}), True),
        (answer(200, {"message": "ok"}), False),
        (answer(200, {"message": "Maintenance"}), False),
        (answer(200, {}), False),
        (answer(200, b"OK"), False),
        (answer(500, {"message": "OK"}), False),
        (answer(302, {"message": "OK"}, Location="/"), False),
    ],
)
def test_behaviour_93_healthy_only_for_the_message_ok(
    provider: ScriptedProvider, reply: Any, is_healthy: bool
) -> None:
    provider.replies = [reply]
    client = Client(provider.url, api_key="")
    assert client.nowpayments.status() is is_healthy
    assert provider.paths() == ["/status"]
    assert "x-api-key" not in provider.requests[0].headers


def test_behaviour_93_the_address_is_production_unless_set_and_the_login_is_optional() -> None:
    secrets = {name: value for name, value in SECRETS.items() if name.startswith("BILLING")}
    settings = load_settings(ApiSettings, secrets)
    assert settings.nowpayments_api_url == "https://api.nowpayments.io/v1"
    sandbox = "https://api-sandbox.nowpayments.io/v1"
    named = {"NOWPAYMENTS_API_URL": sandbox, "NOWPAYMENTS_EMAIL": "a@b.c"}
    chosen = load_settings(ProviderSettings, named | {"NOWPAYMENTS_PASSWORD": "short"})
    assert chosen.nowpayments_api_url == sandbox
    assert (chosen.nowpayments_email, chosen.nowpayments_password) == ("a@b.c", "short")
    assert (settings.nowpayments_email, settings.nowpayments_password) == ("", "")


# What is read.


def test_a_reading_has_ids_as_text_and_exact_amounts_however_they_are_spelled(
    provider: ScriptedProvider, client: Client
) -> None:
    as_numbers = shown(
        7,
        parent_payment_id=6,
        order_id=99,
        price_amount=25.10,
        pay_amount=123456789.123456789123,
        actually_paid=1e-18,
        payin_hash="0xabc",
    )
    raw = json.dumps(as_numbers).replace("123456789.12345679", "123456789.123456789123456789")
    spelled = {"price_amount": "25.10", "actually_paid": "0.000000000000000001"}
    as_text = (
        as_numbers
        | spelled
        | {
            "payment_id": "7",
            "parent_payment_id": "6",
            "order_id": "99",
            "pay_amount": "123456789.123456789123456789",
            "purchase_id": "77",
        }
    )
    provider.replies = [answer(200, raw.encode()), answer(200, as_text)]
    first, second = (client.nowpayments.read_payment("7") for _ in range(2))
    assert first is not None
    assert second is not None
    others = [field.name for field in fields(first) if field.name != "raw"]
    assert [getattr(first, name) for name in others] == [getattr(second, name) for name in others]
    assert (first.payment_id, first.parent_payment_id, first.order_id) == ("7", "6", "99")
    assert first.pay_amount == Decimal("123456789.123456789123456789")
    assert (first.actually_paid, first.outcome_amount) == (Decimal("1E-18"), Decimal("24.875"))
    assert (first.purchase_id, first.payin_hash, first.payout_hash) == ("77", "0xabc", None)
    assert first.created_at == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert first.updated_at == datetime(2025, 12, 9, 3, 4, 21, 97_000, UTC)
    assert first.raw == raw


def test_a_reading_with_little_in_it_has_nothing_made_up(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [answer(200, {"payment_id": 7, "payment_status": "waiting"})]
    reading = client.nowpayments.read_payment("7")
    told = {name: value for name, value in vars(reading).items() if value is not None}
    raw = '{"payment_id": 7, "payment_status": "waiting"}'
    assert told == {"payment_id": "7", "payment_status": "waiting", "raw": raw}


@pytest.mark.parametrize(
    "changes",
    [
        {"payment_id": None},
        {"payment_id": 8},
        {"payment_id": "7 "},
        {"payment_id": True},
        {"payment_id": 7.0},
        {"payment_status": None},
        {"payment_status": ["finished"]},
        {"payment_status": "finished\u0000"},
        {"parent_payment_id": "none"},
        {"parent_payment_id": False},
        {"price_amount": "25 USD"},
        {"price_amount": -25},
        {"actually_paid": float("nan")},
        {"actually_paid": []},
        {"outcome_amount": "1e99"},
        {"outcome_currency": {}},
    ],
    ids=str,
)
def test_a_reading_that_makes_no_sense_is_no_reading(
    provider: ScriptedProvider, client: Client, changes: dict[str, Any]
) -> None:
    provider.replies = [answer(200, shown(7, **changes))]
    with pytest.raises(ProviderAway):
        client.nowpayments.read_payment("7")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("odd", ["", "abc", "7/../status", "1" * 21, "-7", "\uff17", "7 "])
def test_an_id_that_is_none_is_never_asked_for(
    provider: ScriptedProvider, client: Client, odd: str
) -> None:
    with pytest.raises(Invalid) as refused:
        client.nowpayments.read_payment(odd)
    assert (refused.value.code, provider.requests) == ("invalid_payment_id", [])


def test_estimates_and_minimums_are_asked_and_answered_in_exact_decimals(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [
        answer(200, b'{"currency_from":"usd","amount_from":25,"estimated_amount":"0.00039063"}'),
        answer(200, b'{"currency_from":"btc","min_amount":0.00001563,"fiat_equivalent":1.00032}'),
        answer(200, {"currency_from": "btc", "min_amount": "0.1"}),
    ]
    amount = client.nowpayments.estimate(
        Decimal("1E-7"), currency_from="usd", currency_to="btc&amount=9"
    )
    assert amount == Decimal("0.00039063")
    least = client.nowpayments.minimum("btc")
    assert (least.coin_amount, least.usd_amount) == (Decimal("0.00001563"), Decimal("1.00032"))
    assert client.nowpayments.minimum("btc").usd_amount is None
    assert [request.query for request in provider.requests] == [
        {"amount": "0.0000001", "currency_from": "usd", "currency_to": "btc&amount=9"},
        *[{"currency_from": "btc", "fiat_equivalent": "usd"}] * 2,
    ]


def test_a_question_that_the_provider_refuses_is_the_callers_to_mend(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [answer(400, {"message": "Currency abc was not found"})] * 2
    with pytest.raises(Invalid, match="The provider refused: Currency abc was not found") as no:
        client.nowpayments.minimum("abc")
    assert no.value.code == "provider_refused"
    with pytest.raises(Invalid):
        client.nowpayments.estimate(Decimal(1), currency_from="abc", currency_to="usd")
    for status in (401, 403):
        provider.replies = [answer(status, {"message": "Invalid api key"})] * 3
        for ask in (
            lambda: client.nowpayments.minimum("btc"),
            lambda: client.nowpayments.read_payment("7"),
            client.nowpayments.currencies,
        ):
            with pytest.raises(ProviderAway):
                ask()


def test_without_a_key_nothing_is_asked(provider: ScriptedProvider) -> None:
    client = Client(provider.url, api_key="")
    for ask in (client.create, client.nowpayments.currencies):
        with pytest.raises(ProviderAway) as refused:
            ask()
        assert refused.value.code == "payments_not_configured"
    assert provider.requests == []
