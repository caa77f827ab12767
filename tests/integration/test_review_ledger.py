"""Faults that a review found in the ledger: locked accounts, repairs by hand, time, snapshots."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from shared.database import Database, DatabaseBusy, Tx
from shared.errors import Conflict
from shared.ledger.book import post
from shared.ledger.commands import Command, ExpireHold, Finalize, Mint, Outcome, Release, Reserve
from shared.ledger.executor import Executor
from shared.ledger.terms import Terms, TermsCache
from shared.operations.audit import Actor, record
from tests.harness import Api, make_id, wait_until
from tests.ledger import Ledger
from tests.till import locked

on_postgresql = pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
WAITERS = 8


@pytest.fixture
def present(ledger: Ledger) -> Iterator[Ledger]:
    """A ledger on which time passes as it does."""
    database = Database(ledger.url)
    ledger.clock.now = database.clock()
    ledger.executor = Executor(database, TermsCache(database))
    yield ledger
    database.dispose()


def timed(ledger: Ledger, command: Command) -> tuple[Outcome | BaseException, float]:
    """Carry out *command*; return what became of it and after how many seconds."""
    began = time.monotonic()
    try:
        return ledger.executor.execute(command), time.monotonic() - began
    except DatabaseBusy as error:
        return error, time.monotonic() - began


@on_postgresql
def test_one_locked_account_does_not_stop_the_others_of_its_batch(ledger: Ledger) -> None:
    blocked, payers = ledger.funded(100), [ledger.funded(100) for _ in range(WAITERS)]
    commands = [Reserve(payer, make_id(), 10) for payer in (blocked, *payers)]
    gate = ledger.account()
    with ThreadPoolExecutor(WAITERS + 2) as threads, locked(ledger.url, blocked):
        with locked(ledger.url, gate):  # so that all others queue and make one batch
            first = threads.submit(ledger.mint, gate, 1)
            wait_until("a leader", lambda: ledger.executor._batches._is_busy)
            asked = [threads.submit(timed, ledger, command) for command in commands]
            wait_until("a queue", lambda: len(ledger.executor._batches._waiting) == len(asked))
        first.result()
        (error, _), *answered = [future.result() for future in asked]
    assert isinstance(error, DatabaseBusy)
    assert error.code == "database_busy"
    for outcome, seconds in answered:
        assert isinstance(outcome, Outcome)
        assert outcome.unwrap()["reservedMicro"] == "10"
        assert seconds < 5
    assert not ledger.executor._batches._is_busy
    assert ledger.balance(blocked) == (100, 0, 0)
    assert ledger.answer(commands[0])["reservedMicro"] == "10"  # once the lock is gone


@on_postgresql
def test_a_locked_account_that_is_asked_for_alone_is_busy_within_seconds(ledger: Ledger) -> None:
    blocked, other = ledger.funded(100), ledger.funded(100)
    with locked(ledger.url, blocked):
        error, seconds = timed(ledger, Reserve(blocked, make_id(), 10))
        assert isinstance(error, DatabaseBusy)
        assert seconds < 5  # it is not repeated: that would be the same wait again
        outcome, seconds = timed(ledger, Reserve(other, make_id(), 10))
        assert isinstance(outcome, Outcome)
        assert seconds < 1


REPAIR = (
    "UPDATE credit_lots SET reserved_micro = 0, consumed_micro = original_micro - available_micro"
    " WHERE account_id = :id"
)
LOT = "SELECT id FROM credit_lots WHERE account_id = :id"
UNDO = (
    "UPDATE credit_lots SET reserved_micro = 40, consumed_micro = consumed_micro - 40"
    " WHERE account_id = :id"
)


def test_a_hold_whose_lot_was_repaired_by_hand_stops_nothing_else(ledger: Ledger) -> None:
    account, other = ledger.funded(100), ledger.funded(100)
    broken, [(repaired,)] = ledger.reserve(account, 40), ledger.rows(LOT, id=account)
    others = [ledger.reserve(other, 10) for _ in range(3)]
    assert ledger.sql(REPAIR, id=account) == 1
    same = ledger.reserve(account, 10)  # on the repaired lot, too
    ledger.clock.advance(seconds=300)
    with capture_logs() as logs:
        ledger.sweep()
    assert [one for one in logs if one["log_level"] != "info"] == []
    status = dict(ledger.rows("SELECT id, status FROM credit_reservations"))
    assert status == {broken: "pending", same: "expired", **dict.fromkeys(others, "expired")}
    assert ledger.balance(other) == (100, 0, 0)
    assert ledger.lots(account) == [(60, 0, 40)]
    ledger.reserve(account, 30)
    ledger.mint(account, 5)
    before = ledger.everything()
    for command in (Finalize(broken, 7), Finalize(broken, 0), Release(broken)):
        assert ledger.refusal(command) == (Conflict, "hold_inconsistent")
    assert ledger.answer(ExpireHold(broken))["status"] == "pending"
    assert ledger.everything() == before
    found = {(breach.invariant, breach.place) for breach in ledger.breaches()}
    assert ("holds_equal_reserved", repaired) in found
    ledger.is_sound_at_end = False


def test_a_hold_that_was_repaired_by_hand_is_a_conflict_over_http(api: Api) -> None:
    account = api.funded_account(100)
    held = api.internal("reserve", {"accountId": account, "estimatedCostMicro": "40"}).json()
    with api.database.transaction() as tx:
        tx.run(text(REPAIR), id=account)
    body = {"reservationId": held["reservationId"], "actualCostMicro": "7"}
    refused = api.internal("finalize", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "hold_inconsistent")
    with api.database.transaction() as tx:  # the books of this API are checked by other tests
        tx.run(text(UNDO), id=account)
    assert api.internal("finalize", body).status_code == 200


def history(ledger: Ledger, account: str) -> list[tuple[Any, ...]]:
    return ledger.rows(
        "SELECT entry_seq, pre_balance_micro, post_balance_micro FROM credit_ledger"
        " WHERE account_id = :id ORDER BY created_at, id",
        id=account,
    )


def assert_chained(entries: list[tuple[Any, ...]]) -> None:
    assert [entry[0] for entry in entries] == list(range(1, len(entries) + 1))
    befores, afters = [entry[1] for entry in entries], [entry[2] for entry in entries]
    assert befores == [0, *afters[:-1]]


@on_postgresql
def test_two_executors_write_the_history_of_one_account_in_order(present: Ledger) -> None:
    account = present.funded(1_000_000)
    databases = [Database(present.url) for _ in range(2)]
    executors = [Executor(database, TermsCache(database)) for database in databases]
    start = threading.Barrier(16)

    def work(number: int) -> None:
        executor = executors[number % 2]
        start.wait()
        for _ in range(12):
            hold = make_id()
            executor.execute(Reserve(account, hold, 100)).unwrap()
            executor.execute(Finalize(hold, 60)).unwrap()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    for database in databases:
        database.dispose()
    entries = history(present, account)
    assert len(entries) == 1 + 3 * 16 * 12
    assert_chained(entries)


@on_postgresql
def test_a_transaction_that_began_first_and_wrote_last_comes_last_in_history(
    present: Ledger,
) -> None:
    account = present.account()
    database, terms = Database(present.url), Terms("live")
    with database.transaction() as early:
        with database.transaction() as late:
            post(late, [Mint(account, make_id(), 7, "grant")], terms)
        post(early, [Mint(account, make_id(), 5, "grant")], terms)
    database.dispose()
    assert history(present, account) == [(1, 0, 7), (2, 7, 12)]


def test_what_is_read_in_one_reading_is_one_snapshot(ledger: Ledger) -> None:
    account = ledger.funded(100)
    seen = text("SELECT available_micro FROM credit_balances WHERE account_id = :id")
    entries = text("SELECT COUNT(*) FROM credit_ledger WHERE account_id = :id")
    with ledger.database.reading() as tx:
        before = (tx.scalar(seen, id=account), tx.scalar(entries, id=account))
        ledger.reserve(account, 30)
        ledger.mint(account, 1)
        assert (tx.scalar(seen, id=account), tx.scalar(entries, id=account)) == before == (100, 1)
    with ledger.database.reading() as tx:
        assert (tx.scalar(seen, id=account), tx.scalar(entries, id=account)) == (71, 3)


@on_sqlite
@pytest.mark.parametrize("table", ["credit_ledger", "admin_audit_log"])
def test_evidence_cannot_be_replaced(ledger: Ledger, table: str) -> None:
    ledger.funded(5)
    with ledger.database.transaction() as tx:
        record(tx, Actor("admin", "a"), "look", target_type="account", target_id="x")
    before = ledger.rows(f"SELECT * FROM {table}")
    for verb in ("INSERT OR REPLACE", "REPLACE", "INSERT"):
        with pytest.raises(DBAPIError, match="append-only"):
            ledger.sql(f"{verb} INTO {table} SELECT * FROM {table}")
    assert ledger.rows(f"SELECT * FROM {table}") == before
    assert len(before) == 1


@pytest.mark.parametrize("opened", [Database.transaction, Database.reading])
def test_a_mistake_in_sql_is_not_called_an_outage(
    ledger: Ledger, opened: Callable[[Database], AbstractContextManager[Tx]]
) -> None:
    for mistake in ("SELECT no_such FROM credit_lots", "SELECT 1 FROM no_such"):
        with pytest.raises(DBAPIError, match="no_such"), opened(ledger.database) as tx:
            tx.all(text(mistake))
