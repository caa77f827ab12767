"""Many callers at once: threads, processes and executors on one ledger, on both databases."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from shared.database import Database
from shared.errors import Conflict, Invalid
from shared.ledger import accounts, sweeps
from shared.ledger.commands import Command, Finalize, Mint, Outcome, Reserve
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from tests.harness import make_id, wait_until
from tests.ledger import Ledger
from tests.ledger_processes import COST_MICRO, HOLD_MICRO, race


@pytest.fixture
def ledger(ledger: Ledger) -> Ledger:
    """A ledger that lives in the present, as the other processes do."""
    ledger.clock.now = Database(ledger.url).clock()
    return ledger


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Call *work* in *count* threads that start at once; return what each returned."""
    start = threading.Barrier(count)

    def begin(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(begin, range(count)))


@contextmanager
def queued(ledger: Ledger, count: int, work: Callable[[int], Any]) -> Iterator[list[Any]]:
    """Let *count* callers queue behind one that waits for a lock, so that they share a batch.

    Yields the list that holds their answers (or exceptions) after the block.
    """
    answers: list[Any] = []
    blocked, blocker = ledger.account(), Database(ledger.url)
    with ThreadPoolExecutor(count + 1) as threads:
        with blocker.transaction() as tx:
            tx.run(text("UPDATE credit_accounts SET version = 0 WHERE id = :id"), id=blocked)
            first = threads.submit(ledger.mint, blocked, 1)
            wait_until("a leader", lambda: ledger.executor._batches._is_busy)
            waiting = [threads.submit(work, number) for number in range(count)]
            wait_until("a queue", lambda: len(ledger.executor._batches._waiting) == count)
        first.result()
        answers += [future.exception() or future.result() for future in waiting]
    blocker.dispose()
    yield answers


def pending(ledger: Ledger) -> int:
    return ledger.rows("SELECT COUNT(*) FROM credit_reservations WHERE status = 'pending'")[0][0]


def test_eight_processes_share_one_account_without_a_single_failure(ledger: Ledger) -> None:
    """Behaviour 150, W12."""
    account, processes, count = ledger.funded(1_000_000), 8, 200
    reports = race(ledger.url, *[("cycles", account, str(count))] * processes)
    assert reports == [{"ok": 2 * count}] * processes
    assert pending(ledger) == 0
    spent = processes * count * COST_MICRO
    assert ledger.balance(account) == (1_000_000 - spent, 0, 0)
    assert len(ledger.entries(account)) == 1 + 3 * processes * count
    assert sweeps.roll_up_revenue(ledger.database) == processes * count
    shared = [ledger.balance(name)[0] for name in ("sys-commons", "sys-foundation")]
    assert shared == [3 * processes * count, 15 * processes * count]


def test_revenue_is_rolled_up_once_while_charges_go_on(ledger: Ledger) -> None:
    """Behaviour 174, W20, W52: two workers roll up what a caller is earning."""
    account = ledger.funded(1_000_000)
    reports = race(ledger.url, ("cycles", account, "80"), *[("rolling_up", "25")] * 2)
    assert reports[0] == {"ok": 160}
    assert reports[1] + reports[2] + sweeps.roll_up_revenue(ledger.database) == 80
    assert ledger.balance("sys-community-pool") == (80 * 42, 0, 0)


def test_exactly_as_many_holds_are_granted_as_there_is_money(ledger: Ledger) -> None:
    """Behaviours 35 and 139: sixty-four callers, money for thirty-seven."""
    account = ledger.funded(37 * HOLD_MICRO + HOLD_MICRO - 1)
    commands = [Reserve(account, make_id(), HOLD_MICRO) for _ in range(64)]
    outcomes = together(64, lambda number: ledger.executor.execute(commands[number]))
    codes = Counter(outcome.error.code if outcome.error else "ok" for outcome in outcomes)
    assert codes == {"ok": 37, "insufficient_credits": 27}
    assert ledger.balance(account) == (HOLD_MICRO - 1, 37 * HOLD_MICRO, 0)


def holds_of(ledger: Ledger, account: str, count: int) -> list[str]:
    holds = [Reserve(account, make_id(), HOLD_MICRO) for _ in range(count)]
    assert not [o for o in ledger.executor.execute_all(holds) if o.error]
    return [hold.reservation_id for hold in holds]


