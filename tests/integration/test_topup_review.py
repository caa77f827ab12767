"""Top-ups that two work on at once, and those that came back from a person's desk (contract 8)."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import update

from deploy.simulator.wallet import read_header
from shared.clock import add_seconds
from shared.models.x402 import Quote
from shared.payments import quotes
from tests.front_door import rows
from tests.harness import unique, wait_until
from tests.shop import FIVE, M, Shop, at_once

DEEP = 12


@pytest.mark.parametrize("is_deep", [False, True])
def test_a_worker_that_takes_over_too_early_credits_nothing_twice(
    shop: Shop, is_deep: bool
) -> None:
    """The lease was lost while the facilitator answered: the payer hears how far it has come."""
    header = shop.sign(shop.ask())
    shop.x402.fault("slow", on="settle", count=1, seconds=20)

    def take_over() -> Any:
        wait_until("the transfer", shop.x402.settlements)
        if is_deep:
            shop.x402.mine(DEEP)
        shop.watch()
        seen = shop.settlements()
        shop.x402.fault("none")  # now it answers
        return seen

    answered, seen = at_once(partial(shop.post, FIVE, **header), take_over)
    phase = ("settled", "done", True) if is_deep else ("settling", "new", True)
    assert seen == [phase]
    assert answered.status_code == (201 if is_deep else 202), answered.text
    if is_deep:
        told = read_header(answered.headers["PAYMENT-RESPONSE"])
        assert told["transaction"] == answered.json()["transaction"]
        assert answered.json()["status"] == "finished"
    shop.x402.mine(DEEP)
    shop.watch()
    shop.watch()
    assert (shop.settlements(), shop.balance()) == ([("settled", "done", True)], 5 * M)


def test_money_that_is_said_to_have_come_after_all_is_for_a_person(shop: Shop) -> None:
    """A worker saw a chain without it, as after a reorganisation, and gave the settlement up."""
    header = shop.sign(shop.ask())
    shop.x402.fault("slow", on="settle", count=1, seconds=20)

    def take_over() -> Any:
        wait_until("the transfer", shop.x402.settlements)
        shop.x402.reset(now=int(time.time()) + 1_000)
        shop.watch()
        seen = shop.settlements()
        shop.x402.fault("none")  # now it answers
        return seen

    answered, seen = at_once(partial(shop.post, FIVE, **header), take_over)
    assert seen == [("refused", "done", False)]
    assert answered.status_code == 202, answered.text
    assert shop.dead_letters(answered.json()["paymentId"]) == [("deposit", "manual_review")]
    assert shop.balance() == 0


def test_a_payment_whose_process_slept_too_long_is_not_sent(shop: Shop) -> None:
    """A worker has freed it meanwhile: the authorization is good for the next try."""
    header = shop.sign(shop.ask())
    shop.x402.fault("slow", on="verify", count=1, seconds=20)

    def take_over() -> Any:
        wait_until("the reservation", lambda: shop.settlements() == [("reserved", "new", True)])
        shop.watch()
        seen = shop.settlements()
        shop.x402.fault("none")  # now it answers
        return seen

    answered, seen = at_once(partial(shop.post, FIVE, **header), take_over)
    assert seen == [("refused", "done", False)]
    assert (answered.status_code, answered.json()["code"]) == (409, "payment_abandoned")
    assert shop.x402.calls()["settle"] == 0
    assert shop.post(FIVE, **header).status_code == 201
    assert shop.balance() == 5 * M


def parked(shop: Shop) -> tuple[str, str]:
    """Return payment and dead letter of a settlement that only a person can judge."""
    shop.cashier = replace(shop.cashier, chains={})
    shop.x402.fault("lost_answer", on="settle", count=1)
    payment_id = shop.pay().json()["paymentId"]
    shop.watch()
    assert shop.payment(payment_id)["status"] == "manual_review"
    [(letter_id,)] = rows(
        shop.api, "SELECT id FROM billing_dlq WHERE subject_id = :id", id=payment_id
    )
    shop.x402.mine(DEEP)
    return payment_id, letter_id


def retry(shop: Shop, letter_id: str) -> None:
    """Try it again as an admin does, now that there is a node to ask."""
    headers = shop.api.admin(sub=unique("admin"))
    tried = shop.api.post(f"/admin/billing/dlq/{letter_id}/retry", headers=headers)
    assert tried.status_code == 200, tried.text
    shop.cashier = shop.premises.cashier()
    shop.watch()


def test_what_a_person_sends_back_is_credited_and_its_letter_closed(shop: Shop) -> None:
    payment_id, letter_id = parked(shop)
    retry(shop, letter_id)
    assert (shop.settlements(), shop.balance()) == ([("settled", "done", True)], 5 * M)
    shown, [settled] = shop.payment(payment_id), shop.x402.settlements()
    assert (shown["status"], shown["reviewReason"]) == ("finished", None)
    assert shown["providerPaymentId"] == settled["transaction"]
    assert shop.dead_letters(payment_id) == [("deposit", "completed")]


def test_what_was_claimed_while_it_lay_at_a_persons_is_not_credited_again(shop: Shop) -> None:
    """Behaviour 172, through the dead-letter queue."""
    payment_id, letter_id = parked(shop)
    [settled] = shop.x402.settlements()
    assert shop.post(shop.claim(settled["transaction"])).status_code == 201
    retry(shop, letter_id)
    assert shop.balance() == 5 * M
    assert shop.payment(payment_id)["status"] == "failed"
    assert shop.dead_letters(payment_id) == [("deposit", "completed")]


def test_what_was_credited_from_a_persons_desk_is_not_claimed_again(shop: Shop) -> None:
    _, letter_id = parked(shop)
    retry(shop, letter_id)
    [settled] = shop.x402.settlements()
    again = shop.post(shop.claim(settled["transaction"]))
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    assert shop.balance() == 5 * M


def test_an_authorization_that_lies_at_a_persons_is_not_settled_again(shop: Shop) -> None:
    asked = shop.ask()
    header = shop.sign(asked)
    shop.cashier = replace(shop.cashier, chains={})
    shop.x402.fault("lost_answer", on="settle", count=1)
    assert shop.post(FIVE, **header).status_code == 202
    shop.watch()
    for again in (header, shop.sign(asked)):
        refused = shop.post(FIVE, **again)
        assert (refused.status_code, refused.json()["code"]) == (409, "payment_replayed")
    assert shop.balance() == 0


def test_quotes_that_nobody_tried_to_pay_are_forgotten_a_day_later(shop: Shop) -> None:
    """Anybody may ask for quotes, ten in a minute: they must not fill the database."""
    paid = shop.ask()
    assert shop.post(FIVE, **shop.sign(paid)).status_code == 201
    with shop.api.database.transaction() as tx:
        old = add_seconds(tx.now, -86_500)
        tx.run(update(Quote).where(Quote.account_id == shop.account).values(expires_at=old))
    left, fresh = shop.ask(), shop.ask()
    with shop.api.database.transaction() as tx:
        tx.run(update(Quote).where(Quote.id == left.json()["quoteId"]).values(expires_at=old))
    assert quotes.sweep(shop.cashier.database) >= 1
    assert quotes.sweep(shop.cashier.database) == 0
    kept = rows(shop.api, "SELECT id FROM payment_quotes WHERE account_id = :id", id=shop.account)
    assert sorted(kept) == sorted((one.json()["quoteId"],) for one in (paid, fresh))
    gone = shop.post(FIVE, **shop.sign(left))
    assert (gone.status_code, gone.json()["code"]) == (402, "quote_unknown")
