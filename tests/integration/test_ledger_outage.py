"""The database goes away and comes back: nobody is served for nothing, and nothing is doubled."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from deploy.local.servers import RunningServer, running_postgres
from shared.errors import Unavailable
from shared.ledger.commands import Command, Finalize, Mint, Outcome, Reserve
from tests.harness import Databases, make_id, wait_until
from tests.ledger import Ledger

CALLERS, CYCLES = 12, 25


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """A PostgreSQL that may be stopped and killed, and keeps what it has committed."""
    with running_postgres(fsync=True) as running:
        yield running


@pytest.fixture
def ledger(server: RunningServer, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on the server that goes away."""
    made = Ledger(Databases(tmp_path, server.url).make("postgresql"))
    with capture_logs():  # to print hundreds of tracebacks takes longer than what is measured
        yield made
    breaches = made.breaches()
    made.database.dispose()
    assert breaches == []


def test_without_its_database_every_caller_is_told_to_come_again(
    ledger: Ledger, server: RunningServer
) -> None:
    """Behaviour 140, W2: 503, soon, for all; the same requests then count once."""
    account = ledger.funded(10_000)
    hold = ledger.reserve(account, 100)
    commands: list[Command] = [Reserve(account, make_id(), 100) for _ in range(20)]
    commands += [Finalize(hold, 60), Mint(account, make_id(), 5, "deposit", "nowpay-1")]
    server.stop()

    def ask(command: Command) -> float:
        began = time.monotonic()
        with pytest.raises(Unavailable) as refusal:
            ledger.executor.execute(command)
        assert refusal.value.code == "database_unavailable"
        return time.monotonic() - began

    with ThreadPoolExecutor(len(commands)) as threads:
        assert max(threads.map(ask, commands)) < 10
    assert not ledger.executor._batches._is_busy
    server.start()
    for _ in range(2):  # the second time everything is a repeat
        for command in commands:
            ledger.answer(command)
    assert ledger.balance(account) == (10_000 - 60 + 5 - 2_000, 2_000, 0)
    assert len(ledger.entries(account)) == 1 + 1 + 20 + 2 + 1


def test_killed_in_the_middle_of_work_the_ledger_loses_and_doubles_nothing(
    ledger: Ledger, server: RunningServer
) -> None:
    """Behaviour 140: what was answered is there; what was not may be sent again with its ids."""
    account = ledger.funded(1_000_000)
    answered, away = [0] * CALLERS, threading.Event()

    def insist(command: Command) -> Outcome:
        while True:
            try:
                return ledger.executor.execute(command)
            except Unavailable:
                away.set()

    def work(number: int) -> None:
        for _ in range(CYCLES):
            hold = make_id()
            insist(Reserve(account, hold, 100)).unwrap()
            told = insist(Finalize(hold, 60)).unwrap()
            assert (told["finalizedMicro"], told["late"]) == ("60", False)
            answered[number] += 1

    with ThreadPoolExecutor(CALLERS) as threads:
        working = [threads.submit(work, number) for number in range(CALLERS)]
        wait_until("some work", lambda: sum(answered) >= CALLERS)
        server.kill()
        wait_until("an outage", away.is_set)
        server.start()
        for future in working:
            future.result()
    total = CALLERS * CYCLES
    assert ledger.balance(account) == (1_000_000 - total * 60, 0, 0)
    assert ledger.rows("SELECT status, COUNT(*) FROM credit_reservations GROUP BY status") == [
        ("finalized", total)
    ]
    assert len(ledger.entries(account)) == 1 + 3 * total
