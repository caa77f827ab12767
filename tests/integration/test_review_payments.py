"""Faults that a review found in the intake: what is credited, clawed back, put off and parked."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deploy.local.servers import free_port
from shared.errors import Conflict
from shared.ledger.commands import Mint
from shared.payments import intake
from tests.front_door import rows
from tests.harness import Databases, make_id, running_api
from tests.ledger import Ledger
from tests.till import M, Payment, Till, locked

PRICE = 25 * M


@pytest.fixture
def till(ledger: Ledger) -> Iterator[Till]:
    with capture_logs():  # to print a traceback for each of many failures takes a minute
        yield Till(ledger)


def test_an_admin_cannot_mint_for_a_payment_that_its_notice_has_credited(till: Till) -> None:
    paid = till.paid()
    before, lot = till.ledger.everything(), till.shown(paid)["lotId"]
    ways = list(product([PRICE, 10 * M], ["deposit", "grant"], [None, "a-key"]))
    for amount, source_type, key in ways:
        error = till.admin_mint(paid, amount, source_type=source_type, key=key).error
        assert isinstance(error, Conflict)
        assert error.code == "already_credited"
        assert error.details == {"lotId": lot, "amountMicro": str(PRICE)}
    assert till.ledger.everything() == before
    audited = "SELECT action FROM admin_audit_log WHERE target_id = :id"
    assert till.ledger.rows(audited, id=paid.account) == [("admin_mint_refused",)] * len(ways)


@pytest.mark.parametrize("make", [Till.paid, Till.payment])
def test_an_admin_cannot_mint_for_another_accounts_payment(
    till: Till, make: Callable[[Till], Payment]
) -> None:
    payment = make(till)
    before, other = till.ledger.everything(), till.ledger.account()
    error = till.admin_mint(payment, PRICE, account=other).error
    assert isinstance(error, Conflict)
    assert error.code == "payment_of_another_account"
    assert till.ledger.everything() == before


@pytest.mark.parametrize(("source_type", "amount"), [("deposit", PRICE), ("grant", 10 * M)])
def test_a_notice_after_an_admins_mint_credits_nothing(
    till: Till, source_type: str, amount: int
) -> None:
    payment = till.payment()
    minted = till.admin_mint(payment, amount, source_type=source_type).unwrap()
    before = till.ledger.everything()
    till.told(payment, "finished")
    shown = till.shown(payment)
    assert (shown["status"], shown["creditedMicro"]) == ("finished", str(amount))
    assert shown["lotId"] == minted["lotId"]
    assert till.event(payment).outcome == "already_credited"
    assert till.ledger.everything() == before


@pytest.mark.parametrize("amount", [PRICE, 10 * M])
def test_a_notice_credits_nothing_if_the_mint_did_not_know_the_payment_yet(
    till: Till, amount: int
) -> None:
    """The provider's answer was lost: its number reaches our row with the notice only."""
    payment = till.payment(provider_payment_id=None, status="creating")
    minted = till.admin_mint(payment, amount).unwrap()
    assert till.shown(payment)["lotId"] is None
    before = till.ledger.everything()
    till.told(payment, "finished")
    shown = till.shown(payment)
    assert (shown["status"], shown["lotId"]) == ("finished", minted["lotId"])
    assert shown["creditedMicro"] == str(amount)
    assert till.ledger.everything() == before
    assert till.letters() == []


