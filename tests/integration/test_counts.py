"""Counts of what leaves no row: added by minute, for all processes, kept for a while."""

from datetime import timedelta

import pytest
from sqlalchemy.exc import SQLAlchemyError

from services.workers.work import Work
from shared.alerts import counts
from shared.alerts.counts import Recorder
from shared.database import Database, Tx
from shared.errors import Unavailable
from shared.messaging import TaskName
from shared.observability import BALANCE_CACHE, OUTCOMES, PROVIDER_CALLS
from tests.ledger import START, Ledger
from tests.till import work_of


def total(ledger: Ledger, name: str, *, minutes: int = 0) -> int:
    with ledger.database.reading() as tx:
        return counts.total(tx, name, tx.now - timedelta(minutes=minutes))


def test_each_process_adds_what_it_has_counted_since_it_began(ledger: Ledger) -> None:
    OUTCOMES.labels("reserve", "insufficient_credits").inc(5)
    first, second = Recorder(ledger.database), Recorder(ledger.database)
    OUTCOMES.labels("reserve", "insufficient_credits").inc(2)
    OUTCOMES.labels("extend", "insufficient_credits").inc()
    OUTCOMES.labels("finalize", "insufficient_credits").inc()
    OUTCOMES.labels("reserve", "ok").inc(7)
    OUTCOMES.labels("reserve", "replayed").inc(7)
    first.flush()
    first.flush()
    assert total(ledger, counts.REFUSED_402) == 3
    second.flush()
    assert total(ledger, counts.REFUSED_402) == 6
    assert total(ledger, counts.RESERVE_GRANTED) == 14


def test_reads_of_the_cache_and_calls_to_providers_are_counted(ledger: Ledger) -> None:
    recorder = Recorder(ledger.database)
    for outcome in ("hit", "hit", "miss", "away"):
        BALANCE_CACHE.labels(outcome).inc()
    for outcome in ("ok", "refused", "throttled", "failed", "no_answer", "not_reached", "busy"):
        PROVIDER_CALLS.labels("chain", "balance", outcome).inc()
    recorder.flush()
    assert [total(ledger, name) for name in (counts.CACHE_HIT, counts.CACHE_MISS)] == [2, 2]
    assert total(ledger, counts.answered("chain")) == 3
    assert total(ledger, counts.failed("chain")) == 4
    assert total(ledger, counts.failed("nowpayments")) == 0


def test_minutes_are_apart_and_old_ones_go(ledger: Ledger) -> None:
    with ledger.database.transaction() as tx:
        counts.add(tx, "x", 1)
    ledger.clock.advance(seconds=60)
    with ledger.database.transaction() as tx:
        counts.add(tx, "x", 2)
    assert (total(ledger, "x"), total(ledger, "x", minutes=1)) == (2, 3)
    ledger.clock.now = START + timedelta(days=counts.RETENTION_DAYS)
    work: Work = work_of(ledger.database)
    assert work.run(TaskName.SWEEP_KEYS) == 1
    assert ledger.rows("SELECT total FROM minute_counts") == [(2,)]


def test_what_could_not_be_recorded_is_recorded_later(ledger: Ledger) -> None:
    recorder = Recorder(ledger.database)
    OUTCOMES.labels("reserve", "ok").inc()
    ledger.sql("ALTER TABLE minute_counts RENAME TO away")
    with pytest.raises(SQLAlchemyError):
        recorder.flush()
    ledger.sql("ALTER TABLE away RENAME TO minute_counts")
    recorder.flush()
    assert total(ledger, counts.RESERVE_GRANTED) == 1


def test_what_was_recorded_is_not_recorded_again_when_the_answer_was_lost(ledger: Ledger) -> None:
    lost = [Unavailable("The connection broke after the commit.")] * 2

    def lose(_tx: Tx) -> None:
        if lost:
            raise lost.pop()

    database = Database(ledger.url, clock=ledger.clock, after_commit=[lose])
    try:
        recorder = Recorder(database)
        for _ in range(2):
            OUTCOMES.labels("reserve", "ok").inc()
            with pytest.raises(Unavailable):
                recorder.flush()
            ledger.clock.advance(seconds=60)
        assert total(ledger, counts.RESERVE_GRANTED, minutes=9) == 1
        recorder.flush()
        recorder.flush()
        assert total(ledger, counts.RESERVE_GRANTED, minutes=9) == 2
    finally:
        database.dispose()
