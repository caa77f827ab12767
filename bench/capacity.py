"""How much the database grows: `python -m bench.capacity [PAIRS]`, on a PostgreSQL of its own.

Makes pairs of reserve and finalize in batches of 64, one after another, with durable commits, and
payments with their notices. Prints what one takes of each table with its indexes; then what the
pairs come to for several loads.
"""

import math
import os
import sys
import time

from sqlalchemy import text

from bench.capacity_payments import STATUSES, carry_out
from bench.ledger import COST, HELD, Book, open_book
from deploy.local.servers import running_postgres
from shared.ids import new_id
from shared.ledger.book import post
from shared.ledger.commands import Command, Finalize, Reserve
from shared.ledger.terms import TermsCache
from shared.observability import configure_logging

PAIRS, BATCH, ACCOUNTS = 20_000, 64, 1_000
PAIRS_A_PAYMENT = 10  # of the run; enough of both for the sizes to be steady
# Pairs a second in the peak, of which a day has a third on average.
LOADS, PEAK_TO_MEAN, DAY_SECONDS = (10, 100, 1_000, 10_000), 3, 86_400
# How busy a plan may make the cores. It takes more cores to carry more, one for one: a guess that
# holds until the commits of one account, or the disk of one database, are the limit.
FILL = 0.6
_NOTICES = "webhook_events"
_SIZES = text(
    "SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)


def measure(pairs: int) -> tuple[dict[str, float], float]:
    """Return the bytes of a pair by table, with indexes, and the pairs a second on this machine."""
    with running_postgres(fsync=True) as server:
        book = open_book(server.url, ACCOUNTS)
        terms = TermsCache(book.database).current()
        before, began = _sizes(book), time.perf_counter()
        for start in range(0, pairs, BATCH):
            with book.database.transaction() as tx:
                numbers = range(start, min(start + BATCH, pairs))
                holds = [
                    Reserve(book.accounts[n % ACCOUNTS], id_, HELD, idempotency_key=id_)
                    for n in numbers
                    for id_ in [new_id(tx.now)]
                ]
                ends: list[Command] = [Finalize(hold.reservation_id, COST) for hold in holds]
                for outcome in [*post(tx, holds, terms), *post(tx, ends, terms)]:
                    outcome.unwrap()
        seconds = time.perf_counter() - began
        found = _growth(book, before, pairs)
        book.database.dispose()
        return found, pairs / seconds


def measure_payments(payments: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the bytes of a payment by table, with indexes and notices; then without dead rows."""
    with running_postgres(fsync=False) as server:
        book = open_book(server.url, ACCOUNTS)
        _rewrite(book)
        before = _sizes(book)
        carry_out(book, payments)
        written = _growth(book, before, payments)
        _rewrite(book)
        kept = _growth(book, before, payments)
        book.database.dispose()
        return written, kept


def _rewrite(book: Book) -> None:
    with book.database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM FULL"))


def _sizes(book: Book) -> dict[str, int]:
    with book.database.reading() as tx:
        return {row.name: row.bytes for row in tx.all(_SIZES)}


def _growth(book: Book, before: dict[str, int], count: int) -> dict[str, float]:
    """Check *book*, and return by how much it grew for each of *count*."""
    with book.database.transaction() as tx:
        tx.run(text("ANALYZE"))  # autovacuum has not come yet, and the check joins whole tables
    book.check()
    after = _sizes(book)
    return {name: (after[name] - before[name]) / count for name in after}


def plan(load: int, *, bytes_a_pair: float, pairs_a_core: float) -> tuple[float, float, int]:
    """Return GB a day, TB a year, and cores (database and services) for *load* in the peak."""
    a_day = load / PEAK_TO_MEAN * DAY_SECONDS * bytes_a_pair
    return a_day / 1e9, a_day * 365 / 1e12, math.ceil(load / (pairs_a_core * FILL))


def main() -> None:
    """Print the tables."""
    configure_logging("bench", "ERROR")
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    found, rate = measure(pairs)
    _show({"bytes a pair": found})
    written, kept = measure_payments(max(1, pairs // PAIRS_A_PAYMENT))
    notices = [each.pop(_NOTICES) / len(STATUSES) for each in (written, kept)]
    _show({"bytes a payment": written, "no dead rows": kept})
    print(f"{_NOTICES}: {notices[0]:.0f} bytes a notice, {notices[1]:.0f} without dead rows")
    print(f"{len(STATUSES)} notices a payment\n")
    total, cores = sum(found.values()), os.cpu_count() or 1
    print(f"{rate:.0f} pairs/s, {cores} cores\n")
    print(f"{'pairs/s in the peak':>20}{'GB a day':>12}{'TB a year':>12}{'cores':>8}")
    for load in LOADS:
        a_day, a_year, needed = plan(load, bytes_a_pair=total, pairs_a_core=rate / cores)
        print(f"{load:20}{a_day:12.2f}{a_year:12.2f}{needed:8}")


def _show(columns: dict[str, dict[str, float]]) -> None:
    first = next(iter(columns.values()))
    print(f"{'table':32}" + "".join(f"{heading:>18}" for heading in columns))
    for name in sorted(first, key=lambda name: -first[name]):
        if first[name] >= 1:
            print(f"{name:32}" + "".join(f"{one[name]:18.0f}" for one in columns.values()))
    print(f"{'all':32}" + "".join(f"{sum(one.values()):18.0f}" for one in columns.values()) + "\n")


if __name__ == "__main__":
    main()
