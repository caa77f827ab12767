"""Workers that outlive their broker, end themselves when stuck, and never spend all threads on one
kind of work."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from deploy.local.servers import free_port, redis_command
from services.workers.watchdog import Watchdog, resident_mb
from services.workers.work import Work
from shared.clock import add_seconds, system_clock
from shared.database import Database, insert_rows
from shared.messaging import TaskName, make_celery
from shared.models.ledger import IdempotencyKey
from tests.harness import ROOT, service, service_environment, wait_until, worker
from tests.till import work_of


class Broker:
    """A Redis that a test kills and starts again on the same port, empty."""

    def __init__(self, directory: Path) -> None:
        self.port, self.directory = free_port(), directory
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.lives = 0

    def start(self) -> None:
        self.lives += 1
        home = self.directory / str(self.lives)  # a new one each time: what was in it is gone
        home.mkdir()
        self.process = subprocess.Popen(
            redis_command(home, self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until("redis", self.answers)

    def answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.url).ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    made.start()
    yield made
    made.kill()


def put_old_key(database: Database, key: str) -> None:
    """Leave something for the hourly sweep, so that only a wake-up has it done soon."""
    now = system_clock()
    with database.transaction() as tx:
        row = {
            "scope": "deposit",
            "idempotency_key": key,
            "response_hash": "x",
            "created_at": add_seconds(now, -7200),
            "expires_at": add_seconds(now, -3600),
        }
        insert_rows(tx, IdempotencyKey.__table__, [row])


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # it is about Redis
def test_a_worker_consumes_again_after_its_broker_was_killed_three_times(
    database: Database, broker: Broker, tmp_path: Path
) -> None:
    """A known weak spot of Celery over Redis: the wake-ups must arrive, not the polling."""
    environment = service_environment(
        database.engine.url.render_as_string(hide_password=False), broker.url
    )
    sender = make_celery(broker.url)

    def is_swept() -> bool:
        # The hint may fall into the moment before the worker is back: it is only a hint.
        sender.send_task(TaskName.SWEEP_KEYS.value, queue="maintenance", retry=False)
        with database.reading() as tx:
            return int(tx.scalar(text("SELECT COUNT(*) FROM billing_idempotency_keys"))) == 0

    with service(worker("maintenance"), environment, None, tmp_path / "worker.log") as running:
        put_old_key(database, "at the start")
        wait_until("the first sweep", is_swept, seconds=20)
        for life in range(3):
            broker.kill()
            put_old_key(database, f"life {life}")
            time.sleep(1.0)
            broker.start()
            wait_until("a sweep after the restart", is_swept, seconds=30)
            assert running.poll() is None
    sender.close()


def test_one_kind_of_work_never_takes_all_threads(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow provider holds two threads of a worker, and no other kind waits for it."""
    work, going, done = work_of(database), threading.Event(), threading.Event()
    begun: list[int] = []

    def slow() -> int:
        begun.append(1)
        going.set()
        done.wait(10)
        return 0

    usual = Work.batches
    monkeypatch.setattr(Work, "batches", lambda self: usual(self) | {TaskName.POLL_PAYMENTS: slow})
    threads = [threading.Thread(target=work.run, args=(TaskName.POLL_PAYMENTS,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    going.wait(10)
    wait_until("four that were turned away", lambda: sum(t.is_alive() for t in threads) == 2)
    assert work.run(TaskName.EXPIRE_HOLDS) == 0
    assert work.longest_run_seconds() > 0
    done.set()
    for thread in threads:
        thread.join(10)
    assert (len(begun), work.longest_run_seconds()) == (2, 0.0)


PROGRAM = """
import threading
from services.workers.watchdog import Watchdog
Watchdog(lambda: {seconds}, {limit}, look_seconds=0.05).watch(threading.Event())
print("stopped watching")
threading.Event().wait(10)
"""


@pytest.mark.parametrize(
    ("seconds", "limit", "code"), [(301.0, 10_000, 70), (0.0, 1, -signal.SIGTERM)]
)
def test_the_watchdog_ends_a_process_that_is_stuck_or_too_large(
    seconds: float, limit: int, code: int
) -> None:
    program = PROGRAM.format(seconds=seconds, limit=limit)
    ended: Any = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=30, check=False
    )
    assert ended.returncode == code, ended.stderr


def test_the_watchdog_leaves_a_healthy_process_alone() -> None:
    stopping = threading.Event()
    dog = Watchdog(lambda: 299.0, 100_000, look_seconds=0.01)
    thread = threading.Thread(target=dog.watch, args=(stopping,))
    thread.start()
    time.sleep(0.1)
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()
    assert 10 < resident_mb() < 100_000