def test_a_finalize_and_a_sweep_of_one_hold_leave_one_result(ledger: Ledger) -> None:
    """Behaviour 151, W13: late or in time, charged once; holds that nobody settled are intact."""
    account = ledger.funded(1_000_000)
    holds = holds_of(ledger, account, 150)
    long_lived = ledger.reserve(account, 77, ttl_seconds=86_400)
    settled, found = race(ledger.url, ("finalizes", *holds), ("sweeping", "40"))
    assert Counter(type(value) for value in settled.values()) == {bool: 150}
    assert sum(settled.values()) <= found
    assert ledger.balance(account) == (1_000_000 - 150 * COST_MICRO - 77, 77, 0)
    kinds = Counter(entry[0] for entry in ledger.entries(account))
    assert kinds == {"grant": 1, "reserve": 151, "release": 150, "finalize": 150}
    assert ledger.finalize(long_lived, 77)["late"] is False


def test_of_a_finalize_and_a_release_exactly_one_wins(ledger: Ledger) -> None:
    """Behaviours 49, 51 and 151."""
    account = ledger.funded(1_000_000)
    holds = holds_of(ledger, account, 150)
    backwards = list(reversed(holds))
    settled, released = race(ledger.url, ("finalizes", *holds), ("releases", *backwards))
    ends = Counter((settled[hold], released[hold]) for hold in holds)
    in_time = ends[(False, "reservation_finalized")]
    assert in_time + ends[("reservation_released", "ok")] == 150
    assert ledger.balance(account) == (1_000_000 - in_time * COST_MICRO, 0, 0)
    assert pending(ledger) == 0


def test_two_processes_credit_one_payment_once(ledger: Ledger) -> None:
    """Behaviours 69 and 162; W31: whether they name two accounts or the same one."""
    first, second = ledger.account(), ledger.account()
    reports = race(ledger.url, *(("mints", own, first, "60") for own in (first, second)))
    to_two, to_one = zip(*reports, strict=True)
    both = Counter(tuple(sorted(told[source] for told in to_two)) for source in to_two[0])
    assert both == {("already_credited", "ok"): 60}
    assert [set(told.values()) for told in to_one] == [{"ok"}, {"ok"}]  # one of each is a repeat
    assert ledger.balance(first)[0] + ledger.balance(second)[0] == 120 * 5
    assert ledger.rows("SELECT COUNT(*) FROM credit_lots") == [(120,)]


def test_two_executors_in_opposite_order_never_deadlock(ledger: Ledger) -> None:
    """Locks are taken in the order of ids, whatever the order of the commands."""
    payers = sorted(ledger.funded(1_000_000) for _ in range(4))
    executors = [Executor(ledger.database, TermsCache(ledger.database)) for _ in range(2)]
    shared_holds: list[str] = [make_id()]

    def work(number: int) -> list[Outcome]:
        chance, outcomes = random.Random(number), []
        for _ in range(200):
            order = payers if number == 0 else payers[::-1]
            commands: list[Command] = [Reserve(payer, make_id(), 5) for payer in order]
            ends = chance.sample(shared_holds, min(4, len(shared_holds)))
            commands = [*commands, *(Finalize(hold, 3) for hold in ends)]
            outcomes += executors[number].execute_all(commands)
            shared_holds.extend(c.reservation_id for c in commands[:4] if isinstance(c, Reserve))
        return outcomes

    with capture_logs() as logs:
        outcomes = [outcome for part in together(2, work) for outcome in part]
    assert logs == []
    codes = Counter(outcome.error.code if outcome.error else "ok" for outcome in outcomes)
    assert set(codes) <= {"ok", "reservation_not_found"}
    assert codes["ok"] > 2 * 200 * 4
    if not ledger.database.is_sqlite:
        ledger.database.dispose()  # a session reports its deadlocks when it ends, at the latest
        count = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert ledger.rows(count) == [(0,)]


