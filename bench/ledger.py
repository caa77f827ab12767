"""Pairs of reserve and finalize: ours by the executor, one by one, and the yardsticks."""

import multiprocessing
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg
from sqlalchemy import make_url, text

from bench.measuring import Case, give_up
from bench.yardsticks import naive_core
from deploy.local.servers import pgbench_path
from shared import schema
from shared.database import Database
from shared.ids import new_id
from shared.ledger import accounts, integrity
from shared.ledger.book import post
from shared.ledger.commands import Command, Finalize, Mint, Outcome, Reserve
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache

HELD, COST = 10, 7  # micro-USD of a pair
CALLERS, PROCESSES, CLIENTS, DIRECT = 64, 2, 8, 8
_SCRIPTS = Path(__file__).parent / "yardsticks"
_TPS = re.compile(r"^tps = ([0-9.]+) ", re.MULTILINE)


@dataclass
class Book:
    """A ledger in live mode with funded accounts, and what its loops need."""

    url: str
    accounts: list[str]
    database: Database
    teams: list["Team"] = field(default_factory=list)

    def check(self) -> None:
        """End the run if an invariant is broken."""
        with self.database.reading() as tx:
            breaches = integrity.verify(tx)
        if breaches:
            give_up(f"an invariant is broken: {breaches[0]}")


def open_book(url: str, number_of_accounts: int) -> Book:
    """Migrate the database at *url*, switch it to live mode, and fund its accounts."""
    database = Database(url)
    schema.upgrade(database)
    terms = TermsCache(database)
    with database.transaction() as tx:
        tx.run(text("UPDATE billing_config SET value = 'live' WHERE key = 'billing_mode'"))
        made = [
            accounts.create_account(tx, entity_type="person", entity_id=str(n))[0]
            for n in range(number_of_accounts)
        ]
    for start in range(0, len(made), 500):
        with database.transaction() as tx:
            mints: list[Command] = [
                Mint(account, new_id(tx.now), 10_000_000_000, "deposit", new_id(tx.now))
                for account in made[start : start + 500]
            ]
            for outcome in post(tx, mints, terms.current()):
                outcome.unwrap()
    return Book(url, made, database)


