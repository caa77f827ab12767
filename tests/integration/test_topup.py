"""Top-ups by x402 over HTTP, with a real facilitator's protocol and a chain beside (contract 7)."""

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from deploy.simulator.wallet import address_of, key_named, read_header, twin_of, write_header
from shared.errors import Conflict, Unavailable
from shared.notifications import deliveries, endpoints
from shared.notifications.endpoints import Wanted
from shared.payments.quotes import find_quote
from shared.payments.settling import settle
from shared.payments.x402.wire import payment_in
from tests.front_door import rows, snapshot
from tests.shop import FIVE, M, Shop, at_once
from tests.webhooks_out import KEYS, OPERATOR
from tests.x402_harness import OTHER, PAYER, PAYER_KEY, SHOP

ANSWER_HEADERS = {1: "X-PAYMENT-RESPONSE", 2: "PAYMENT-RESPONSE"}
OF_THE_PAYLOAD = "invalid_exact_evm_payload_"


@pytest.mark.parametrize("version", [1, 2])
def test_terms_are_told_paid_and_credited_once(shop: Shop, version: int) -> None:
    """Behaviours 87 and 164."""
    asked = shop.ask()
    assert (asked.json()["code"], asked.json()["creditMicro"]) == ("payment_required", "5000000")
    header = shop.sign(asked, version)
    paid = shop.post(FIVE, **header)
    assert paid.status_code == 201, paid.text
    told = paid.json()
    assert (told["status"], told["settlement"]) == ("finished", "settled")
    assert (told["amountUsdMicro"], told["provider"]) == ("5000000", "x402")
    assert shop.balance() == 5 * M
    before = snapshot(shop.api, shop.account)
    again = shop.post(FIVE, **header)
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    assert again.json()["details"] == {"paymentId": told["paymentId"], "status": "finished"}
    assert snapshot(shop.api, shop.account) == before
    lot = rows(shop.api, "SELECT source_id FROM credit_lots WHERE id = :id", id=told["lotId"])
    assert lot == [(f"x402-{told['transaction']}",)]
    assert shop.x402.balance(SHOP) == 5 * M


def test_whoever_subscribed_is_told_of_a_top_up(shop: Shop) -> None:
    with shop.api.database.transaction() as tx:
        wanted = Wanted(url="http://127.0.0.1:9/", event_types=["account.deposit_credited"])
        made = endpoints.create(tx, OPERATOR, KEYS, wanted)
    lot = shop.pay().json()["lotId"]
    with shop.api.database.transaction() as tx:
        found = deliveries.list_deliveries(tx, made["endpointId"], limit=10)["deliveries"]
        endpoints.remove(tx, OPERATOR, made["endpointId"])
    assert [(one["data"]["lotId"], one["data"]["source"]) for one in found] == [(lot, "x402")]


@pytest.mark.parametrize("version", [1, 2])
def test_the_answer_to_a_payment_tells_its_settlement_in_a_header(shop: Shop, version: int) -> None:
    paid = shop.pay(version=version)
    assert ANSWER_HEADERS[3 - version] not in paid.headers
    [settled] = shop.x402.settlements()
    assert read_header(paid.headers[ANSWER_HEADERS[version]]) == {
        "success": True,
        "transaction": settled["transaction"],
        "network": "base" if version == 1 else "eip155:8453",
        "payer": PAYER.lower(),
    }


def high_s(header: dict[str, str]) -> dict[str, str]:
    """Return the same payment with the other signature of the same key."""
    [(name, value)] = header.items()
    payment = read_header(value)
    payment["payload"]["signature"] = twin_of(payment["payload"]["signature"])
    return {name: write_header(payment)}


def in_seconds(seconds: int) -> str:
    return str(int(time.time()) + seconds)


