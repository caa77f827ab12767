"""The headers of x402: what we write, what we read, and that nothing malformed is anything else."""

import base64
import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from x402.http.utils import (
    decode_payment_required_header,
    decode_payment_response_header,
    decode_payment_signature_header,
    encode_payment_signature_header,
)

from shared.errors import Invalid
from shared.payments.x402.terms import required_body, required_header, requirement, terms_on
from shared.payments.x402.verify import verify
from shared.payments.x402.wire import (
    HEADER_BYTES_MAX,
    Payment,
    payment_in,
    read_payment,
    response_header,
)
from tests.x402 import (
    NONCE,
    NOW,
    NOW_SECONDS,
    PAY_TO,
    PAYER,
    SAMPLES,
    TERMS,
    TRANSACTION,
    encoded,
    network,
    payload,
    read,
    terms_in,
)

unhurried = settings(deadline=None)  # a busy machine is no failure
VALID = payload()


@pytest.fixture(params=SAMPLES["cases"], ids=[case["network"] for case in SAMPLES["cases"]])
def sample(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def refusal(header: str, *, version: int = 2) -> Invalid:
    with pytest.raises(Invalid) as refused:
        payment_in(
            payment_signature=header if version == 2 else None,
            x_payment=header if version == 1 else None,
        )
    assert refused.value.code == "invalid_payment_header"
    return refused.value


def test_the_402_header_is_the_packages_letter_for_letter(sample: dict[str, Any]) -> None:
    required = sample["paymentRequired"]
    terms = terms_in(required["accepts"][0], required["resource"])
    assert required_header([terms], error=required["error"]) == sample["PAYMENT-REQUIRED"]


def test_the_payment_of_the_vectors_is_read_and_is_good(sample: dict[str, Any]) -> None:
    required = sample["paymentRequired"]
    terms = terms_in(required["accepts"][0], required["resource"])
    payment = payment_in(payment_signature=sample["PAYMENT-SIGNATURE"], x_payment=None)
    assert payment is not None
    assert (payment.version, payment.scheme, payment.network) == (2, "exact", sample["network"])
    assert (payment.payer, payment.pay_to) == (PAYER, PAY_TO.lower())
    assert (payment.value, payment.valid_after, payment.valid_before) == (10_000, 0, 1765000060)
    assert (payment.asset, payment.nonce) == (terms.asset.lower(), NONCE)
    assert len(payment.signature) == 65
    assert payment.quote_id is None
    assert json.loads(payment.raw) == sample["paymentPayload"]
    verify(payment, terms, now=NOW)


def test_the_402_answer_carries_the_quote_in_both_versions() -> None:
    offers = [
        terms_on(
            network(caip2, maxTimeoutSeconds=60),
            amount_micro=25_000_000,
            quote_id="quote-7",
            resource="https://api.test/api/billing/topup",
            description="Credits",
        )
        for caip2 in ("eip155:8453", "eip155:84532")
    ]
    v2 = decode_payment_required_header(required_header(offers, error="payment_required"))
    assert (v2.x402_version, v2.error) == (2, "payment_required")
    assert v2.resource.url == "https://api.test/api/billing/topup"
    assert [one.network for one in v2.accepts] == ["eip155:8453", "eip155:84532"]
    assert {one.amount for one in v2.accepts} == {"25000000"}
    extra = {"name": "USD Coin", "version": "2", "quoteId": "quote-7"}
    assert v2.accepts[0].extra == extra

    v1 = required_body(offers, error="payment_required")
    assert (v1["x402Version"], v1["error"]) == (1, "payment_required")
    assert v1["accepts"][0] == {
        "scheme": "exact",
        "network": "base",
        "maxAmountRequired": "25000000",
        "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "payTo": PAY_TO,
        "resource": "https://api.test/api/billing/topup",
        "description": "Credits",
        "mimeType": "application/json",
        "maxTimeoutSeconds": 60,
        "extra": extra,
    }
    assert v1["accepts"][1]["network"] == "base-sepolia"


def test_a_network_without_a_name_in_version_1_is_offered_in_version_2_only() -> None:
    there = replace(TERMS, network="eip155:80094")
    assert required_body([there], error="e")["accepts"] == []
    assert decode_payment_required_header(required_header([there], error="e")).accepts


def test_what_a_payer_of_version_2_makes_of_our_terms_names_the_quote() -> None:
    payment = read(payload())
    assert payment.quote_id == "quote-1"
    assert read_payment(payment.raw, version=2) == payment


def test_a_payment_of_version_1_is_on_the_network_of_version_2() -> None:
    payment = read(payload(version=1), version=1)
    assert (payment.version, payment.network, payment.scheme) == (1, "eip155:84532", "exact")
    assert (payment.chosen, payment.asset, payment.quote_id) == (None, None, None)
    assert read_payment(payment.raw, version=1) == payment
    verify(payment, TERMS, now=NOW)


def test_spellings_of_one_authorization_are_one() -> None:
    other = copy.deepcopy(VALID)
    signed = other["payload"]["authorization"]
    signed["from"] = f"0x{signed['from'][2:].upper()}"
    signed["nonce"] = f"0x{signed['nonce'][2:].upper()}"
    one, two = read(VALID), read(other)
    assert (one.network, one.asset, one.payer, one.nonce) == (
        two.network,
        two.asset,
        two.payer,
        two.nonce,
    )


def test_no_header_is_no_payment_and_both_are_refused() -> None:
    assert payment_in(payment_signature=None, x_payment=None) is None
    header = encoded(VALID)
    with pytest.raises(Invalid) as refused:
        payment_in(payment_signature=header, x_payment=header)
    assert refused.value.code == "invalid_payment_header"


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return a valid payload with *value* at *path*; no value: without it."""
    made = copy.deepcopy(VALID)
    *parents, last = path.split(".")
    place = made
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


AMOUNTS = ["10_000", "1e4", "+10000", " 10000", "010000", "-1", "", "0x2710", "\uff11\uff10", "1.0"]
AMOUNTS += [10_000, 10_000.0, None, True, [], str(2**256), "1" * 79]
A = "payload.authorization"
WRONG = [
    *((f"{A}.value", value) for value in AMOUNTS),
    *((f"{A}.validBefore", value) for value in ("1e9", "1_765_000_060", 1765000060, ...)),
    *((f"{A}.validAfter", value) for value in ("-1", 0, None, ...)),
    *((f"{A}.nonce", value) for value in (NONCE[:-2], f"{NONCE}00", NONCE[2:], "0x", 7, ...)),
    *((f"{A}.from", value) for value in (PAYER[:-1], PAYER[2:], f"{PAYER}0", "", None, ...)),
    *((f"{A}.to", value) for value in ("0x", {}, ...)),
    *((A, value) for value in (None, [], "text", ...)),
    *(("payload.signature", value) for value in ("0x1", "zz", None, 5, ["0x"], ...)),
    *(("payload", value) for value in (None, "text", [], ...)),
    # A second way to pay would be the facilitator's to choose.
    *((f"payload.{name}", value) for name in ("permit2Authorization", "x") for value in ({}, None)),
    *(("accepted", value) for value in (None, [], {}, ...)),
    *(("accepted.amount", value) for value in ("10_000", 10_000, None, ...)),
    *(("accepted.asset", value) for value in ("0x", 5, ...)),
    *(("accepted.payTo", value) for value in ("nobody", ...)),
    *(("accepted.maxTimeoutSeconds", value) for value in ("60", 60.5, True, None, ...)),
    *(("accepted.scheme", value) for value in (5, None, ...)),
    *(("accepted.network", value) for value in (5, None, ...)),
    *(("accepted.extra", value) for value in ("text", [])),
    *(("accepted.extra.name", value) for value in (5, [])),
    *(("accepted.extra.quoteId", value) for value in (5, "", "a b", "x" * 129, "\x00")),
    *(("resource", value) for value in ("text", {}, {"url": 5})),
    *(("x402Version", value) for value in ("2", 2.0, True, None, 1, 3, ...)),
]


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_a_field_of_the_wrong_form_is_malformed(path: str, value: Any) -> None:
    refusal(encoded(changed(path, value)))


@pytest.mark.parametrize("path", ["scheme", "network", "payload"])
def test_a_payment_of_version_1_without_a_part_is_malformed(path: str) -> None:
    made = payload(version=1)
    del made[path]
    refusal(encoded(made), version=1)


def test_the_reason_is_the_protocols_code() -> None:
    assert refusal(encoded(changed(f"{A}.value", "1e4"))).details == {"reason": "invalid_payload"}
    other = refusal(encoded(payload(version=1)))
    assert other.details == {"reason": "invalid_x402_version"}
    assert refusal(encoded(VALID), version=1).details == {"reason": "invalid_x402_version"}


GOOD_TEXT = json.dumps(VALID)
HEADERS = {
    "empty": "",
    "not base64": "{}",
    "junk between": f"{encoded(VALID)[:40]}\n{encoded(VALID)[40:]}",
    "not padded": base64.b64encode(b'{"a":1}').decode().rstrip("="),
    "of the web's alphabet": base64.urlsafe_b64encode(b'{"\xc3\xbf\xc3\xbf":"???>>>"}').decode(),
    "stray bits at the end": "e31=",
    "beyond ASCII": "é",
    "not UTF-8": base64.b64encode(b"\xff\xfe{}").decode(),
    "not JSON": encoded("not json"),
    "JSON twice": encoded(GOOD_TEXT * 2),
    "a list": encoded([VALID]),
    "a number": encoded("5"),
    "null": encoded("null"),
    "a byte order mark": encoded(f"\ufeff{GOOD_TEXT}"),
    "a key twice": encoded(GOOD_TEXT.replace('"value": "10000"', '"value": "1", "value": "10000"')),
    "NaN": encoded(GOOD_TEXT.replace('"x402Version"', '"z": NaN, "x402Version"')),
    "an infinite number": encoded(GOOD_TEXT.replace('"x402Version"', '"z": 1e999, "x402Version"')),
    "a number of 5000 digits": encoded(f'{{"x402Version": {"9" * 5000}}}'),
    "too deep": encoded(changed("extensions", {"a": json.loads("[" * 20 + "]" * 20)})),
    "far too deep": encoded("[" * 6000 + "]" * 6000),
    "too large": encoded(changed("extensions", {"a": "x" * HEADER_BYTES_MAX})),
    "half a letter": encoded(GOOD_TEXT.replace('"exact"', '"\\ud800"')),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_no_payment_is_malformed(name: str) -> None:
    refusal(HEADERS[name])


def test_a_payment_may_bring_extensions_and_a_resource() -> None:
    made = changed("extensions", {"bazaar": {"info": [1, 2.5, None]}})
    made["resource"] = {"url": "https://api.test/x", "description": "d"}
    assert json.loads(read(made).raw) == made


@unhurried
@given(header=st.text())
def test_random_text_is_always_malformed(header: str) -> None:
    refusal(header)
    refusal(header, version=1)


@unhurried
@given(raw=st.binary())
def test_random_bytes_are_always_malformed(raw: bytes) -> None:
    refusal(base64.b64encode(raw).decode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@unhurried
@given(value=JSON)
def test_random_json_is_always_malformed(value: Any) -> None:
    refusal(encoded(value))
    refusal(encoded(value), version=1)


PATHS = sorted({path for path, _ in WRONG} | {"extensions", "error"})


@unhurried
@given(path=st.sampled_from(PATHS), value=JSON)
def test_a_random_value_anywhere_is_a_payment_or_malformed(path: str, value: Any) -> None:
    header = encoded(changed(path, value))
    try:
        payment_in(payment_signature=header, x_payment=None)
    except Invalid:
        refusal(header)


addresses = st.binary(min_size=20, max_size=20).map(lambda raw: f"0x{raw.hex()}")
numbers = st.integers(0, 2**256 - 1)


@st.composite
def payloads(draw: st.DrawFn) -> dict[str, Any]:
    signed = {
        "from": draw(addresses),
        "to": draw(addresses),
        "value": str(draw(numbers)),
        "validAfter": str(draw(numbers)),
        "validBefore": str(draw(numbers)),
        "nonce": f"0x{draw(st.binary(min_size=32, max_size=32)).hex()}",
    }
    made = changed("payload.authorization", signed)
    made["payload"]["signature"] = f"0x{draw(st.binary(max_size=400)).hex()}"
    return made


@unhurried
@given(made=payloads())
def test_what_a_header_says_is_what_is_read(made: dict[str, Any]) -> None:
    official = decode_payment_signature_header(encoded(made))
    payment = payment_in(
        payment_signature=encode_payment_signature_header(official), x_payment=None
    )
    assert isinstance(payment, Payment)
    signed = made["payload"]["authorization"]
    assert signed == {
        "from": payment.payer,
        "to": payment.pay_to,
        "value": str(payment.value),
        "validAfter": str(payment.valid_after),
        "validBefore": str(payment.valid_before),
        "nonce": payment.nonce,
    }
    assert f"0x{payment.signature.hex()}" == made["payload"]["signature"]
    assert read_payment(payment.raw, version=2) == payment


def test_the_answer_to_a_settled_payment() -> None:
    name, value = response_header(read(VALID), transaction=TRANSACTION)
    assert name == "PAYMENT-RESPONSE"
    assert json.loads(base64.b64decode(value)) == {
        "success": True,
        "transaction": TRANSACTION,
        "network": "eip155:84532",
        "payer": PAYER,
    }


def test_the_answer_in_version_1_names_the_network_of_version_1() -> None:
    payment = read(payload(version=1), version=1)
    name, value = response_header(payment, transaction=TRANSACTION)
    assert name == "X-PAYMENT-RESPONSE"
    assert decode_payment_response_header(value).network == "base-sepolia"


def test_the_answer_to_a_payment_that_was_not_settled() -> None:
    _, value = response_header(read(VALID), transaction="", error_reason="insufficient_funds")
    response = decode_payment_response_header(value)
    assert (response.success, response.error_reason) == (False, "insufficient_funds")
    assert response.transaction == ""


def test_the_requirement_for_the_facilitator_is_the_offer_of_the_same_version() -> None:
    assert requirement(TERMS, version=2)["amount"] == "10000"
    assert requirement(TERMS, version=1)["maxAmountRequired"] == "10000"
    assert int(VALID["payload"]["authorization"]["validBefore"]) == NOW_SECONDS + 60
