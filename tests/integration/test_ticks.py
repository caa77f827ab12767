"""Liveness is progress: heartbeats, the age of undone work, `arrakis status`, and the gauges."""

import json
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.beat import Service
from structlog.testing import capture_logs

from services.workers.app import end_after_the_round, install
from services.workers.schedule import EVERY_SECONDS, EXPECTED_TICKS, beat_schedule
from services.workers.watchdog import Watchdog
from services.workers.work import Work
from shared.clock import system_clock
from shared.errors import Unavailable
from shared.messaging import TaskName, make_celery
from shared.operations import ticks
from shared.operations.ticks import Lag, is_missing
from tests.command import arrakis
from tests.ledger import START, Ledger
from tests.till import Till, work_of


@pytest.fixture
def work(ledger: Ledger) -> Iterator[Work]:
    with capture_logs():
        yield work_of(ledger.database)


def seen(ledger: Ledger) -> dict[str, ticks.TickState]:
    with ledger.database.reading() as tx:
        return {tick.name: tick for tick in ticks.list_ticks(tx)}


def due(ledger: Ledger) -> dict[str, Lag]:
    with ledger.database.reading() as tx:
        return {lag.kind: lag for lag in ticks.lags(tx) if lag.rows}


def test_every_kind_of_work_leaves_a_heartbeat(ledger: Ledger, work: Work) -> None:
    for name in TaskName:
        work.run(name)
    found = seen(ledger)
    assert found.keys() == {name.value for name in TaskName} == {n.value for n in EVERY_SECONDS}
    assert {tick.succeeded_at for tick in found.values()} == {START}
    assert not any(tick.is_missing for tick in found.values())
    ledger.clock.advance(hours=24)
    assert all(tick.is_missing for tick in seen(ledger).values())


def test_work_that_never_began_is_missing_and_so_is_beat(ledger: Ledger, work: Work) -> None:
    work.expect_ticks()
    found = seen(ledger)
    assert found.keys() == {name.value for name in TaskName} | {"beat"}
    assert not any(tick.is_missing for tick in found.values())
    for name in TaskName:
        if name is not TaskName.EXPIRE_HOLDS:
            work.run(name)
    ledger.clock.advance(seconds=61)
    work.expect_ticks()  # another worker starts, and hides nothing
    missing = {name for name, tick in seen(ledger).items() if tick.is_missing}
    assert {"ledger.expire_holds", "beat"} <= missing
    assert "maintenance.poll_payments" not in missing
    work.note_beat()
    assert not seen(ledger)["beat"].is_missing


def test_beats_wake_up_is_noted_by_the_worker_that_takes_it(ledger: Ledger, work: Work) -> None:
    app = make_celery("memory://")
    install(app, work, Watchdog(work.longest_run_seconds, memory_limit_mb=10_000))
    for task in beat_schedule():
        app.tasks[task].apply()
    assert seen(ledger).keys() == {name.value for name in TaskName} | {"beat"}
    assert seen(ledger)["beat"].succeeded_at == START