def test_a_poison_command_hurts_no_other_in_its_batch(ledger: Ledger) -> None:
    """Behaviour 140: those who travel with it are answered as if it had not been there."""
    account = ledger.funded(10_000)
    doubled = ledger.mint(ledger.account(), 5)
    poison: dict[int, Command] = {
        3: Mint(account, doubled, 7, "grant"),  # the id of another account's lot
        8: Reserve(account, make_id(), 1, ttl_seconds=10**15),  # beyond the end of time
        13: Reserve(account, make_id(), 1, description="\ud800"),  # no text in any encoding
    }
    refused = {
        18: Mint(account, make_id(), 2**63, "grant"),
        23: Reserve(account, make_id(), 10**30),
    }
    commands = {number: Reserve(account, make_id(), HOLD_MICRO) for number in range(40)}
    commands |= poison | refused  # type: ignore[arg-type]
    with queued(ledger, 40, lambda n: ledger.executor.execute(commands[n])) as answers:
        pass
    for number, told in enumerate(answers):
        if number in poison:
            assert isinstance(told, Exception), (number, told)
        elif number in refused:
            assert isinstance(told.error, Invalid)
            assert told.error.code == "amount_above_ceiling"
        else:
            assert told.unwrap()["reservedMicro"] == str(HOLD_MICRO)
    assert ledger.balance(account) == (10_000 - 35 * HOLD_MICRO, 35 * HOLD_MICRO, 0)
    assert not ledger.executor._batches._is_busy


def test_ids_that_two_callers_chose_alike_are_given_to_one(ledger: Ledger) -> None:
    """In one batch or one after the other; nothing is ever counted for both."""
    account = ledger.funded(1_000)
    lot, hold = make_id(), make_id()
    commands = [
        *(Mint(account, lot, 10, "grant", idempotency_key=f"m{n}") for n in range(3)),
        *(Reserve(account, hold, 10, idempotency_key=f"r{n}") for n in range(3)),
    ]
    with queued(ledger, 6, lambda n: ledger.executor.execute(commands[n])) as answers:
        pass
    for told in (answers[:3], answers[3:]):
        assert sorted(type(outcome.error).__name__ for outcome in told) == [
            "Conflict", "Conflict", "NoneType",
        ]  # fmt: skip
    assert ledger.balance(account) == (1_000, 10, 0)


def test_repeats_in_one_batch_are_one_operation(ledger: Ledger) -> None:
    """Behaviours 42, 43 and 69: ten callers send the same request at once."""
    account = ledger.funded(1_000)
    hold = ledger.reserve(account, 100)
    commands: list[Command] = []
    for _ in range(10):
        commands += [
            Mint(account, make_id(), 10, "deposit", "nowpay-7"),
            Reserve(account, make_id(), 50, idempotency_key="key"),
            Finalize(hold, 30),
        ]
    with queued(ledger, 30, lambda n: ledger.executor.execute(commands[n])) as answers:
        pass
    for kind in range(3):
        told = answers[kind::3]
        assert [outcome.unwrap() for outcome in told] == [told[0].unwrap()] * 10
        assert Counter(outcome.is_replay for outcome in told) == {False: 1, True: 9}
    assert ledger.balance(account) == (1_000 - 30 + 10 - 50, 50, 0)


def test_five_hundred_callers_are_all_answered(ledger: Ledger) -> None:
    """Leaders come and go; nobody is forgotten, and nobody leads for ever."""
    payers = [ledger.funded(1_000) for _ in range(5)]
    commands = [Reserve(payers[number % 5], make_id(), 7) for number in range(500)]
    with capture_logs() as logs:
        outcomes = together(500, lambda number: ledger.executor.execute(commands[number]))
    told = [outcome.unwrap()["reservationId"] for outcome in outcomes]
    assert told == [command.reservation_id for command in commands]
    batches = ledger.executor._batches
    assert (logs, batches._is_busy, len(batches._waiting)) == ([], False, 0)
    assert [ledger.balance(payer) for payer in payers] == [(300, 700, 0)] * 5


def test_one_entity_gets_one_account_however_many_ask(ledger: Ledger) -> None:
    """Behaviour 32, W26."""

    def create(_number: int) -> tuple[str, bool]:
        with ledger.database.transaction() as tx:
            return accounts.create_account(tx, entity_type="agent", entity_id="one")

    made = together(16, create)
    assert len({account for account, _ in made}) == 1
    assert sorted(is_new for _, is_new in made) == [False] * 15 + [True]


def test_a_source_in_one_batch_is_credited_to_the_first(ledger: Ledger) -> None:
    """Behaviour 162, W31."""
    payers = [ledger.account() for _ in range(4)]
    commands = [Mint(payer, make_id(), 5, "deposit", "nowpay-1") for payer in payers]
    outcomes = ledger.executor.execute_all(commands)
    assert [type(outcome.error) for outcome in outcomes] == [type(None), *[Conflict] * 3]
    assert [ledger.balance(payer)[0] for payer in payers] == [5, 0, 0, 0]
