"""What time does to the ledger: holds and lots run out, late costs are settled, answers stay."""

from datetime import timedelta

import pytest

from shared.errors import Invalid, NotFound, Refused
from shared.ledger import sweeps
from shared.ledger.commands import ExpireHold, ExpireLot, Finalize, Mint, Release, Reserve
from tests.harness import make_id
from tests.ledger import CAMPAIGN, Ledger

M = 1_000_000


def in_seconds(ledger: Ledger, seconds: float) -> dict[str, object]:
    return {"expires_at": ledger.clock.now + timedelta(seconds=seconds)}


def status(ledger: Ledger, hold: str) -> str:
    return ledger.rows("SELECT status FROM credit_reservations WHERE id = :id", id=hold)[0][0]


def test_a_hold_lives_for_the_configured_time_or_its_own(ledger: Ledger) -> None:
    account = ledger.funded(M)
    ledger.configure(reserve_ttl_seconds="120")
    told = [ledger.answer(Reserve(account, make_id(), 1, ttl_seconds=n)) for n in (None, 60)]
    assert [t["expiresAt"] for t in told] == [
        "2026-03-15T14:32:45.123Z", "2026-03-15T14:31:45.123Z",
    ]  # fmt: skip


def test_a_sweep_ends_due_holds_and_writes_entries(ledger: Ledger) -> None:
    """Behaviours 47 and 152; W13, W14: a hold is due at its very instant, not before."""
    account = ledger.funded(M)
    ledger.mint(account, M, pool_id=CAMPAIGN)
    due = ledger.reserve(account, 1_500_000, pool_id=CAMPAIGN, ttl_seconds=60)
    lasting = ledger.reserve(account, 100_000, ttl_seconds=61)
    ledger.clock.advance(seconds=59.999999)
    assert ledger.sweep() == (0, 0)
    ledger.clock.advance(seconds=0.000001)
    assert ledger.sweep() == (1, 0)
    assert (status(ledger, due), status(ledger, lasting)) == ("expired", "pending")
    assert ledger.balance(account) == (900_000, 100_000, 0)
    assert ledger.balance(account, CAMPAIGN) == (1_900_000, 100_000, 0)
    # The view of the pool is that pool and general: 100,000 of general are held by now.
    assert ledger.entries(account, CAMPAIGN)[-1] == ("release", 1_500_000, 400_000, 1_900_000)
    assert ledger.sweep() == (0, 0)


def test_a_hold_that_was_due_when_it_was_made_is_given_back(ledger: Ledger) -> None:
    """Behaviour 47."""
    account = ledger.funded(M)
    hold = ledger.reserve(account, 400_000, ttl_seconds=-1)
    assert ledger.sweep() == (1, 0)
    assert (status(ledger, hold), ledger.balance(account)) == ("expired", (M, 0, 0))


def test_sweeping_what_has_ended_does_nothing(ledger: Ledger) -> None:
    """Behaviour 151, W13: a finalize that came first stays."""
    account = ledger.funded(M)
    settled, waiting = (ledger.reserve(account, 10, ttl_seconds=60) for _ in range(2))
    lot = ledger.mint(account, 5)
    ledger.finalize(settled, 4)
    before = ledger.everything()
    assert ledger.answer(ExpireHold(settled))["status"] == "finalized"
    assert ledger.answer(ExpireHold(waiting))["status"] == "pending"
    assert ledger.answer(ExpireLot(account, lot)) == {"lotId": lot}
    assert ledger.refusal(ExpireHold("unknown")) == (NotFound, "reservation_not_found")
    assert ledger.everything() == before


@pytest.mark.parametrize("seconds", [300, 300 + 3599.999999])
def test_a_late_finalize_is_settled_within_the_grace(ledger: Ledger, seconds: float) -> None:
    """Contract 4.4: swept or not, the answer is the same."""
    account = ledger.funded(M)
    swept, unswept = ledger.reserve(account, 400_000), ledger.reserve(account, 300_000)
    ledger.clock.advance(seconds=seconds)
    ledger.answer(ExpireHold(swept))
    for hold, cost in [(swept, 400_000), (unswept, 100_000)]:
        done = ledger.finalize(hold, cost)
        assert (done["finalizedMicro"], done["late"], done["debtMicro"]) == (str(cost), True, "0")
        assert ledger.finalize(hold, cost) == done
    assert ledger.balance(account) == (500_000, 0, 0)


