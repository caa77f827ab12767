"""Top-ups that are asked for wrongly, too often, without a token, or where x402 is off."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.front_door import send, snapshot
from tests.harness import Api, Databases, running_api, unique
from tests.integration.test_startup import settings_for
from tests.shop import FIVE, Shop, networks
from tests.starting import start
from tests.x402_harness import PAYER

HASH = f"0x{'a1' * 32}"
CLAIM = {**FIVE, "txHash": HASH, "chainId": 8453, "from": PAYER, "amount": "5000000"}
MALFORMED: dict[str, tuple[Any, str, str]] = {
    "above the most": ({"amountUsd": "10001"}, "amountUsd", "Maximum top-up is $10,000"),
    "a micro above": ({"amountUsd": "10000.000001"}, "amountUsd", "Maximum top-up is $10,000"),
    "a number": ({"amountUsd": 5}, "amountUsd", ""),
    "a fraction": ({"amountUsd": 5.5}, "amountUsd", ""),
    "zero": ({"amountUsd": "0"}, "amountUsd", ""),
    "negative": ({"amountUsd": "-5"}, "amountUsd", ""),
    "an exponent": ({"amountUsd": "1e3"}, "amountUsd", ""),
    "not a number": ({"amountUsd": "NaN"}, "amountUsd", ""),
    "seven decimals": ({"amountUsd": "1.0000001"}, "amountUsd", ""),
    "other digits": ({"amountUsd": "\uff15"}, "amountUsd", ""),
    "very long": ({"amountUsd": "9" * 5_000}, "amountUsd", ""),
    "true": ({"amountUsd": True}, "amountUsd", ""),
    "a list": ({"amountUsd": ["5.00"]}, "amountUsd", ""),
    "nothing": ({}, "body", "amountUsd or packId"),
    "both": (FIVE | {"packId": "starter"}, "body", "amountUsd or packId"),
    "a short hash": (CLAIM | {"txHash": HASH[:-1]}, "txHash", ""),
    "a long hash": (CLAIM | {"txHash": f"{HASH}0"}, "txHash", ""),
    "a hash with a line": (CLAIM | {"txHash": f"{HASH}\n"}, "txHash", ""),
    "a hash that is a number": (CLAIM | {"txHash": 5}, "txHash", ""),
    "a chain in text": (CLAIM | {"chainId": "8453"}, "chainId", ""),
    "no chain 99": (CLAIM | {"chainId": 0}, "chainId", ""),
    "a huge chain": (CLAIM | {"chainId": 2**60}, "chainId", ""),
    "a hash alone": (FIVE | {"txHash": HASH}, "body", "belong together"),
    "a chain alone": (FIVE | {"chainId": 8453}, "body", "belong together"),
    "no sender": ({k: v for k, v in CLAIM.items() if k != "from"}, "body", "belong together"),
    "a short sender": (CLAIM | {"from": PAYER[:-1]}, "from", ""),
    "an empty amount 99": (CLAIM | {"amount": ""}, "amount", ""),
    "an odd signature": (CLAIM | {"signature": "0x123"}, "signature", ""),
    "a huge signature": (CLAIM | {"signature": f"0x{'11' * 20_000}"}, "signature", ""),
    "a quote of another form": (FIVE | {"quoteId": "a b"}, "quoteId", ""),
    "a pack that is a number": ({"packId": 7}, "packId", ""),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_named_and_changes_nothing(shop: Shop, name: str) -> None:
    """Behaviours 99, 134, 173."""
    body, field, words = MALFORMED[name]
    before = snapshot(shop.api, shop.account)
    answered = shop.post(body)
    assert answered.status_code == 400, answered.text
    told = answered.json()
    assert (told["error"], told["code"]) == ("Validation Error", "validation_error")
    assert any(one["field"] == field for one in told["details"]), told
    assert any(words in one["message"] for one in told["details"]), told
    assert snapshot(shop.api, shop.account) == before
    assert shop.settlements() == []


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'"5"', b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_answered_too(shop: Shop, body: bytes) -> None:
    """Behaviour 173: every request is answered, and the process survives."""
    headers = shop.api.member(shop.account) | {"Content-Type": "application/json"}
    status, _, answer = send(shop.api, "POST", "/api/billing/topup", body, headers)
    assert (status, json.loads(answer)["code"]) == (400, "validation_error")


def test_a_request_without_end_is_too_large(shop: Shop) -> None:
    large = json.dumps(FIVE | {"x": "y" * 1_100_000}).encode()
    headers = shop.api.member(shop.account) | {"Content-Type": "application/json"}
    status, _, _ = send(shop.api, "POST", "/api/billing/topup", large, headers)
    assert status == 413
    assert shop.ask().status_code == 402


def test_the_most_that_can_be_topped_up_can_be(shop: Shop) -> None:
    shop.x402.give(PAYER, 10_000_000_000)
    assert shop.pay({"amountUsd": "10000"}).status_code == 201
    assert shop.balance() == 10_000_000_000


def test_the_eleventh_top_up_in_a_minute_is_too_many(shop: Shop) -> None:
    """Contract 3: ten in a minute for an account; another account has its own."""
    for _ in range(10):
        assert shop.ask().headers["RateLimit-Limit"] == "10"
    late = shop.post(FIVE)
    assert (late.status_code, late.json()["code"]) == (429, "rate_limited")
    assert int(late.headers["Retry-After"]) > 0
    shop.ask(account=shop.api.funded_account(0))


def test_a_top_up_needs_a_members_token(shop: Shop) -> None:
    header = {"PAYMENT-SIGNATURE": shop.sign(shop.ask())["PAYMENT_SIGNATURE"]}
    bearers: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer nonsense"},
        shop.api.s2s(),
        shop.api.admin(),
        shop.api.member(shop.account, secret="another-secret-" + "x" * 32),
        shop.api.member(shop.account, exp=1),
        shop.api.member(shop.account, aud="arrakis-internal"),
    ]
    for bearer in bearers:
        answered = shop.api.post("/api/billing/topup", FIVE, headers=bearer | header)
        assert answered.status_code == 401, answered.text
    assert shop.x402.calls()["verify"] == 0


def test_an_account_that_is_none_is_offered_nothing(shop: Shop) -> None:
    nobody = shop.post(FIVE, account=unique("nobody"))
    assert nobody.status_code == 404


def test_what_is_sent_to_a_network_that_was_switched_off_is_not_taken(shop: Shop) -> None:
    """The quote names a network that the settings no longer have: refused, not lost."""
    asked = shop.ask()
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE payment_quotes SET offers = REPLACE(offers, 'eip155:8453', 'eip155:137')"
            f" WHERE id = '{asked.json()['quoteId']}'"
        )
    refused = shop.post(FIVE, **shop.sign(asked))
    assert (refused.status_code, refused.json()["code"]) == (402, "network_mismatch")


def test_without_networks_x402_is_off_95(api: Api) -> None:
    account = api.funded_account(0)
    for body in (FIVE, CLAIM, {"packId": "starter"}):
        off = api.post("/api/billing/topup", body, headers=api.member(account))
        assert (off.status_code, off.json()["code"]) == (503, "x402_not_configured")
        assert off.headers["Retry-After"] == "60"


def test_while_the_feature_is_off_nothing_is_sold(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    settings = {"FEATURE_BILLING_ENABLED": "false"}
    url = databases.make("sqlite")
    with running_api(url, redis_url, tmp_path / "api.log", **settings) as off:
        topup = off.post("/api/billing/topup", FIVE, headers=off.member("anyone"))
        shown = [off.get(f"/api/billing/{page}", headers={}) for page in ("packs", "pricing")]
        for answered in (topup, *shown):
            assert (answered.status_code, answered.json()["code"]) == (503, "billing_not_enabled")


class NoSimulator:
    """Where the settings of a start that must not succeed point."""

    url = "http://127.0.0.1:1"


GOOD = networks(NoSimulator())
FAULTS = {  # the unit tests of the setting have them all
    "{": "X402_NETWORKS is not JSON",
    networks(NoSimulator(), payTo=" "): "X402_NETWORKS[0].payTo",
    json.dumps(json.loads(GOOD) * 2): "twice",
}


@pytest.mark.parametrize("setting", FAULTS)
def test_a_fault_in_the_networks_stops_the_start_with_a_sentence_95(
    databases: Databases, tmp_path: Path, setting: str
) -> None:
    stopped = start(with_schema(databases, tmp_path, X402_NETWORKS=setting))
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("Cannot start: "), stopped.stderr
    assert FAULTS[setting] in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1


@pytest.mark.parametrize("seconds", ["0", "inf"])
def test_a_quote_without_time_stops_the_start_96(tmp_path: Path, seconds: str) -> None:
    stopped = start(settings_for(tmp_path / "new.db", X402_QUOTE_TTL_SECONDS=seconds))
    assert stopped.returncode == 1
    assert stopped.stderr.startswith("Cannot start: X402_QUOTE_TTL_SECONDS"), stopped.stderr


def test_good_networks_do_not_stop_it(databases: Databases, tmp_path: Path) -> None:
    assert start(with_schema(databases, tmp_path, X402_NETWORKS=GOOD)).returncode == 0


def with_schema(databases: Databases, tmp_path: Path, **changes: str) -> dict[str, str]:
    """Return the settings of a start on a migrated database."""
    url = databases.make("sqlite")
    return settings_for(tmp_path / "unused.db", **changes) | {"DATABASE_URL": url}
