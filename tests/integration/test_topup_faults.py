"""Top-ups while the facilitator or the chain's node fails: nothing is lost, nothing comes twice.

An outcome that nobody told is never a refusal: it is pending until the chain decides (contract 7).
"""

import secrets
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from deploy.simulator.wallet import read_header
from shared.models.x402 import Settlement
from shared.payments import watching
from tests.front_door import snapshot
from tests.shop import FIVE, M, Shop
from tests.x402_harness import PAYER, SHOP

DEEP = 12
NONCE_USED = "invalid_exact_evm_nonce_already_used"
OPEN, FREE, PAID = ("settling", "new", True), ("refused", "done", False), ("settled", "done", True)
NO_ANSWERS = {
    "down": {},
    "error": {},
    "html": {},
    "redirect": {},
    "rate_limited": {},
    "garbage": {},
    "truncated": {},
    "wrong_types": {},
    "wrong_shape": {},
    "lost_answer": {},
    "hang": {"seconds": 0.3},
}
CARRIED_OUT = {
    "garbage": {},
    "truncated": {},
    "wrong_types": {},
    "wrong_shape": {},
    "lost_answer": {},
    "timeout_after_settle": {"seconds": 0.3},
}
NOT_CARRIED_OUT = {"down": {}, "error": {}, "html": {}, "redirect": {}, "hang": {"seconds": 0.3}}


def pay_unheard(shop: Shop, mode: str, **how: Any) -> dict[str, Any]:
    """Pay while the settlement's answer is lost in the way of *mode*; return what was told."""
    shop.x402.fault(mode, on="settle", count=1, **how)
    answered = shop.pay()
    assert answered.status_code == 202, answered.text
    assert answered.json()["settlement"] == "settlement_pending"
    assert not {"PAYMENT-RESPONSE", "X-PAYMENT-RESPONSE"} & set(answered.headers)
    assert shop.settlements() == [OPEN]
    assert shop.balance() == 0
    return dict(answered.json())


def pass_time(shop: Shop, seconds: int) -> None:
    """Move the chain's clock and mine a block, so that the chain knows it."""
    shop.x402.simulator.control("clock", ahead_seconds=seconds)
    shop.x402.mine()


@pytest.mark.parametrize("mode", NO_ANSWERS)
def test_a_facilitator_that_cannot_verify_is_away_and_nothing_is_kept(
    shop: Shop, mode: str
) -> None:
    """Behaviour W51: 503, and the same payment is good when the facilitator is back."""
    header, before = shop.sign(shop.ask()), snapshot(shop.api, shop.account)
    shop.x402.fault(mode, on="verify", count=1, **NO_ANSWERS[mode])
    away = shop.post(FIVE, **header)
    assert (away.status_code, away.json()["code"]) == (503, "facilitator_unavailable")
    assert int(away.headers["Retry-After"]) > 0
    assert snapshot(shop.api, shop.account) == before
    assert shop.settlements() == [FREE]
    assert shop.x402.calls()["settle"] == 0
    assert shop.post(FIVE, **header).status_code == 201
    assert shop.balance() == 5 * M


@pytest.mark.parametrize("on", ["verify", "settle"])
def test_a_refusal_of_the_facilitator_uses_nothing_up(shop: Shop, on: str) -> None:
    header = shop.sign(shop.ask())
    shop.x402.fault(f"refuse_{on}", count=1, code="insufficient_funds")
    refused = shop.post(FIVE, **header)
    assert (refused.status_code, refused.json()["code"]) == (402, "insufficient_funds")
    assert read_header(refused.headers["PAYMENT-REQUIRED"])["error"] == "insufficient_funds"
    assert shop.settlements() == [FREE]
    assert shop.post(FIVE, **header).status_code == 201
    assert shop.balance() == 5 * M


def test_a_facilitator_that_takes_no_call_has_settled_nothing(shop: Shop) -> None:
    header = shop.sign(shop.ask())
    shop.x402.fault("rate_limited", on="settle", count=1)
    assert shop.post(FIVE, **header).status_code == 503
    assert shop.settlements() == [FREE]
    assert shop.post(FIVE, **header).status_code == 201


@pytest.mark.parametrize("mode", CARRIED_OUT)
def test_a_settlement_whose_answer_is_lost_is_credited_once_when_deep(
    shop: Shop, mode: str
) -> None:
    told = pay_unheard(shop, mode, **CARRIED_OUT[mode])
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([OPEN], 0)
    shop.x402.mine(DEEP)
    for _ in range(3):
        shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)
    [settled] = shop.x402.settlements()
    shown = shop.payment(told["paymentId"])
    assert (shown["status"], shown["providerPaymentId"]) == ("finished", settled["transaction"])


