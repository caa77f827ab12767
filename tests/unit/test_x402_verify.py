"""The strict local check: every vector's verdict, and that no changed payment passes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Invalid, Refused
from shared.payments.x402.ethereum import keccak
from shared.payments.x402.verify import CLOCK_SKEW_SECONDS, verify
from tests.x402 import (
    CASES,
    NOW,
    NOW_SECONDS,
    OTHER,
    OTHER_KEY,
    TERMS,
    authorization,
    payload,
    read,
    signature,
    terms_in,
)

unhurried = settings(deadline=None)  # a busy machine is no failure
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WRONG_SIGNATURE = "invalid_exact_evm_payload_signature"
VALID_BEFORE = "invalid_exact_evm_payload_authorization_valid_before"
BASE_USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"


def verdict(made: dict[str, Any], terms: Any = TERMS, *, now: Any = NOW, version: int = 2) -> str:
    try:
        verify(read(made, version=version), terms, now=now)
    except Invalid as malformed:
        return malformed.details["reason"]
    except Refused as refused:
        return refused.code
    return "ok"


@pytest.mark.parametrize("case", CASES["cases"], ids=[case["name"] for case in CASES["cases"]])
def test_the_strict_verdict_of_each_vector(case: dict[str, Any]) -> None:
    request = case["request"]
    terms = terms_in(request["paymentRequirements"], request["paymentPayload"]["resource"])
    now = NOW + timedelta(seconds=case["now"] - NOW_SECONDS)
    assert verdict(request["paymentPayload"], terms, now=now) == case["local_reference_verdict"]


def test_a_good_payment_passes_in_both_versions() -> None:
    assert verdict(payload()) == "ok"
    assert verdict(payload(version=1), version=1) == "ok"


def test_the_type_is_that_of_eip_3009() -> None:
    text = (
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
        "uint256 validBefore,bytes32 nonce)"
    )
    wanted = "7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267"
    assert keccak(text=text).hex() == wanted


def resigned(made: dict[str, Any], raw: bytes) -> dict[str, Any]:
    made["payload"]["signature"] = f"0x{raw.hex()}"
    return made


def raw_signature(made: dict[str, Any]) -> bytes:
    return bytes.fromhex(made["payload"]["signature"][2:])


def test_the_high_s_twin_of_a_signature_is_refused() -> None:
    made = payload()
    raw = raw_signature(made)
    s = CURVE_ORDER - int.from_bytes(raw[32:64])
    twin = raw[:32] + s.to_bytes(32) + bytes([55 - raw[64]])
    assert verdict(resigned(made, twin)) == WRONG_SIGNATURE


@pytest.mark.parametrize("v", [2, 26, 29, 35, 255])
def test_another_v_is_refused(v: int) -> None:
    made = payload()
    assert verdict(resigned(made, raw_signature(made)[:64] + bytes([v]))) == WRONG_SIGNATURE


@pytest.mark.parametrize("length", [0, 1, 64, 66, 130, 1000])
def test_a_contract_wallets_signature_is_not_judged_here(length: int) -> None:
    assert verdict(resigned(payload(), b"\x11" * length)) == WRONG_SIGNATURE


@pytest.mark.parametrize("number", [0, CURVE_ORDER, CURVE_ORDER + 1, 2**256 - 1])
def test_numbers_that_are_no_signature_are_refused(number: int) -> None:
    made = payload()
    raw, word = raw_signature(made), number.to_bytes(32)
    assert verdict(resigned(made, word + raw[32:])) == WRONG_SIGNATURE
    assert verdict(resigned(made, raw[:32] + word + raw[64:])) == WRONG_SIGNATURE


def test_a_number_that_is_no_point_of_the_curve_is_refused() -> None:
    made = payload()
    raw = raw_signature(made)
    verdicts = {verdict(resigned(made, r.to_bytes(32) + raw[32:])) for r in range(1, 12)}
    assert verdicts == {WRONG_SIGNATURE}


def test_another_signer_is_refused() -> None:
    made = payload()
    signed = made["payload"]["authorization"]
    made["payload"]["signature"] = signature(signed, key=OTHER_KEY)
    assert verdict(made) == WRONG_SIGNATURE


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, VALID_BEFORE),
        (5, VALID_BEFORE),
        (6, "ok"),
        (60 + CLOCK_SKEW_SECONDS, "ok"),
        (61 + CLOCK_SKEW_SECONDS, VALID_BEFORE),
        (2**255, VALID_BEFORE),
    ],
)
def test_a_payment_is_valid_for_the_time_out_and_no_longer(seconds: int, expected: str) -> None:
    assert verdict(payload(validBefore=str(NOW_SECONDS + seconds))) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-600, "ok"), (0, "ok"), (1, "invalid_exact_evm_payload_authorization_valid_after")],
)
def test_a_payment_is_valid_already(seconds: int, expected: str) -> None:
    assert verdict(payload(validAfter=str(NOW_SECONDS + seconds))) == expected


def test_a_part_of_a_second_does_not_count() -> None:
    assert verdict(payload(), now=NOW + timedelta(microseconds=999_999)) == "ok"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("asset", BASE_USDC),
        ("payTo", OTHER),
        ("amount", "9999"),
        ("maxTimeoutSeconds", 61),
        ("extra", {"name": "USD Coin", "version": "2", "quoteId": "quote-1"}),
        ("extra", {"name": "USDC", "version": "1", "quoteId": "quote-1"}),
        ("extra", {"name": "USDC", "version": "2", "quoteId": "quote-2"}),
        ("extra", {"name": "USDC", "version": "2"}),
    ],
)
def test_other_terms_than_the_quotes_are_refused(field: str, value: Any) -> None:
    made = payload()
    made["accepted"][field] = value
    assert verdict(made) == "invalid_payment_requirements"


@pytest.mark.parametrize("extra", [{}, {"name": "USDC"}, {"version": "2"}])
def test_terms_without_the_tokens_domain_are_refused(extra: dict[str, str]) -> None:
    made = payload()
    made["accepted"]["extra"] = extra
    assert verdict(made) == "missing_eip712_domain"


def test_the_terms_may_be_repeated_in_other_letters() -> None:
    made = payload()
    made["accepted"]["payTo"] = made["accepted"]["payTo"].lower()
    made["accepted"]["asset"] = made["accepted"]["asset"].lower()
    assert verdict(made) == "ok"


@pytest.mark.parametrize(
    "there", ["eip155:8453", "base-sepolia-2", "solana:5eykt4UsFv8P8NJdTREpY1"]
)
def test_another_network_is_refused(there: str) -> None:
    made = payload()
    made["accepted"]["network"] = there
    assert verdict(made) == "network_mismatch"


def test_a_payment_of_version_1_on_another_network_or_scheme_is_refused() -> None:
    made = payload(version=1)
    assert verdict(made | {"network": "base"}, version=1) == "network_mismatch"
    assert verdict(made | {"scheme": "upto"}, version=1) == "unsupported_scheme"


def test_a_token_of_eighteen_decimals_on_a_network_of_its_own() -> None:
    terms = replace(TERMS, network="eip155:80094", name="Honey", version="1", value=25 * 10**18)
    assert verdict(payload(terms), terms) == "ok"


SIGNED = payload()
addresses = st.binary(min_size=20, max_size=20).map(lambda raw: f"0x{raw.hex()}")
numbers = (st.integers(0, 2**256 - 1) | st.integers(0, NOW_SECONDS + 100)).map(str)
CHANGES = {
    "from": addresses,
    "to": addresses,
    "value": numbers,
    "validAfter": numbers,
    "validBefore": numbers,
    "nonce": st.binary(min_size=32, max_size=32).map(lambda raw: f"0x{raw.hex()}"),
}


@unhurried
@given(data=st.data())
def test_no_changed_authorization_passes(data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(CHANGES)))
    value = data.draw(CHANGES[field])
    signed = SIGNED["payload"]["authorization"] | {field: value}
    made = SIGNED | {"payload": {**SIGNED["payload"], "authorization": signed}}
    is_same = signed == SIGNED["payload"]["authorization"]
    assert (verdict(made) == "ok") is is_same


@unhurried
@given(place=st.integers(0, 63), byte=st.integers(1, 255))
def test_no_changed_signature_passes(place: int, byte: int) -> None:
    raw = bytearray(raw_signature(SIGNED))
    raw[place] ^= byte
    made = SIGNED | {"payload": {**SIGNED["payload"], "signature": f"0x{bytes(raw).hex()}"}}
    assert verdict(made) == WRONG_SIGNATURE


@pytest.mark.parametrize(
    "other",
    [{"asset": BASE_USDC}, {"name": "USD Coin"}, {"version": "1"}, {"network": "eip155:8453"}],
)
def test_a_signature_for_another_token_does_not_pass(other: dict[str, str]) -> None:
    # Version 1 repeats none of this, so only the signature can tell.
    made = payload(version=1)
    signed = authorization()
    made["payload"]["signature"] = signature(signed, replace(TERMS, **other))
    assert verdict(made, version=1) == WRONG_SIGNATURE