USDC_OF_SEPOLIA = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
WRONG: dict[str, tuple[int, dict[str, Any], str]] = {
    "less": (2, {"value": "4999999"}, f"{OF_THE_PAYLOAD}authorization_value_mismatch"),
    "more": (2, {"value": "5000001"}, f"{OF_THE_PAYLOAD}authorization_value_mismatch"),
    "another amount": (
        2,
        {"changes": {"amount": "1"}},
        f"{OF_THE_PAYLOAD}authorization_value_mismatch",
    ),
    "to another": (2, {"to": OTHER}, f"{OF_THE_PAYLOAD}recipient_mismatch"),
    "to another in v1": (1, {"to": OTHER}, f"{OF_THE_PAYLOAD}recipient_mismatch"),
    "another asset": (2, {"changes": {"asset": USDC_OF_SEPOLIA}}, "invalid_payment_requirements"),
    "another network": (2, {"changes": {"network": "eip155:84532"}}, "network_mismatch"),
    "another network in v1": (1, {"changes": {"network": "base-sepolia"}}, "quote_unknown"),
    "another time-out": (
        2,
        {"changes": {"maxTimeoutSeconds": 30}},
        "invalid_payment_requirements",
    ),
    "far ahead": (2, {"ahead": 86_400}, f"{OF_THE_PAYLOAD}authorization_valid_before"),
    "for ever": (
        2,
        {"validBefore": str(2**256 - 1)},
        f"{OF_THE_PAYLOAD}authorization_valid_before",
    ),
    "expired": (2, {"ahead": -1}, f"{OF_THE_PAYLOAD}authorization_valid_before"),
    "about to expire": (1, {"ahead": 3}, f"{OF_THE_PAYLOAD}authorization_valid_before"),
    "signed by another": (
        2,
        {"key": key_named("other"), "payer": PAYER},
        f"{OF_THE_PAYLOAD}signature",
    ),
    "high s": (2, {"turn": high_s}, f"{OF_THE_PAYLOAD}signature"),
    "high s in v1": (1, {"turn": high_s}, f"{OF_THE_PAYLOAD}signature"),
    "an unknown quote": (
        2,
        {"changes": {"extra": {"name": "USD Coin", "version": "2", "quoteId": "quote_none"}}},
        "quote_unknown",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_pay_the_terms_is_refused_and_uses_nothing_up(shop: Shop, name: str) -> None:
    """Behaviour W51: neither the quote nor the authorization is burned by a refusal."""
    version, how, code = WRONG[name]
    how = dict(how)
    turn: Callable[[Any], Any] = how.pop("turn", lambda header: header)
    if "ahead" in how:
        how["validBefore"] = in_seconds(how.pop("ahead"))
    asked, nonce = shop.ask(), f"0x{secrets.token_hex(32)}"
    before = snapshot(shop.api, shop.account)
    refused = shop.post(FIVE, **turn(shop.sign(asked, version, nonce=nonce, **how)))
    assert (refused.status_code, refused.json()["code"]) == (402, code), refused.text
    assert read_header(refused.headers["PAYMENT-REQUIRED"])["error"] == code
    assert snapshot(shop.api, shop.account) == before
    assert shop.settlements() == []
    assert shop.x402.calls()["verify"] == 0
    paid = shop.post(FIVE, **shop.sign(asked, version, nonce=nonce))
    assert paid.status_code == 201, paid.text
    assert shop.balance() == 5 * M


def test_anothers_quote_is_unknown_and_stays_payable_by_its_owner(shop: Shop) -> None:
    """Behaviour 96: a wrong account is refused, and the quote is kept."""
    header = shop.sign(shop.ask())
    stranger = shop.api.funded_account(0)
    refused = shop.post(FIVE, stranger, **header)
    assert (refused.status_code, refused.json()["code"]) == (402, "quote_unknown")
    assert shop.post(FIVE, **header).status_code == 201
    assert (shop.balance(), shop.balance(stranger)) == (5 * M, 0)


def test_an_expired_quote_is_refused_with_a_new_one(shop: Shop) -> None:
    """Behaviour 96."""
    asked = shop.ask()
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql("UPDATE payment_quotes SET expires_at = created_at")
    refused = shop.post(FIVE, **shop.sign(asked))
    assert (refused.status_code, refused.json()["code"]) == (402, "quote_expired")
    assert refused.json()["quoteId"] != asked.json()["quoteId"]
    assert shop.post(FIVE, **shop.sign(refused)).status_code == 201
    assert shop.balance() == 5 * M


def test_a_quote_is_paid_once_and_a_second_payment_is_not_sent(shop: Shop) -> None:
    asked = shop.ask()
    assert shop.post(FIVE, **shop.sign(asked)).status_code == 201
    again = shop.post(FIVE, **shop.sign(asked))
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    assert shop.x402.balance(SHOP) == 5 * M
    assert shop.balance() == 5 * M


def test_the_quote_says_what_is_credited_whatever_the_body_says(shop: Shop) -> None:
    """Behaviour W51: paying $24 must not yield $10.50."""
    asked = shop.ask({"amountUsd": "24.00"})
    paid = shop.post({"amountUsd": "10000.00"}, **shop.sign(asked))
    assert paid.status_code == 201
    assert (paid.json()["amountUsdMicro"], shop.balance()) == ("24000000", 24 * M)
    cheap = shop.sign(shop.ask({"amountUsd": "1.00"}), version=1)
    dear = shop.ask({"amountUsd": "100.00"}).json()["quoteId"]
    refused = shop.post({"amountUsd": "100.00", "quoteId": dear}, **cheap)
    assert refused.status_code == 402
    assert refused.json()["code"] == f"{OF_THE_PAYLOAD}authorization_value_mismatch"
    assert shop.balance() == 24 * M


@pytest.mark.parametrize("header", ["", "junk", "e30=", "bm90IGpzb24=", "A" * 17_000, "eyJ9"])
@pytest.mark.parametrize("name", ["PAYMENT_SIGNATURE", "X_PAYMENT"])
def test_a_malformed_payment_is_no_missing_payment(shop: Shop, name: str, header: str) -> None:
    answered = shop.post(FIVE, **{name: header})
    assert answered.status_code == 400, answered.text
    assert answered.json()["code"] == "invalid_payment_header"
    assert shop.settlements() == []


def test_a_request_carries_one_payment(shop: Shop) -> None:
    asked = shop.ask()
    both = shop.sign(asked, 1) | shop.sign(asked, 2)
    answered = shop.post(FIVE, **both)
    assert (answered.status_code, answered.json()["code"]) == (400, "invalid_payment_header")
    assert shop.settlements() == []


def test_one_authorization_for_two_accounts_at_once_is_credited_once(shop: Shop) -> None:
    """Behaviour 162. Version 1 names no quote, so it pays whose request brings it first."""
    other = shop.api.funded_account(0)
    asked = shop.ask()
    shop.ask(account=other)
    header = shop.sign(asked, version=1)
    calls = [partial(shop.post, FIVE, account, **header) for account in (shop.account, other)] * 8
    answers = at_once(*calls)
    assert sorted({one.status_code for one in answers} - {409, 503}) == [201]
    assert [one.status_code for one in answers].count(201) == 1
    assert sorted([shop.balance(), shop.balance(other)]) == [0, 5 * M]
    assert shop.x402.balance(SHOP) == 5 * M


def test_one_authorization_sixteen_times_at_once_is_settled_once(shop: Shop) -> None:
    """Behaviour 162, below the limit of requests for one account."""
    header = shop.sign(shop.ask())["PAYMENT_SIGNATURE"]
    payment = payment_in(payment_signature=header, x_payment=None)
    assert payment is not None
    with shop.cashier.database.reading() as tx:
        offer = find_quote(tx, account_id=shop.account, payment=payment, quote_id=None)

    def take() -> Any:
        try:
            return settle(shop.cashier, offer, payment).status
        except (Conflict, Unavailable) as refusal:
            return refusal.code

    answers = at_once(*[take] * 16)
    assert answers.count("settled") == 1
    assert set(answers) <= {"settled", "payment_replayed", "topups_busy", "database_busy"}
    assert (shop.balance(), shop.x402.calls()["settle"]) == (5 * M, 1)


def test_two_authorizations_for_one_quote_at_once_move_money_once(shop: Shop) -> None:
    asked = shop.ask()
    headers = [shop.sign(asked) for _ in range(6)]
    answers = at_once(*[partial(shop.post, FIVE, **header) for header in headers])
    assert sorted(one.status_code for one in answers) == [201, *[409] * 5]
    assert (shop.balance(), shop.x402.balance(SHOP)) == (5 * M, 5 * M)


def test_many_payers_at_once_are_each_credited_their_own(shop: Shop) -> None:
    amounts = [1, 2, 3, 4, 5]
    members = [shop.api.funded_account(0) for _ in amounts]
    calls = []
    for amount, account in zip(amounts, members, strict=True):
        key, body = key_named(f"payer {amount}"), {"amountUsd": f"{amount}.00"}
        shop.x402.give(address_of(key), amount * M)
        header = shop.sign(shop.ask(body, account), key=key)
        calls.append(partial(shop.post, body, account, **header))
    assert [one.status_code for one in at_once(*calls)] == [201] * 5
    assert [shop.balance(account) for account in members] == [n * M for n in amounts]


def test_a_payer_without_money_is_told_so_and_can_pay_later(shop: Shop) -> None:
    shop.x402.give(PAYER, 4 * M)
    header = shop.sign(shop.ask())
    refused = shop.post(FIVE, **header)
    assert refused.status_code == 402
    assert refused.json()["code"] == "invalid_exact_evm_insufficient_balance"
    assert shop.settlements() == [("refused", "done", False)]
    shop.x402.give(PAYER, 5 * M)
    assert shop.post(FIVE, **header).status_code == 201
    assert shop.balance() == 5 * M


def test_the_spelling_of_an_authorization_makes_no_other_one(shop: Shop) -> None:
    """Protocols 2.5: what is reserved is (network, asset, payer, nonce), in lower case."""
    asked = shop.ask()
    nonce = f"0xab{secrets.token_hex(31)}"
    first = shop.sign(asked, nonce=nonce)
    assert shop.post(FIVE, **first).status_code == 201
    payment = read_header(first["PAYMENT_SIGNATURE"])
    signed = payment["payload"]["authorization"]
    signed |= {"nonce": f"0x{nonce[2:].upper()}", "from": f"0x{PAYER[2:].upper()}"}
    payment["accepted"]["extra"]["quoteId"] = shop.ask().json()["quoteId"]
    again = shop.post(FIVE, PAYMENT_SIGNATURE=write_header(payment))
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    assert shop.balance() == 5 * M
    assert PAYER_KEY not in shop.premises.log.read_text()
