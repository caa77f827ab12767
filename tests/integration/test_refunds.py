"""Refunds that the provider tells: whole, once, and never lost (behaviour 160; W27, W28, W29).

What one lot gives back is in test_review_payments; here are several lots, repeats and failures.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from shared.payments import intake
from tests.ledger import Ledger
from tests.till import M, Payment, Till

PRICE = 25 * M
HALF = {
    "pay_amount": "0.3125",
    "actually_paid": "0.15625",
    "outcome_amount": "12.5",
    "outcome_currency": "usd",
}
WHOLE = HALF | {"actually_paid": "0.3125", "outcome_amount": "25"}


@pytest.fixture
def till(ledger: Ledger) -> Iterator[Till]:
    with capture_logs():
        yield Till(ledger)


def paid_in_parts(till: Till) -> Payment:
    """Return a payment with two lots, of 12.5 each."""
    payment = till.payment()
    till.told(payment, "partially_paid", **HALF)
    till.ledger.clock.advance(seconds=60)
    till.told(payment, "finished", **WHOLE)
    assert till.ledger.lots(payment.account) == [(12_500_000, 0, 0)] * 2
    return payment


def clawed_back(till: Till, payment: Payment) -> list[int]:
    statement = "SELECT clawed_back_micro FROM credit_lots WHERE account_id = :id ORDER BY id"
    return [row[0] for row in till.ledger.rows(statement, id=payment.account)]


def debts(till: Till, payment: Payment) -> list[int]:
    statement = "SELECT original_micro FROM credit_debts WHERE source_payment_id = :id"
    return [row[0] for row in till.ledger.rows(statement, id=payment.id)]


def test_every_lot_of_a_payment_is_taken_back(till: Till) -> None:
    payment = paid_in_parts(till)
    till.told(payment, "refunded")
    assert till.ledger.balance(payment.account) == (0, 0, 0)
    assert clawed_back(till, payment) == [12_500_000, 12_500_000]
    kinds = [(kind, amount) for kind, amount, *_ in till.ledger.entries(payment.account)]
    assert kinds == [("deposit", 12_500_000)] * 2 + [("refund", -12_500_000)] * 2


def test_of_several_lots_each_gives_what_it_can(till: Till) -> None:
    """Behaviour 88 and W28: 12.5 spent of the first and 2.5 of the second, 5 of that held."""
    payment = paid_in_parts(till)
    till.ledger.finalize(till.ledger.reserve(payment.account, 15 * M), 15 * M)
    hold = till.ledger.reserve(payment.account, 5 * M)
    till.told(payment, "refunded")
    assert till.ledger.balance(payment.account) == (-15 * M, 5 * M, 15 * M)
    assert debts(till, payment) == [12_500_000, 2_500_000]
    till.ledger.release(hold)
    assert till.ledger.balance(payment.account) == (-15 * M, 0, 15 * M)
    assert clawed_back(till, payment) == [0, 10 * M]


def test_a_refund_that_is_replayed_takes_nothing_twice(till: Till) -> None:
    """W27; nor do the older notices make a case for a person of what was settled long ago."""
    payment = paid_in_parts(till)
    till.told(payment, "refunded")
    before = till.ledger.everything()
    for _ in range(2):
        till.replay(payment)
        assert till.ledger.everything() == before
        shown = till.shown(payment)
        assert (shown["status"], shown["reviewReason"]) == ("refunded", None)
        assert {event.state for event in till.events(payment)} == {"done"}
    assert till.letters() == []


def test_a_refund_before_any_credit_takes_nothing_and_ends_the_payment(till: Till) -> None:
    payment, before = till.payment(), till.ledger.everything()
    till.told(payment, "confirming", "refunded", "confirmed", "failed")
    assert till.shown(payment)["status"] == "refunded"
    assert [event.outcome for event in till.events(payment)] == [
        "applied", "applied", "stale", "stale",
    ]  # fmt: skip
    assert till.ledger.everything() == before
    assert till.letters() == []


def test_a_refund_of_another_deposit_leaves_the_first_alone(till: Till) -> None:
    parent = till.payment()
    till.told(parent, "finished", **WHOLE)
    child = Payment(parent.id, str(int(parent.number) + 1), parent.account)
    linked = HALF | {"parent_payment_id": parent.number}
    till.told(child, "finished", "refunded", **linked)
    assert till.ledger.lots(parent.account) == [(PRICE, 0, 0), (0, 0, 12_500_000)]
    assert till.shown(parent)["status"] == "finished"


@contextmanager
def another_owner(till: Till, payment: Payment) -> Iterator[None]:
    """Let the payment's row name another account: the ledger refuses to take that one's lots."""
    change = "UPDATE crypto_payments SET account_id = :account WHERE id = :id"
    till.ledger.sql(change, account=till.ledger.account(), id=payment.id)
    yield
    till.ledger.sql(change, account=payment.account, id=payment.id)


def test_a_refund_that_is_refused_writes_nothing_and_is_tried_again(till: Till) -> None:
    """Behaviour 160, W29: the earlier system called it refunded and forgot the clawback."""
    payment, other = paid_in_parts(till), till.payment()
    till.ledger.finalize(till.ledger.reserve(payment.account, 5 * M), 5 * M)
    with another_owner(till, payment):
        before = till.ledger.everything()
        till.tell(payment, "refunded")
        assert till.drain() == 1
        assert till.shown(payment)["status"] == "finished"
        assert till.ledger.everything() == before
        assert till.events(payment)[-1].state == "parked"
        assert till.letters() == [("refund", "pending", 0)]
        till.told(other, "finished", **WHOLE)  # nobody else waits
        due_after(till, 60)
        assert till.drain() == 1
        assert till.letters() == [("refund", "pending", 1)]
    due_after(till, 300)
    assert till.drain() == 1
    assert till.letters() == [("refund", "completed", 1)]
    assert till.shown(payment)["status"] == "refunded"
    assert till.ledger.balance(payment.account) == (-5 * M, 0, 5 * M)
    assert debts(till, payment) == [5 * M]


def due_after(till: Till, seconds: float) -> None:
    """Let a little more than *seconds* pass, and the letters that are due be taken."""
    till.ledger.clock.advance(seconds=1.1 * seconds)
    assert intake.retry_parked(till.ledger.database) == 1


def test_a_refund_that_is_never_accepted_ends_at_a_person_who_can_replay_it(till: Till) -> None:
    payment = paid_in_parts(till)
    with another_owner(till, payment):
        till.told(payment, "refunded")
        for seconds in (60, 300, 1800):
            due_after(till, seconds)
            assert till.drain() == 1
        assert till.letters() == [("refund", "manual_review", 3)]
        till.ledger.clock.advance(hours=48)
        assert intake.retry_parked(till.ledger.database) == 0
    till.replay(payment)
    assert till.letters() == [("refund", "completed", 3)]
    assert till.ledger.balance(payment.account) == (0, 0, 0)


_REFUSING_SQLITE = (
    "CREATE TRIGGER no_refund BEFORE INSERT ON credit_ledger WHEN NEW.entry_type = 'refund'"
    " BEGIN SELECT RAISE(ABORT, 'no refund today'); END"
)
_REFUSING = (
    "CREATE FUNCTION no_refund() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'no refund today'; END $$; "
    "CREATE TRIGGER no_refund BEFORE INSERT ON credit_ledger FOR EACH ROW"
    " WHEN (NEW.entry_type = 'refund') EXECUTE FUNCTION no_refund()"
)


def test_a_refund_that_the_database_refuses_is_whole_or_not_at_all(till: Till) -> None:
    """The last row fails: neither the lots nor the payment nor its notice have changed (W27)."""
    payment, other = paid_in_parts(till), till.payment()
    before, database = till.ledger.everything(), till.ledger.database
    till.ledger.sql(_REFUSING_SQLITE if database.is_sqlite else _REFUSING)
    till.tell(payment, "refunded")
    till.tell(other, "confirming")
    assert till.drain() == 2
    assert till.shown(other)["status"] == "confirming"
    assert till.shown(payment)["status"] == "finished"
    assert till.ledger.everything() == before
    waiting = till.events(payment)[-1]
    assert (waiting.state, waiting.attempts) == ("new", 1)
    assert "no refund today" in waiting.last_error
    till.ledger.sql(f"DROP TRIGGER no_refund{'' if database.is_sqlite else ' ON credit_ledger'}")
    till.ledger.clock.advance(seconds=4)
    assert till.drain() == 1
    assert till.ledger.balance(payment.account) == (0, 0, 0)
    assert till.letters() == []