class Pairs:
    """Carries pairs out, together or one by one."""

    def __init__(self, url: str, *, is_batching: bool) -> None:
        self._database = Database(url)
        self._terms = TermsCache(self._database)
        self._executor = Executor(self._database, self._terms)
        self._do = self._executor.execute if is_batching else self._alone

    def run(self, callers: int, seconds: float, among: list[str]) -> int:
        """Let *callers* threads make pairs for *seconds*; return how many were made."""
        stop, counts = time.perf_counter() + seconds, [0] * callers

        def call(place: int) -> None:
            while time.perf_counter() < stop:
                self._pair(random.choice(among))
                counts[place] += 1

        threads = [threading.Thread(target=call, args=(n,)) for n in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    def _pair(self, account: str) -> None:
        id_ = new_id(self._database.clock())
        held = self._do(Reserve(account, id_, HELD, idempotency_key=id_)).unwrap()
        self._do(Finalize(held["reservationId"], COST)).unwrap()

    def _alone(self, command: Command) -> Outcome:
        with self._database.transaction() as tx:
            return post(tx, [command], self._terms.current())[0]


class Team:
    """Processes that make pairs when they are told to, all at the same time."""

    def __init__(self, url: str, processes: int, *, is_batching: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._members = []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, url, is_batching), daemon=True)
            process.start()
            self._members.append((process, here))

    def rate(self, callers: int, seconds: float, among: list[str]) -> float:
        """Return the pairs per second of *callers* threads, shared between the processes."""
        began = time.perf_counter()
        for _, line in self._members:
            line.send((callers // len(self._members), seconds, among))
        total = sum(line.recv() for _, line in self._members)
        return total / (time.perf_counter() - began)

    def stop(self) -> None:
        """End the processes."""
        for process, line in self._members:
            line.send(None)
            process.join(20)


def _work(line: Connection, url: str, is_batching: bool) -> None:  # noqa: FBT001  by multiprocessing
    pairs = Pairs(url, is_batching=is_batching)
    while (order := line.recv()) is not None:
        line.send(pairs.run(*order))


@contextmanager
def postgres_cases(url: str, *, accounts_spread: int, seconds: float) -> Iterator[list[Case]]:
    """Yield the cases on PostgreSQL; the yardstick has a database of its own on the same server."""
    book = open_book(url, accounts_spread)
    yardstick, address = _open_yardstick(url, accounts_spread)
    book.teams = [Team(url, PROCESSES), Team(url, PROCESSES, is_batching=False)]
    batching, direct = book.teams
    hot = book.accounts[:1]

    def pgbench(accounts_used: int) -> Callable[[], dict[str, float]]:
        name = "pgbench_hot" if accounts_used == 1 else "pgbench_spread"
        return lambda: {name: _pgbench(address, accounts_used, seconds)}

    try:
        yield [
            Case("pgbench_spread", pgbench(accounts_spread), yardstick.check),
            Case("pgbench_hot", pgbench(1), yardstick.check),
            Case(
                "pg_spread",
                lambda: {"pg_spread": batching.rate(CALLERS, seconds, book.accounts)},
                book.check,
            ),
            Case("pg_hot", lambda: {"pg_hot": batching.rate(CALLERS, seconds, hot)}, book.check),
            Case(
                "pg_single",
                lambda: {"pg_single": direct.rate(DIRECT, seconds, book.accounts)},
                book.check,
            ),
        ]
    finally:
        for team in book.teams:
            team.stop()
        yardstick.database.dispose()
        book.database.dispose()


@contextmanager
def sqlite_cases(url: str, *, seconds: float) -> Iterator[list[Case]]:
    """Yield the cases on SQLite; the naive way works on the same file, on an account of its own."""
    book = open_book(url, 2)
    ours, naive = book.accounts
    pairs = Pairs(url, is_batching=True)

    def core() -> dict[str, float]:
        began, count = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            naive_core.pair(book.database.engine, naive, HELD, COST)
            count += 1
        return {"sqlite_core": count / (time.perf_counter() - began)}

    def own(callers: int) -> float:
        began = time.perf_counter()
        return pairs.run(callers, seconds, [ours]) / (time.perf_counter() - began)

    try:
        yield [
            Case("sqlite_core", core, book.check),
            Case("sqlite_single", lambda: {"sqlite_single": own(1)}, book.check),
            Case("sqlite_batched", lambda: {"sqlite_batched": own(CALLERS)}, book.check),
        ]
    finally:
        book.database.dispose()


def _open_yardstick(url: str, number_of_accounts: int) -> tuple[Book, str]:
    """Make the yardstick's database on the same server; return it and libpq's address of it."""
    with psycopg.connect(_libpq(url), autocommit=True) as connection:
        connection.execute("CREATE DATABASE yardstick")
    own = make_url(url).set(database="yardstick").render_as_string(hide_password=False)
    book = open_book(own, number_of_accounts)
    with psycopg.connect(_libpq(own), autocommit=True) as connection:
        connection.execute((_SCRIPTS / "plpgsql.sql").read_text())  # type: ignore[arg-type]  # fixed
        connection.execute("VACUUM ANALYZE")
    return book, _libpq(own)


def _libpq(url: str) -> str:
    parts = make_url(url)
    return parts.set(drivername="postgresql").render_as_string(hide_password=False)


def _pgbench(address: str, accounts_used: int, seconds: float) -> float:
    command = [
        *(str(pgbench_path()), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}"),
        *("--jobs=2", f"--time={round(seconds)}", f"--define=accounts={accounts_used}"),
        *(f"--file={_SCRIPTS / 'pair.sql'}", address),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _TPS.search(done.stdout)
    if found is None or " 0 (0.000%)" not in done.stdout:
        give_up(f"pgbench: {done.stdout}{done.stderr}")
    assert found is not None
    return float(found[1])