def test_a_payment_whose_source_has_a_lot_is_linked_to_that_lot(till: Till) -> None:
    payment = till.payment()
    lot = till.ledger.mint(
        payment.account, 7, "deposit", source_id=f"nowpay-{payment.number}", idempotency_key="hand"
    )
    till.told(payment, "finished")
    shown = till.shown(payment)
    assert (shown["lotId"], shown["creditedMicro"]) == (lot, "7")
    assert till.ledger.balance(payment.account) == (7, 0, 0)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_payment_that_finishes_after_its_refund_waits_for_a_person(
    till: Till, batches: int
) -> None:
    payment = till.payment()
    before = till.ledger.everything()
    if batches == 1:
        till.tell(payment, "refunded", "finished")
        assert till.drain() == 2
    else:
        till.told(payment, "refunded", "finished")
    shown = till.shown(payment)
    assert (shown["status"], shown["lotId"], shown["creditedMicro"]) == ("refunded", None, None)
    assert "finished" in shown["reviewReason"]
    assert [event.state for event in till.events(payment)] == ["done", "parked"]
    assert till.letters() == [("webhook", "manual_review", 0)]
    assert till.letter().next_retry_at is None
    assert till.ledger.everything() == before


def test_a_refund_takes_back_what_is_left_and_makes_a_debt_of_what_was_spent(till: Till) -> None:
    account = till.ledger.funded(3 * M)
    paid = till.paid(account)
    # The lot that is older is spent first: 3 of the grant, then 10 of the payment.
    till.ledger.finalize(till.ledger.reserve(account, 13 * M), 13 * M)
    till.told(paid, "refunded")
    assert till.shown(paid)["status"] == "refunded"
    assert till.ledger.balance(account) == (-10 * M, 0, 10 * M)
    assert till.ledger.lots(account) == [(0, 0, 3 * M), (0, 0, PRICE)]
    assert till.ledger.entries(account)[-1] == ("refund", -PRICE, 15 * M, -10 * M)
    owed = "SELECT debt_micro, source_payment_id FROM credit_debts WHERE account_id = :id"
    assert till.ledger.rows(owed, id=account) == [(10 * M, paid.id)]
    till.paid(account)  # what comes next pays the debt first
    assert till.ledger.balance(account) == (15 * M, 0, 0)
    assert till.letters() == []


def expire(ledger: Ledger, hold: str) -> None:
    ledger.clock.advance(seconds=300)
    assert ledger.sweep() == (1, 0)


@pytest.mark.parametrize(
    ("end", "debt"),
    [
        (lambda ledger, hold: ledger.release(hold), 0),
        (expire, 0),
        (lambda ledger, hold: ledger.finalize(hold, 0), 0),
        (lambda ledger, hold: ledger.finalize(hold, 4 * M), 4 * M),
        (lambda ledger, hold: ledger.finalize(hold, 10 * M), 10 * M),
    ],
    ids=["released", "expired", "finalized at nothing", "finalized in part", "finalized"],
)
def test_what_was_held_at_the_refund_is_taken_when_its_hold_ends(
    till: Till, end: Callable[[Ledger, str], object], debt: int
) -> None:
    paid = till.paid()
    hold = till.ledger.reserve(paid.account, 10 * M)
    till.told(paid, "refunded")
    assert till.ledger.balance(paid.account) == (0, 10 * M, 0)
    end(till.ledger, hold)
    assert till.ledger.balance(paid.account) == (-debt, 0, debt)
    assert till.ledger.lots(paid.account) == [(0, 0, PRICE)]
    clawed = "SELECT clawed_back_micro FROM credit_lots WHERE account_id = :id"
    assert till.ledger.rows(clawed, id=paid.account) == [(PRICE - debt,)]


@pytest.mark.parametrize("batches", [1, 2])
def test_a_payment_refunded_twice_is_clawed_back_once(till: Till, batches: int) -> None:
    paid = till.paid()
    till.ledger.finalize(till.ledger.reserve(paid.account, 10 * M), 10 * M)
    till.tell(paid, "refunded", actually_paid="1")
    if batches == 2:
        assert till.drain() == 1
        before = till.ledger.everything()
    till.tell(paid, "refunded", actually_paid="2")
    assert till.drain() == 3 - batches
    assert batches == 1 or till.ledger.everything() == before
    assert [event.outcome for event in till.events(paid)] == ["applied", "applied", "duplicate"]
    assert till.ledger.balance(paid.account) == (-10 * M, 0, 10 * M)
    kinds = [entry[0] for entry in till.ledger.entries(paid.account)]
    assert kinds.count("refund") == 1