def test_what_was_spent_meanwhile_is_owed_by_a_late_finalize(ledger: Ledger) -> None:
    """Contract 4.4; the later deposit pays it."""
    account = ledger.funded(M)
    late = ledger.reserve(account, 800_000)
    ledger.clock.advance(seconds=301)
    ledger.reserve(account, 700_000)
    assert ledger.finalize(late, 800_000)["debtMicro"] == "500000"
    assert ledger.balance(account) == (-500_000, 700_000, 500_000)
    assert ledger.refusal(Reserve(account, make_id(), 1)) == (Refused, "insufficient_credits")
    ledger.mint(account, M)
    assert ledger.balance(account) == (500_000, 700_000, 0)


def test_after_the_grace_a_hold_cannot_be_settled(ledger: Ledger) -> None:
    """Behaviour 55, contract 4.4."""
    account = ledger.funded(M)
    hold = ledger.reserve(account, 400_000)
    ledger.clock.advance(seconds=300 + 3600)
    assert ledger.refusal(Finalize(hold, 1)) == (NotFound, "reservation_expired")
    assert (status(ledger, hold), ledger.balance(account)) == ("expired", (M, 0, 0))
    assert ledger.answer(Release(hold)) == {"reservationId": hold, "releasedMicro": "400000"}


def test_a_due_hold_blocks_nobody_although_no_sweep_came(ledger: Ledger) -> None:
    """W14: its credits are free at once, whatever became of the workers."""
    account = ledger.funded(M)
    gone = [ledger.reserve(account, 400_000, ttl_seconds=60) for _ in range(2)]
    other = ledger.funded(M)
    foreign = ledger.reserve(other, M, ttl_seconds=60)
    ledger.clock.advance(seconds=60)
    held = ledger.answer(Reserve(account, make_id(), M))
    assert held["balance"] == {
        "availableMicro": "0", "reservedMicro": "1000000", "debtMicro": "0",
        "settledMicro": "1000000",
    }  # fmt: skip
    assert [status(ledger, hold) for hold in [*gone, foreign]] == ["expired", "expired", "pending"]
    ledger.mint(other, 5)
    assert ledger.balance(other) == (M + 5, 0, 0)


def test_a_late_finalize_may_use_what_other_due_holds_give_back(ledger: Ledger) -> None:
    """Contract 4.4: debts are only for what no lot covers."""
    account = ledger.funded(M)
    first, _second = (ledger.reserve(account, 500_000, ttl_seconds=60) for _ in range(2))
    ledger.configure(billing_mode="soft")
    soft = ledger.reserve(account, 10)
    ledger.clock.advance(seconds=60)
    assert ledger.finalize(soft, 500_000)["debtMicro"] == "0"
    assert ledger.finalize(first, 500_000)["debtMicro"] == "0"
    assert ledger.balance(account) == (0, 0, 0)


def test_a_lot_is_not_spendable_from_its_instant_of_expiry(ledger: Ledger) -> None:
    """Behaviour 153, W15: compared as instants, not as text."""
    account = ledger.account()
    ledger.mint(account, M, **in_seconds(ledger, 1))
    ledger.clock.advance(seconds=0.999999)
    ledger.release(ledger.reserve(account, M))
    ledger.clock.advance(seconds=0.000001)
    assert ledger.balance(account) == (0, 0, 0)
    assert ledger.refusal(Reserve(account, make_id(), 1)) == (Refused, "insufficient_credits")
    # The refusal changed nothing, but time did: the lot is booked out.
    assert ledger.entries(account)[-1] == ("expire", -M, M, 0)
    assert ledger.lots(account) == [(0, 0, M)]


def test_a_lot_that_is_over_when_it_comes_is_worth_nothing(ledger: Ledger) -> None:
    """Behaviour 153, W15."""
    account = ledger.account()
    told = ledger.answer(Mint(account, make_id(), M, "grant", **in_seconds(ledger, -1)))
    assert told["balance"]["availableMicro"] == "0"
    assert ledger.entries(account) == [("grant", M, 0, M), ("expire", -M, M, 0)]
    assert ledger.rows("SELECT expired_micro, is_open FROM credit_lots") == [(M, False)]


def test_a_sweep_takes_due_lots_out_of_all_pools(ledger: Ledger) -> None:
    """Behaviour 152; W14, W16, W17: no balance before an entry is ever negative."""
    account = ledger.funded(M)
    for pool in ("general", CAMPAIGN):
        ledger.mint(account, M, pool_id=pool, **in_seconds(ledger, 60))
    hold = ledger.reserve(account, 1_500_000, pool_id=CAMPAIGN)
    ledger.clock.advance(seconds=60)
    assert ledger.balance(account, CAMPAIGN) == (M, 1_500_000, 0)
    assert ledger.sweep() == (0, 1)
    assert ledger.entries(account)[-1] == ("expire", -500_000, 1_500_000, M)
    ledger.release(hold)  # the lots were pinned; what comes back goes at once
    assert ledger.balance(account, CAMPAIGN) == (M, 0, 0)
    assert ledger.entries(account, CAMPAIGN)[-2:] == [
        ("release", 1_500_000, M, 2_500_000),
        ("expire", -M, 2_500_000, 1_500_000),
    ]
    assert ledger.entries(account)[-1] == ("expire", -500_000, 1_500_000, M)
    assert ledger.rows("SELECT SUM(expired_micro) FROM credit_lots") == [(2 * M,)]


