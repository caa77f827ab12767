"""The simulated facilitator: the package's verdicts and shapes, real signatures, settlements."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.simulator.wallet import (
    address_of,
    key_named,
    read_header,
    sign_claim,
    sign_fields,
    sign_v2,
    twin_of,
    write_header,
)
from tests.x402_harness import AMOUNT, BASE_SEPOLIA, OTHER, PAYER, PAYER_KEY, SHOP

FIXTURES = Path(__file__).parents[1] / "fixtures"
VERIFY = json.loads((FIXTURES / "x402_verify_cases.json").read_text())
HTTP = json.loads((FIXTURES / "x402_facilitator_http.json").read_text())["calls"]
SIGNED = json.loads((FIXTURES / "x402_v2_exact_evm.json").read_text())
META = VERIFY["meta"]
PREFIX = "invalid_exact_evm_"


def prepared(x402: Any, name: str = "") -> None:
    """Bring the chain into the state of a recorded case."""
    x402.reset(BASE_SEPOLIA, now=META["frozen_time"])
    x402.give(META["payer"], 1_000_000)
    if name == "nonce_already_used_on_chain":
        used = {"from": META["payer"], "nonce": META["fixed_nonce"]}
        x402.simulator.control("chain/nonces", **used)
    if name == "eip7702_delegated_payer":
        wallet = {"address": META["payer"], "owner": META["payer"], "is_delegated": True}
        x402.simulator.control("chain/wallets", **wallet)


@pytest.mark.parametrize("case", VERIFY["cases"], ids=lambda case: case["name"])
def test_it_judges_as_the_official_package_does(x402, case):
    prepared(x402, case["name"])
    answer = x402.verify(case["request"])
    assert (answer.status_code, answer.json()) == (200, case["package_verdict"])


def test_its_answers_have_the_recorded_shapes(x402):
    prepared(x402)
    supported, verified, settled = (call["response"]["body"] for call in HTTP[:3])
    expected = json.loads(supported)
    expected["signers"]["eip155:*"] = ["0xfacfacfacfacfacfacfacfacfacfacfacfacfac0"]
    assert x402.simulator.get("/facilitator/supported").json() == expected
    assert x402.verify(HTTP[1]["body"]).text == verified
    answer = json.loads(x402.settle(HTTP[2]["body"]).text)
    assert answer.pop("transaction").startswith("0x")
    expected = json.loads(settled)
    del expected["transaction"]
    assert answer == expected
    # The recording's nonce is used now, and the recorded refusal follows word for word.
    assert x402.settle(HTTP[6]["body"]).text == HTTP[6]["response"]["body"]


@pytest.mark.parametrize(
    ("mode", "call"), [("error", HTTP[7]), ("wrong_shape", HTTP[9])], ids=["error", "wrong_shape"]
)
def test_recorded_misbehaviour_can_be_had(x402, mode, call):
    x402.fault(mode, count=1)
    answer = x402.verify(call["body"])
    expected = (call["response"]["status"], call["response"]["body"])
    assert (answer.status_code, answer.text) == expected


@pytest.mark.parametrize("case", SIGNED["cases"], ids=lambda case: case["network"])
def test_the_wallet_signs_the_recorded_headers_byte_for_byte(case):
    key, now, nonce = (
        META[name] for name in ("payer_private_key_throwaway", "frozen_time", "fixed_nonce")
    )
    required = case["PAYMENT-REQUIRED"]
    assert read_header(required) == case["paymentRequired"]
    header = sign_v2(required, key, now=now, nonce=nonce)
    assert header == case["PAYMENT-SIGNATURE"]
    assert write_header(case["paymentPayload"]) == header


def test_the_wallet_signs_a_claim_that_anyone_can_check():
    # The signature that eth-account's documentation prints for this key and text.
    key = "0xb25c7db31feed9122727bf0939dc769a96564b2de4c4726d035b36ecf1e5b364"
    assert address_of(key) == "0x5ce9454909639D2D17A3F753ce7d93fa0b9aB12E"
    assert sign_claim("I♥SF", key) == (
        "0xe6ca9bba58c88611fad66a6ce8f996908195593807c4b38bd528d2cff09d4eb33e5bfbbf4d3e39b1a2fd816a"
        "7680c19ebebaf3a141b239934ad43cb33fcec8ce1c"
    )
    assert key_named("a") == key_named("a") != key_named("b")


@pytest.mark.parametrize("version", [1, 2])
def test_a_payment_is_verified_settled_once_and_seen_on_the_chain(x402, version):
    x402.give(PAYER, AMOUNT + 1)
    claim = x402.claim(version=version)
    assert x402.verify(claim).json() == {"isValid": True, "payer": PAYER}
    assert (x402.balance(SHOP), x402.is_used(claim)) == (0, False)
    answer = x402.settle(claim).json()
    name = {1: "base", 2: "eip155:8453"}[version]
    assert answer == {
        "success": True,
        "transaction": answer["transaction"],
        "network": name,
        "payer": PAYER,
    }
    assert (x402.balance(SHOP), x402.balance(PAYER), x402.is_used(claim)) == (AMOUNT, 1, True)
    again, verdict = x402.settle(claim).json(), x402.verify(claim).json()
    used = f"{PREFIX}nonce_already_used"
    assert (again["success"], again["errorReason"], again["transaction"]) == (False, used, "")
    assert (verdict["isValid"], verdict["invalidReason"]) == (False, used)
    assert x402.balance(SHOP) == AMOUNT
    (settled,) = x402.settlements()
    assert (settled["transaction"], settled["status"]) == (answer["transaction"], "mined")
    assert (settled["payer"], settled["payTo"], settled["value"]) == (PAYER, SHOP, str(AMOUNT))
    assert x402.calls() == {"verify": 2, "settle": 2, "supported": 0}


def tampered(claim: Any, **changes: str) -> Any:
    claim["paymentPayload"]["payload"]["authorization"].update(changes)
    return claim


def resigned(claim: Any, change: Any) -> Any:
    signed = claim["paymentPayload"]["payload"]
    signed["signature"] = change(signed["signature"])
    return claim


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda claim: tampered(claim, nonce=f"0x{'11' * 32}"), "payload_signature"),
        (lambda claim: tampered(claim, **{"from": OTHER}), "payload_signature"),
        (lambda claim: tampered(claim, to=OTHER), "payload_recipient_mismatch"),
        (lambda claim: tampered(claim, value="1"), "payload_authorization_value_mismatch"),
        (lambda claim: tampered(claim, validBefore="7"), "payload_authorization_valid_before"),
        (
            lambda claim: tampered(claim, validAfter=str(10**11)),
            "payload_authorization_valid_after",
        ),
        (lambda claim: resigned(claim, twin_of), "payload_signature"),
        (lambda claim: resigned(claim, lambda _: ""), "payload_signature"),
        (lambda claim: resigned(claim, lambda _: "0xzz"), "failed_to_verify_signature"),
        (
            lambda claim: resigned(claim, lambda old: f"{old[:-2]}25"),
            "failed_to_verify_signature",
        ),
    ],
    ids=[
        *("nonce", "payer", "recipient", "value", "before", "after"),
        *("high-s", "unsigned", "no hex", "v"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_payment_that_was_tampered_with_is_refused_and_moves_nothing(
    x402, spoil, reason, version
):
    x402.give(PAYER, AMOUNT)
    claim = spoil(x402.claim(version=version))
    if version == 1:
        reason = reason.removesuffix("_mismatch") if "value" in reason else reason
    verdict, answer = x402.verify(claim).json(), x402.settle(claim).json()
    assert (verdict["isValid"], verdict["invalidReason"]) == (False, f"{PREFIX}{reason}")
    assert (answer["success"], answer["errorReason"]) == (False, f"{PREFIX}{reason}")
    assert (x402.balance(PAYER), x402.balance(SHOP), x402.settlements()) == (AMOUNT, 0, [])


def test_the_domain_comes_from_the_terms_and_the_token_knows_its_own(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    terms = claim["paymentRequirements"]
    terms["extra"]["name"] = "USDC"  # its name on Base Sepolia
    assert x402.verify(claim).json()["invalidReason"] == f"{PREFIX}payload_signature"
    signed = claim["paymentPayload"]["payload"]
    signed["signature"] = sign_fields(signed["authorization"], terms, PAYER_KEY)
    verdict = x402.verify(claim).json()
    assert verdict["invalidReason"] == f"{PREFIX}payload_signature"
    assert verdict["invalidMessage"] == "execution reverted: FiatTokenV2: invalid signature"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("network", "eip155:84532", "network_mismatch"),
        ("scheme", "upto", "unsupported_scheme"),
        ("extra", {}, "missing_eip712_domain"),
        ("asset", OTHER, f"{PREFIX}payload_signature"),
    ],
)
def test_terms_that_differ_from_the_payment_are_refused(x402, field, value, reason):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    claim["paymentRequirements"][field] = value
    assert x402.verify(claim).json()["invalidReason"] == reason
    assert x402.settle(claim).json()["errorReason"] == reason


def test_another_network_or_another_token_is_not_served(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.reset(BASE_SEPOLIA)
    assert x402.verify(claim).json()["invalidReason"] == "invalid_network"
    claim = x402.claim()
    claim["paymentRequirements"]["asset"] = OTHER
    signed = claim["paymentPayload"]["payload"]
    signed["signature"] = sign_fields(
        signed["authorization"], claim["paymentRequirements"], PAYER_KEY
    )
    assert x402.verify(claim).json()["invalidReason"] == "asset_not_deployed_contract"


def test_a_payer_without_enough_is_refused(x402):
    x402.give(PAYER, AMOUNT - 1)
    claim = x402.claim()
    reason = f"{PREFIX}insufficient_balance"
    assert x402.verify(claim).json()["invalidReason"] == reason
    assert x402.settle(claim).json()["errorReason"] == reason
    x402.give(PAYER, AMOUNT)
    assert x402.settle(claim).json()["success"] is True


def test_a_contract_wallet_pays_with_its_owners_signature_also_a_longer_one(x402):
    wallet = address_of(key_named("a wallet's address"))
    x402.give(wallet, 2 * AMOUNT)
    claim = resigned(x402.claim(payer=wallet), lambda old: f"{old}00ff")
    undeployed = f"{PREFIX}payload_undeployed_smart_wallet"
    assert x402.verify(claim).json()["invalidReason"] == undeployed
    x402.simulator.control("chain/wallets", address=wallet, owner=PAYER)
    stranger = x402.claim(payer=wallet, key=key_named("stranger"))
    assert x402.verify(stranger).json()["invalidReason"] == f"{PREFIX}payload_signature"
    assert x402.settle(claim).json()["success"] is True
    assert x402.settle(x402.claim(payer=wallet)).json()["success"] is True
    assert x402.balance(SHOP) == 2 * AMOUNT


def test_a_wallet_that_would_first_have_to_be_made_is_refused(x402):
    claim = resigned(
        x402.claim(),
        lambda old: f"0x{'0' * 64}{96:064x}{128:064x}{0:064x}{65:064x}{old[2:]:0<192}{'6492' * 16}",
    )
    assert x402.verify(claim).json()["invalidReason"] == "eip6492_factory_not_allowed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda claim: claim.update(x402Version=3), "invalid_x402_version"),
        (lambda claim: claim["paymentPayload"].update(x402Version=1), "invalid_x402_version"),
        (lambda claim: claim.pop("paymentPayload"), "invalid_payload"),
        (lambda claim: claim["paymentPayload"].pop("accepted"), "invalid_payload"),
        (
            lambda claim: claim["paymentPayload"]["payload"].update(signature=7),
            "invalid_payload",
        ),
        (
            lambda claim: claim["paymentPayload"]["payload"]["authorization"].update(value=1),
            "invalid_payload",
        ),
        (
            lambda claim: claim["paymentRequirements"].update(amount=25),
            "invalid_payment_requirements",
        ),
        (lambda claim: claim["paymentRequirements"].pop("payTo"), "invalid_payment_requirements"),
    ],
)
def test_a_call_without_the_right_form_is_400(x402, change, code):
    claim = x402.claim()
    change(claim)
    verdict, answer = x402.verify(claim), x402.settle(claim)
    assert (verdict.status_code, verdict.json()) == (400, {"isValid": False, "invalidReason": code})
    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert answer.json()["errorReason"] == code


def test_what_the_package_trips_over_is_a_500_and_a_missing_authorization_a_mismatch(x402):
    claim = tampered(x402.claim(), value="1e4")
    verdict, answer = x402.verify(claim), x402.settle(claim)
    assert (verdict.status_code, verdict.json()["invalidReason"]) == (
        500,
        "unexpected_verify_error",
    )
    assert (answer.status_code, answer.json()["errorReason"]) == (500, "unexpected_settle_error")
    del claim["paymentPayload"]["payload"]["authorization"]
    reason = f"{PREFIX}payload_recipient_mismatch"
    assert x402.verify(claim).json() == {"isValid": False, "invalidReason": reason, "payer": ""}
    for body in (b"", b"[]", b"{", b"[" * 20000):
        assert x402.verify(None, data=body).status_code == 400


def test_of_many_settles_of_one_payment_at_once_one_succeeds(x402):
    x402.give(PAYER, 10 * AMOUNT)
    claim = x402.claim()
    url = f"{x402.simulator.url}/facilitator/settle"

    def settle(_number: int) -> bool:
        return requests.post(url, json=claim, timeout=8).json()["success"]

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(settle, range(8))) == [False] * 7 + [True]
    assert x402.balance(SHOP) == AMOUNT


def test_time_can_be_moved_so_that_an_authorization_runs_out(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim(now=int(time.time()))
    x402.simulator.control("clock", ahead_seconds=61)
    reason = f"{PREFIX}payload_authorization_valid_before"
    assert x402.settle(claim).json()["errorReason"] == reason
    x402.simulator.control("clock")
    assert x402.settle(claim).json()["success"] is True