def test_finished_and_refunded_in_one_batch_leave_nothing(till: Till) -> None:
    payment, other = till.payment(), till.payment()
    till.tell(payment, "finished", "refunded")
    till.tell(other, "finished")
    assert till.drain() == 3
    shown = till.shown(payment)
    assert (shown["status"], shown["creditedMicro"]) == ("refunded", str(PRICE))
    assert till.ledger.entries(payment.account) == [
        ("deposit", PRICE, 0, PRICE),
        ("refund", -PRICE, PRICE, 0),
    ]
    assert till.ledger.balance(payment.account) == (0, 0, 0)
    assert till.ledger.balance(other.account) == (PRICE, 0, 0)


def test_a_refund_of_what_an_admin_minted_for_a_payment_is_clawed_back(till: Till) -> None:
    payment = till.payment()
    till.admin_mint(payment, 10 * M).unwrap()
    till.told(payment, "finished", "refunded")
    assert till.ledger.balance(payment.account) == (0, 0, 0)


@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
def test_a_notice_for_a_locked_account_waits_untried_and_holds_up_no_other(till: Till) -> None:
    payment, other = till.payment(), till.payment()
    till.tell(payment, "finished")
    till.tell(other, "finished")
    with locked(till.ledger.url, payment.account):
        assert till.drain() == 2
        waiting = till.event(payment)
        assert (waiting.state, waiting.attempts, waiting.lease_token) == ("new", 0, None)
        assert till.event(other).state == "done"
        assert till.ledger.balance(other.account) == (PRICE, 0, 0)
        assert till.drain() == 0  # not at once again
    till.ledger.clock.advance(seconds=2)
    assert till.drain() == 1
    assert (till.event(payment).state, till.letters()) == ("done", [])
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)


def fail_until_parked(till: Till, poison: Payment) -> None:
    """Let every try fail, each due after twice the time, until the notice is put aside."""
    clock = till.ledger.clock
    for attempt in range(1, 8):
        assert till.drain() == 1
        waiting = till.event(poison)
        assert (waiting.state, waiting.attempts) == ("new", attempt)
        assert (waiting.due_at - clock.now).total_seconds() == 2 * 2**attempt
        clock.advance(seconds=2 * 2**attempt - 0.001)
        assert till.drain() == 0
        clock.advance(seconds=0.001)
    assert till.drain() == 1
    assert (till.event(poison).state, till.event(poison).attempts) == ("parked", 8)


def retry_after(till: Till, seconds: float) -> None:
    """Check that the one letter is due in about *seconds*, and no earlier; let it be taken."""
    letter, clock = till.letter(), till.ledger.clock
    delay = (letter.next_retry_at - clock.now).total_seconds()
    assert 0.9 * seconds <= delay <= 1.1 * seconds
    clock.advance(seconds=delay - 0.001)
    assert intake.retry_parked(till.ledger.database) == 0
    clock.advance(seconds=0.001)
    assert intake.retry_parked(till.ledger.database) == 1


def test_a_poison_notice_is_tried_ever_later_then_retried_thrice_then_reviewed(till: Till) -> None:
    """Contract 8: 60, 300, 1800 s with a jitter of ±10 %."""
    poison, *innocent = (till.payment() for _ in range(4))
    for payment in (innocent[0], poison, *innocent[1:]):
        till.tell(payment, "finished")
    till.spoil(poison)
    assert till.drain() == 4
    for payment in innocent:
        assert till.ledger.balance(payment.account) == (PRICE, 0, 0)
        assert till.event(payment).attempts == 1
    assert till.event(poison).attempts == 1
    till.ledger.sql("UPDATE webhook_events SET attempts = 0, due_at = received_at")
    for failures, seconds in enumerate((60, 300, 1800)):
        fail_until_parked(till, poison)
        assert till.letters() == [("webhook", "pending", failures)]
        retry_after(till, seconds)
    fail_until_parked(till, poison)
    assert till.letters() == [("webhook", "manual_review", 3)]
    till.ledger.clock.advance(hours=24)
    assert intake.retry_parked(till.ledger.database) == 0
    assert till.ledger.balance(poison.account) == (0, 0, 0)