@pytest.mark.parametrize("mode", NOT_CARRIED_OUT)
def test_a_settlement_that_was_never_sent_is_free_when_its_time_is_over(
    shop: Shop, mode: str
) -> None:
    asked = shop.ask()
    header = shop.sign(asked)
    shop.x402.fault(mode, on="settle", count=1, **NOT_CARRIED_OUT[mode])
    told = shop.post(FIVE, **header)
    assert told.status_code == 202, told.text
    again = shop.post(FIVE, **header)
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    assert shop.post(FIVE, **shop.sign(asked)).status_code == 409
    shop.watch()
    assert shop.settlements() == [OPEN]
    pass_time(shop, 1_000)
    shop.watch()
    assert shop.settlements() == [FREE]
    assert shop.payment(told.json()["paymentId"])["status"] == "failed"
    shop.x402.reset()
    shop.x402.give(PAYER, 5 * M)
    assert shop.post(FIVE, **shop.sign(asked)).status_code == 201
    assert shop.balance() == 5 * M


def test_a_settlement_that_is_pending_is_credited_when_it_is_deep(shop: Shop) -> None:
    told = pay_unheard(shop, "settlement_pending")
    [settled] = shop.x402.settlements()
    assert told["transaction"] == settled["transaction"]
    shop.watch()
    shop.x402.mine(DEEP)
    shop.watch()
    assert shop.settlements() == [OPEN]
    shop.x402.mine()
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)


def test_a_pending_settlement_that_is_dropped_is_free_when_its_time_is_over(shop: Shop) -> None:
    told = pay_unheard(shop, "settlement_pending")
    shop.x402.simulator.control("chain/drop", transaction=told["transaction"])
    shop.watch()
    assert shop.settlements() == [OPEN]
    pass_time(shop, 1_000)
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([FREE], 0)


@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_payment_that_another_transaction_carried_out_is_credited(
    shop: Shop, is_dropped: bool
) -> None:
    """The facilitator sends again for more gas, or somebody who saw it sends it first: what it had
    named fails or vanishes, and the money has come all the same."""
    asked = shop.ask()
    header = shop.sign(asked)
    shop.x402.fault("settlement_pending", count=1)
    told = shop.post(FIVE, **header).json()
    payment = read_header(header["PAYMENT_SIGNATURE"])
    signature = payment["payload"]["signature"]
    payment["payload"]["signature"] = f"{signature[:-2]}{int(signature[-2:], 16) - 27:02x}"
    if is_dropped:
        shop.x402.simulator.control("chain/drop", transaction=told["transaction"])
    by_another = {"x402Version": 2, "paymentPayload": payment}
    terms = read_header(asked.headers["PAYMENT-REQUIRED"])["accepts"][0]
    sent = shop.x402.settle(by_another | {"paymentRequirements": terms}).json()
    assert sent["success"]
    assert sent["transaction"] != told["transaction"]
    shop.x402.mine(DEEP)
    shop.watch()
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)
    assert shop.x402.balance(SHOP) == 5 * M
    shown = shop.payment(told["paymentId"])
    assert shown["providerPaymentId"] == sent["transaction"]


def test_an_authorization_that_is_said_to_be_used_is_looked_up(shop: Shop) -> None:
    """Nobody but the chain knows for whom it was used."""
    asked = shop.ask()
    header = shop.sign(asked)
    shop.x402.fault("refuse_settle", count=1, code=NONCE_USED)
    assert shop.post(FIVE, **header).status_code == 202
    payment = read_header(header["PAYMENT_SIGNATURE"])
    terms = read_header(asked.headers["PAYMENT-REQUIRED"])["accepts"][0]
    claim = {"x402Version": 2, "paymentPayload": payment, "paymentRequirements": terms}
    assert shop.x402.settle(claim).json()["success"]
    shop.x402.mine(DEEP)
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)


def test_an_authorization_that_was_used_for_something_else_pays_nothing(shop: Shop) -> None:
    nonce = f"0x{secrets.token_hex(32)}"
    asked = shop.ask()
    shop.x402.fault("refuse_settle", count=1, code=NONCE_USED)
    assert shop.post(FIVE, **shop.sign(asked, nonce=nonce)).status_code == 202
    shop.x402.simulator.control("chain/nonces", **{"from": PAYER, "nonce": nonce})
    shop.watch()
    assert shop.settlements() == [OPEN]  # not deep enough to be sure
    shop.x402.mine(DEEP)
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([FREE], 0)
    used = shop.post(FIVE, **shop.sign(asked, nonce=nonce))
    assert (used.status_code, used.json()["code"]) == (402, NONCE_USED)
    assert shop.post(FIVE, **shop.sign(asked)).status_code == 201


