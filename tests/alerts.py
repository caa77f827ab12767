"""Each alert's real condition, and what ends it, on one ledger."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from services.api.operations import count_outcome
from services.workers.work import Work
from shared.alerts.counts import Recorder
from shared.balance_cache import BalanceCache
from shared.campaigns.lists import Wish
from shared.campaigns.states import Action
from shared.errors import Unavailable
from shared.ledger.commands import Reserve
from shared.messaging import TaskName
from shared.operations import dead_letters
from shared.operations.audit import Actor
from shared.payments.providers.calls import Call, Caller
from tests.campaigns import Campaigns
from tests.harness import make_id, unique
from tests.ledger import Ledger
from tests.till import Payment, Till, work_of

OPERATOR = Actor("operator", "ops")
NO_REDIS = "redis://127.0.0.1:1/0"
NOBODY = "http://127.0.0.1:9"
Repair = Callable[[], Any]


def dead_letters_pile_up(ledger: Ledger) -> Repair:
    for number in range(51):
        ledger.sql(
            "INSERT INTO billing_dlq (id, operation_type, payload, status)"
            " VALUES (:id, 'distribution', '{}', 'pending')",
            id=f"dlq_{number:02d}",
        )
    return lambda: resolve(ledger, "dlq_00")


def a_letter_waits_for_a_person(ledger: Ledger) -> Repair:
    ledger.sql(
        "INSERT INTO billing_dlq (id, operation_type, payload, status)"
        " VALUES ('dlq_1', 'distribution', '{}', 'manual_review')"
    )
    return lambda: resolve(ledger, "dlq_1")


def resolve(ledger: Ledger, letter: str) -> None:
    dead_letters.resolve(ledger.database, OPERATOR, letter, reason="done by hand")


def balances_drift(ledger: Ledger) -> Repair:
    def run(drifted: int) -> None:
        ledger.clock.advance(seconds=1)
        ledger.sql(
            "INSERT INTO reconciliation_runs (id, kind, requested_by, accounts_checked,"
            " accounts_drifted, state, done_at, due_at, created_at)"
            " VALUES (:id, 'daily', 'beat', 100, :drifted, 'done', :now, :now, :now)",
            id=make_id(),
            drifted=drifted,
            now=ledger.clock().isoformat(" ") if not ledger.database.is_sqlite else stored(ledger),
        )

    run(2)
    return lambda: run(1)


def stored(ledger: Ledger) -> str:
    return ledger.clock().strftime("%Y-%m-%d %H:%M:%S.%f")


def costs_exceed_their_holds(ledger: Ledger) -> Repair:
    account = ledger.funded(1_000_000)
    for number in range(20):
        ledger.finalize(ledger.reserve(account, 10), 11 if number < 2 else 10)
    return lambda: ledger.clock.advance(hours=1.1)


def holds_run_out(ledger: Ledger) -> Repair:
    account = ledger.funded(1_000_000)
    for number in range(20):
        hold = ledger.reserve(account, 10, ttl_seconds=10)
        if number >= 5:
            ledger.finalize(hold, 10)
    ledger.clock.advance(seconds=11)
    assert ledger.sweep() == (5, 0)
    return lambda: ledger.clock.advance(hours=1.1)


def top_ups_fail(ledger: Ledger) -> Repair:
    till = Till(ledger)
    for number in range(10):
        till.told(till.payment(), "failed" if number < 2 else "finished")
    return lambda: ledger.clock.advance(hours=6.1)


def balances_are_not_in_redis(ledger: Ledger) -> Repair:
    recorder, cache = Recorder(ledger.database), BalanceCache(NO_REDIS)
    for number in range(50):
        assert cache.read(f"nobody-{number}", "general") is None
    recorder.flush()
    return lambda: ledger.clock.advance(seconds=400)


def a_campaign_spends_its_budget(ledger: Ledger) -> Repair:
    desk = Campaigns(ledger)
    campaign = desk.active(per_wallet_cap_micro=10_000_000, name="May")
    desk.granted(campaign, *(Wish(wallet, 4_600_000) for wallet in desk.wallets(2)))
    return lambda: desk.move(campaign, Action.COMPLETE).unwrap()


def a_tick_is_missed(ledger: Ledger) -> Repair:
    work: Work = work_of(ledger.database)
    work.run(TaskName.EXPIRE_HOLDS)
    ledger.clock.advance(seconds=61)
    return lambda: work_of(ledger.database).run(TaskName.EXPIRE_HOLDS)


def a_queue_is_not_worked_off(ledger: Ledger) -> Repair:
    ledger.reserve(ledger.funded(100), 10, ttl_seconds=10)
    ledger.clock.advance(seconds=131)
    return ledger.sweep


def a_provider_does_not_answer(ledger: Ledger) -> Repair:
    recorder = Recorder(ledger.database)
    caller = Caller(provider="nowpayments", url=NOBODY)
    for _ in range(6):
        with suppress(Unavailable):
            caller.once(Call("status", "/status"))
    recorder.flush()
    return lambda: ledger.clock.advance(seconds=400)


def a_notice_is_about_nothing_known(ledger: Ledger) -> Repair:
    till = Till(ledger)
    till.tell(Payment(unique("cp"), "7700", ""), "finished")
    till.drain()
    ledger.clock.advance(seconds=301)
    [[letter]] = ledger.rows("SELECT id FROM billing_dlq")
    return lambda: resolve(ledger, letter)


def reserves_are_refused(ledger: Ledger) -> Repair:
    """Eleven of fifty callers have no credits."""
    recorder = Recorder(ledger.database)
    rich, poor = ledger.funded(1_000), ledger.account()
    for number in range(50):
        command = Reserve(poor if number < 11 else rich, make_id(), 10)
        count_outcome(None, "reserve", ledger.outcome(command))  # type: ignore[arg-type]
    recorder.flush()
    return lambda: ledger.clock.advance(seconds=400)


def money_is_not_credited(ledger: Ledger) -> Repair:
    till = Till(ledger)
    till.tell(till.payment(), "finished")
    ledger.clock.advance(seconds=1801)
    return till.drain


CONDITIONS: dict[str, Callable[[Ledger], Repair]] = {
    "dlq_depth": dead_letters_pile_up,
    "dlq_manual_review": a_letter_waits_for_a_person,
    "reconciliation_drift": balances_drift,
    "overrun_rate": costs_exceed_their_holds,
    "reservation_expiry_rate": holds_run_out,
    "payment_failure_rate": top_ups_fail,
    "balance_cache_miss_rate": balances_are_not_in_redis,
    "campaign_budget": a_campaign_spends_its_budget,
    "tick_missing": a_tick_is_missed,
    "queue_lag": a_queue_is_not_worked_off,
    "provider_down": a_provider_does_not_answer,
    "unhandled_events": a_notice_is_about_nothing_known,
    "refusals_402": reserves_are_refused,
    "money_uncredited": money_is_not_credited,
}