def test_a_parked_notice_that_can_be_read_again_is_credited_by_its_retry(till: Till) -> None:
    poison = till.payment()
    till.tell(poison, "finished")
    till.spoil(poison)
    fail_until_parked(till, poison)
    till.spoil(poison, "{}")
    retry_after(till, 60)
    assert till.drain() == 1
    assert till.letters() == [("webhook", "completed", 0)]
    assert till.ledger.balance(poison.account) == (PRICE, 0, 0)


def test_a_notice_of_an_unknown_payment_is_credited_by_its_retry(till: Till) -> None:
    stranger = Payment("cp_unknown", "4711", till.ledger.account())
    till.told(stranger, "finished")
    assert till.letters() == [("webhook", "pending", 0)]
    retry_after(till, 60)
    assert till.drain() == 1
    assert till.letters() == [("webhook", "pending", 1)]
    known = till.payment(stranger.account, provider_payment_id=stranger.number)
    retry_after(till, 300)
    assert till.drain() == 1
    assert till.letters() == [("webhook", "completed", 1)]
    assert till.shown(known)["creditedMicro"] == str(PRICE)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_payment_paid_in_part_waits_for_a_person_until_the_rest_comes(
    till: Till, batches: int
) -> None:
    payment = till.payment()
    till.tell(payment, "partially_paid", actually_paid="0.0004")
    if batches == 2:
        assert till.drain() == 1
        shown = till.shown(payment)
        assert (shown["status"], shown["lotId"]) == ("partially_paid", None)
        assert (till.letters(), shown["reviewReason"]) == (
            [("deposit", "manual_review", 0)],
            "Less arrived than was asked for.",
        )
        assert till.letter().subject_id == payment.number
        assert till.ledger.balance(payment.account) == (0, 0, 0)
    till.tell(payment, "finished")
    assert till.drain() == 3 - batches
    shown = till.shown(payment)
    assert (shown["status"], shown["creditedMicro"]) == ("finished", str(PRICE))
    assert shown["reviewReason"] is None
    assert till.letters() == [("deposit", "completed", 0)]
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)


def test_a_payment_above_the_ceiling_is_refused_before_it_is_made(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    url = databases.make("postgresql")
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = {"BILLING_CEILING_MICRO": str(PRICE - 1), "NOWPAYMENTS_API_URL": nowhere}
    with running_api(url, redis_url, tmp_path / "log", **settings) as api:
        account = api.funded_account(0)
        body = {"accountId": account, "amountUsd": "25.00", "payCurrency": "btc"}
        for headers in (api.s2s(), api.s2s() | {"Idempotency-Key": "key"}, api.s2s()):
            refused = api.post("/api/internal/payments", body, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (400, "amount_above_ceiling")
            assert refused.json()["details"] == {"ceilingMicro": str(PRICE - 1)}
        member = api.post(
            "/api/billing/payments",
            {"amountUsd": "25.00", "payCurrency": "btc"},
            headers=api.member(account),
        )
        assert (member.status_code, member.json()["code"]) == (400, "amount_above_ceiling")
        assert rows(api, "SELECT COUNT(*) FROM crypto_payments") == [(0,)]


def test_a_payment_is_credited_in_full_though_the_ceiling_was_lowered(till: Till) -> None:
    payment = till.payment()
    till.ledger.configure(ceiling_micro=str(M))
    refused = till.ledger.refusal(Mint(payment.account, make_id(), M + 1, "grant"))
    assert refused[1] == "amount_above_ceiling"
    till.told(payment, "finished")
    assert till.shown(payment)["creditedMicro"] == str(PRICE)
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)
    assert till.letters() == []