RPC_FAULTS = ["down", "error", "html", "garbage", "truncated", "wrong_types", "error_object"]


@pytest.mark.parametrize("mode", [*RPC_FAULTS, "lost_answer"])
def test_a_node_that_is_away_is_waited_for(shop: Shop, mode: str) -> None:
    """Behaviour W34: nothing is judged without the chain, and nothing is lost."""
    pay_unheard(shop, "lost_answer")
    shop.x402.mine(DEEP)
    shop.x402.simulator.control("rpc/faults", mode=mode)
    shop.watch()
    assert shop.settlements() == [OPEN]
    shop.x402.simulator.control("rpc/faults", mode="none")
    shop.cashier = shop.premises.cashier()  # which has not yet learned to leave the node alone
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)


def test_a_settlement_is_looked_at_every_minute_however_long_the_node_is_away(shop: Shop) -> None:
    """Contract 8: within two minutes of recovery everything has healed."""
    pay_unheard(shop, "lost_answer")
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE x402_settlements SET attempts = 50 WHERE state = 'new'"
        )
    shop.watch()
    with shop.api.database.reading() as tx:
        [(due_at,)] = tx.all(select(Settlement.due_at).where(Settlement.state == "new"))
        assert 0 < (due_at - tx.now).total_seconds() < 70


def test_one_that_cannot_be_worked_on_does_not_stop_the_others(shop: Shop) -> None:
    """A settlement whose row makes no sense is tried again and again; those behind it go on."""
    first = pay_unheard(shop, "lost_answer")
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE x402_settlements SET value = 'nonsense' WHERE payment_id ="
            f" '{first['paymentId']}'"
        )
    shop.x402.fault("lost_answer", on="settle", count=1)
    assert shop.pay({"amountUsd": "7.00"}).status_code == 202
    shop.x402.mine(DEEP)
    with pytest.raises(ValueError, match="nonsense"):
        shop.watch()
    watching.watch(shop.cashier)
    assert shop.balance() == 7 * M
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE x402_settlements SET value = '5000000' WHERE value = 'nonsense'"
        )
    shop.watch()
    assert shop.balance() == 12 * M


@pytest.mark.parametrize("mode", ["error", "settlement_pending"])
def test_without_a_node_the_facilitator_is_asked_again(shop: Shop, mode: str) -> None:
    """The same authorization moves money once at the most."""
    shop.cashier = replace(shop.cashier, chains={})
    pay_unheard(shop, mode)
    if mode == "settlement_pending":
        shop.watch()
        assert shop.settlements() == [OPEN]
        shop.x402.mine()
    shop.watch()
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)
    assert shop.x402.balance(SHOP) == 5 * M


def test_without_a_node_what_stays_unknown_is_for_a_person(shop: Shop) -> None:
    shop.cashier = replace(shop.cashier, chains={})
    told = pay_unheard(shop, "lost_answer")
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([("settling", "parked", True)], 0)
    shown = shop.payment(told["paymentId"])
    assert shown["status"] == "manual_review"
    assert "outcome is unknown" in shown["reviewReason"]
    assert shop.dead_letters(told["paymentId"]) == [("deposit", "manual_review")]
    shop.watch()
    assert shop.balance() == 0


def test_without_a_node_a_facilitator_that_is_away_is_waited_for(shop: Shop) -> None:
    shop.cashier = replace(shop.cashier, chains={})
    pay_unheard(shop, "error")
    shop.x402.fault("down")
    shop.watch()
    assert shop.settlements() == [OPEN]
    shop.x402.fault("none")
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([PAID], 5 * M)


def test_two_authorizations_in_one_transaction_are_for_a_person(shop: Shop) -> None:
    """Somebody sent both at once: the second is neither credited blindly nor said to be unpaid."""
    first = shop.pay()
    assert first.status_code == 201
    shop.x402.fault("lost_answer", on="settle", count=1)
    second = shop.pay().json()
    with shop.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(
            "UPDATE crypto_payments SET provider_payment_id ="
            f" '{shop.x402.settlements()[1]['transaction']}'"
            f" WHERE id = '{first.json()['paymentId']}'"
        )
    shop.x402.mine(DEEP)
    shop.watch()
    assert shop.balance() == 5 * M
    assert shop.payment(second["paymentId"])["status"] == "manual_review"
    assert shop.dead_letters(second["paymentId"]) == [("deposit", "manual_review")]