def test_answers_tell_of_lots_that_are_due_before_any_sweep(ledger: Ledger) -> None:
    """A mint's answer, a hold's answer and the balance agree (W14)."""
    account = ledger.funded(*[1] * 40, **in_seconds(ledger, 60))
    ledger.mint(account, 100)
    ledger.clock.advance(seconds=60)
    assert ledger.balance(account) == (100, 0, 0)
    told = ledger.answer(Mint(account, make_id(), 5, "grant"))
    assert told["balance"]["availableMicro"] == "105"
    assert ledger.balance(account) == (105, 0, 0)


def test_debts_count_although_due_lots_are_not_yet_swept(ledger: Ledger) -> None:
    """Contract 4.3: available is lots less debts, and forty dead lots are no lots."""
    account = ledger.funded(*[1] * 40, pool_id=CAMPAIGN, **in_seconds(ledger, 60))
    ledger.mint(account, 30, pool_id=CAMPAIGN)
    ledger.configure(billing_mode="soft")
    assert ledger.finalize(ledger.reserve(account, 10), 20)["debtMicro"] == "20"
    ledger.configure(billing_mode="live")
    assert ledger.balance(account, CAMPAIGN) == (50, 0, 20)
    ledger.clock.advance(seconds=60)
    error = ledger.outcome(Reserve(account, make_id(), 11, CAMPAIGN)).error
    assert isinstance(error, Refused)
    assert error.details == {"balance_micro": "10", "required_micro": "11"}
    ledger.reserve(account, 10, pool_id=CAMPAIGN)
    assert ledger.balance(account, CAMPAIGN) == (0, 10, 20)


def test_a_sweep_is_bounded_and_the_next_takes_the_rest(ledger: Ledger) -> None:
    """W14: 450 lots, 250 of them held."""
    account, soon = ledger.account(), in_seconds(ledger, 60)
    lots = [Mint(account, make_id(), 1, "grant", **soon) for _ in range(450)]
    holds = [Reserve(account, make_id(), 1, ttl_seconds=30) for _ in range(250)]
    for commands in (lots, holds):
        assert all(outcome.error is None for outcome in ledger.executor.execute_all(commands))
    ledger.clock.advance(seconds=60)
    assert [ledger.sweep() for _ in range(3)] == [(200, 200), (50, 0), (0, 0)]
    assert ledger.balance(account) == (0, 0, 0)
    counted = "SELECT entry_type, COUNT(*) FROM credit_ledger GROUP BY entry_type"
    assert dict(ledger.rows(counted)) == {
        "grant": 450, "reserve": 250, "release": 250, "expire": 450,
    }  # fmt: skip


def test_the_runbooks_keys_are_swept_after_a_day_and_answers_are_not(ledger: Ledger) -> None:
    """Behaviours 70-72 and 147, W9."""
    account = ledger.account()
    for number in range(6):
        if number == 5:
            ledger.clock.advance(hours=1)
        ledger.mint(account, 5, "deposit", source_id=f"nowpay-{number}")
    keys = "SELECT idempotency_key FROM billing_idempotency_keys WHERE scope = 'deposit'"
    assert len(ledger.rows(keys)) == 6
    ledger.clock.advance(hours=23, seconds=1)
    assert sweeps.sweep_idempotency_keys(ledger.database) == 5
    assert ledger.rows(keys) == [("nowpay-5",)]
    assert sweeps.sweep_idempotency_keys(ledger.database) == 0
    assert ledger.outcome(Mint(account, make_id(), 5, "deposit", "nowpay-0")).is_replay
    assert ledger.balance(account) == (30, 0, 0)


def test_a_hold_without_credits_may_expire_and_be_settled_late(ledger: Ledger) -> None:
    """Contract 4.2 and 4.4 together."""
    ledger.configure(billing_mode="soft")
    account = ledger.account()
    hold = ledger.reserve(account, 10, ttl_seconds=60)
    ledger.clock.advance(seconds=60)
    assert ledger.sweep() == (1, 0)
    assert ledger.finalize(hold, 4)["debtMicro"] == "4"
    assert ledger.balance(account) == (-4, 0, 4)
    assert ledger.refusal(Finalize(ledger.reserve(account, 1), -1)) == (Invalid, "invalid_amount")