def test_beat_told_to_end_amid_of_sending_sends_it_and_ends_in_order(tmp_path: Path) -> None:
    app = Celery(broker="memory://", set_as_current=False)
    every = {"task": "work", "schedule": 0.01}
    app.conf.update(beat_schedule={"work": every}, beat_max_loop_interval=0.01)
    service = Service(app, schedule_filename=str(tmp_path / "schedule"))
    sent: list[str] = []

    def end(**_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    def note(sender: str, **_: object) -> None:
        sent.append(sender)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals.before_task_publish.connect(end)
    signals.after_task_publish.connect(note)
    try:
        end_after_the_round(service)
        service.start()
    finally:
        signals.before_task_publish.disconnect(end)
        signals.after_task_publish.disconnect(note)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert sent
    assert set(sent) == {"work"}


def test_beat_sends_its_own_heartbeat_which_no_worker_polls_for() -> None:
    planned = beat_schedule()["maintenance.note_beat"]
    assert planned["options"]["queue"] == "maintenance"
    assert planned["schedule"] == EXPECTED_TICKS["beat"]
    assert "maintenance.note_beat" not in {name.value for name in TaskName}


@pytest.mark.parametrize(
    ("every", "late", "missing"),
    [(2, 60, False), (2, 61, True), (60, 240, False), (60, 241, True), (3600, 14_401, True)],
)
def test_a_tick_is_missing_after_four_intervals_and_a_minute(
    every: int, late: int, missing: bool
) -> None:
    assert is_missing(START, every, START + timedelta(seconds=late)) is missing


def test_work_that_crashes_says_so_and_is_raised(
    ledger: Ledger, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash is the work's fault; a dependency that is away is not: both are noted."""

    def broken(error: Exception) -> dict[TaskName, Any]:
        def batch() -> int:
            raise error

        return {TaskName.EXPIRE_HOLDS: batch}

    monkeypatch.setattr(Work, "batches", lambda _: broken(ZeroDivisionError("poison")))
    with pytest.raises(ZeroDivisionError):
        work.run(TaskName.EXPIRE_HOLDS)
    assert "poison" in (seen(ledger)["ledger.expire_holds"].error or "")
    monkeypatch.setattr(Work, "batches", lambda _: broken(Unavailable("The provider is away.")))
    assert work.run(TaskName.EXPIRE_HOLDS) == 0
    assert seen(ledger)["ledger.expire_holds"].error == "The provider is away."
    monkeypatch.undo()
    work.run(TaskName.EXPIRE_HOLDS)
    assert seen(ledger)["ledger.expire_holds"].error is None


def test_the_age_of_the_oldest_undone_row_is_told_for_each_kind(ledger: Ledger, work: Work) -> None:
    till = Till(ledger)
    account = ledger.funded(1_000_000)
    ledger.mint(account, 500, expires_at=START + timedelta(seconds=20))
    ledger.reserve(account, 10, ttl_seconds=10)
    ledger.finalize(ledger.reserve(account, 10), 10)
    till.tell(till.payment(next_poll_at=START), "finished")
    ledger.clock.advance(seconds=30)
    found = due(ledger)
    assert {kind: (lag.queue, lag.rows, lag.seconds) for kind, lag in found.items()} == {
        "notices": ("payments", 1, 30.0),
        "holds": ("ledger", 1, 20.0),
        "lots": ("ledger", 1, 10.0),
        "revenue": ("ledger", 1, 30.0),
        "payments_to_read": ("maintenance", 1, 30.0),
    }
    for name in (TaskName.DRAIN_WEBHOOKS, TaskName.EXPIRE_HOLDS, TaskName.EXPIRE_LOTS):
        work.run(name)
    work.run(TaskName.ROLL_UP_REVENUE)
    assert due(ledger) == {}


def status(ledger: Ledger, *arguments: str) -> tuple[int, str]:
    code, output, complaint = arrakis("status", *arguments, DATABASE_URL=ledger.url)
    return code, output or complaint


def test_status_says_what_is_wrong_and_exits_accordingly(ledger: Ledger, work: Work) -> None:
    code, said = status(ledger)
    assert (code, "No worker has ever done anything here." in said) == (1, True)
    ledger.clock.now = system_clock()
    for name in TaskName:
        work.run(name)
    code, said = status(ledger)
    assert (code, "All is well." in said) == (0, True), said
    ledger.sql("UPDATE worker_ticks SET succeeded_at = NULL, created_at = '2020-01-01 00:00:00'")
    code, said = status(ledger, "--json")
    told = json.loads(said.splitlines()[-1])
    assert (code, told["isHealthy"], len(told["problems"])) == (1, False, len(TaskName))


def test_the_api_tells_the_gauges_of_the_database(ledger: Ledger, work: Work, api_of: Any) -> None:
    ledger.clock.now = system_clock()
    work.run(TaskName.EXPIRE_HOLDS)
    till = Till(ledger)
    till.told(till.payment(), "under_review")
    told = api_of(ledger.url).get("/metrics", headers={}).text
    assert 'arrakis_dead_letters{status="manual_review"} 1.0' in told
    assert 'arrakis_queue_due_rows{kind="notices",queue="payments"} 0.0' in told
    assert 'arrakis_tick_missing{task="ledger.expire_holds"} 0.0' in told
