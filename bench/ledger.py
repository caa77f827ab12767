"""Pairs of reserve and finalize: ours by the executor, one by one, and the yardsticks."""

import multiprocessing
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg
from sqlalchemy import URL, make_url, text

from bench.measuring import Case, Part, give_up
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
BATCH_SIZES = (1, 4, 16, 64, 256)
_SCRIPTS = Path(__file__).parent / "yardsticks"
_TPS = re.compile(r"^tps = ([0-9.]+) ", re.MULTILINE)


@dataclass
class Book:
    """A ledger in live mode with funded accounts, and what its loops need."""

    url: str
    accounts: list[str]
    database: Database

    def clone(self, name: str) -> "Book":
        """Copy this ledger's database, on PostgreSQL, to a new one on the same server."""
        self.database.dispose()  # a template must have no other connection
        parts = make_url(self.url)
        with psycopg.connect(libpq(parts.set(database="postgres")), autocommit=True) as connection:
            query = f'CREATE DATABASE "{name}" TEMPLATE "{parts.database}"'
            connection.execute(query)
        url = parts.set(database=name).render_as_string(hide_password=False)
        return Book(url, self.accounts, Database(url))

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
        """Let *callers* threads make pairs for *seconds*, one each at least; return how many."""
        stop, counts = time.perf_counter() + seconds, [0] * callers

        def call(place: int) -> None:
            while counts[place] == 0 or time.perf_counter() < stop:
                self.pair(random.choice(among))
                counts[place] += 1

        threads = [threading.Thread(target=call, args=(n,)) for n in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    def pair(self, account: str) -> None:
        """Hold 10 micro-USD and settle 7."""
        id_ = new_id(self._database.clock())
        held = self._do(Reserve(account, id_, HELD, idempotency_key=id_)).unwrap()
        self._do(Finalize(held["reservationId"], COST)).unwrap()

    def rate_in_batches(self, size: int, seconds: float, among: list[str]) -> float:
        """Return pairs per second of one caller, *size* commands in each transaction."""
        began, count = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            reserves: list[Command] = [
                Reserve(random.choice(among), id_, HELD, idempotency_key=id_)
                for id_ in (new_id(self._database.clock()) for _ in range(size))
            ]
            holds = [held.unwrap()["reservationId"] for held in self._together(reserves)]
            for outcome in self._together([Finalize(hold, COST) for hold in holds]):
                outcome.unwrap()
            count += size
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        """Close the connections."""
        self._database.dispose()

    def _together(self, commands: Sequence[Command]) -> list[Outcome]:
        with self._database.transaction() as tx:
            return post(tx, commands, self._terms.current())

    def _alone(self, command: Command) -> Outcome:
        return self._together([command])[0]


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
        total: int = sum(line.recv() for _, line in self._members)
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
def on_postgres(book: Book, seconds: float) -> Iterator[Part]:
    """Yield the cases on PostgreSQL; the yardstick has a database of its own on the same server."""
    yardstick = _open_yardstick(book)
    batching, direct = Team(book.url, PROCESSES), Team(book.url, PROCESSES, is_batching=False)
    alone = Pairs(book.url, is_batching=False)
    hot, spread = book.accounts[:1], book.accounts

    def pgbench(name: str, among: list[str]) -> Case:
        return Case(
            lambda: {name: _pgbench(libpq(yardstick.url), len(among), seconds)},
            yardstick.check,
            in_flight=CLIENTS,
        )

    def ours(name: str, team: Team, callers: int, among: list[str]) -> Case:
        return Case(
            lambda: {name: team.rate(callers, seconds, among)}, book.check, in_flight=callers
        )

    def batches(size: int) -> Case:
        return Case(
            lambda: {f"batches_of_{size}": alone.rate_in_batches(size, seconds / 4, spread)},
            book.check,
            in_flight=size,
        )

    try:
        yield Part(
            [
                pgbench("pgbench_spread", spread),
                pgbench("pgbench_hot", hot),
                ours("pg_spread", batching, CALLERS, spread),
                ours("pg_hot", batching, CALLERS, hot),
                ours("pg_single", direct, DIRECT, spread),
                *(batches(size) for size in BATCH_SIZES),
            ]
        )
    finally:
        for team in (batching, direct):
            team.stop()
        alone.close()
        yardstick.database.dispose()


@contextmanager
def on_sqlite(book: Book, seconds: float) -> Iterator[Part]:
    """Yield the cases on SQLite; the naive way works on the same file, on an account of its own."""
    ours, naive = book.accounts
    pairs = Pairs(book.url, is_batching=True)

    def core() -> dict[str, float]:
        began, count = time.perf_counter(), 0
        while time.perf_counter() < began + seconds:
            naive_core.pair(book.database.engine, naive, HELD, COST)
            count += 1
        return {"sqlite_core": count / (time.perf_counter() - began)}

    def own(name: str, callers: int) -> Case:
        def measured() -> dict[str, float]:
            began = time.perf_counter()
            count = pairs.run(callers, seconds, [ours])
            return {name: count / (time.perf_counter() - began)}

        return Case(measured, book.check, in_flight=callers)

    try:
        yield Part(
            [Case(core, book.check), own("sqlite_single", 1), own("sqlite_batched", CALLERS)]
        )
    finally:
        pairs.close()


def _open_yardstick(book: Book) -> Book:
    yardstick = book.clone("yardstick")
    with psycopg.connect(libpq(yardstick.url), autocommit=True) as connection:
        connection.execute((_SCRIPTS / "plpgsql.sql").read_text())
        connection.execute("VACUUM ANALYZE")
    return yardstick


def libpq(url: str | URL) -> str:
    """Return *url* as libpq and psycopg read it."""
    parts = make_url(url)
    return parts.set(drivername="postgresql").render_as_string(hide_password=False)


def _pgbench(address: str, accounts_used: int, seconds: float) -> float:
    command = [
        *(str(pgbench_path()), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}"),
        *("--jobs=2", f"--time={max(1, round(seconds))}", f"--define=accounts={accounts_used}"),
        *(f"--file={_SCRIPTS / 'pair.sql'}", address),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = _TPS.search(done.stdout)
    if found is None or " 0 (0.000%)" not in done.stdout:
        give_up(f"pgbench: {done.stdout}{done.stderr}")
    assert found is not None
    return float(found[1])
