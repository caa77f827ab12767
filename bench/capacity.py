"""How much the database grows: `python -m bench.capacity [PAIRS]`, on a PostgreSQL of its own.

Makes pairs of reserve and finalize in batches of 64, one after another, with durable commits, and
prints what one takes of each table with its indexes; then what that comes to for several loads.
"""

import math
import os
import sys
import time

from sqlalchemy import text

from bench.ledger import COST, HELD, open_book
from deploy.local.servers import running_postgres
from shared.ids import new_id
from shared.ledger.book import post
from shared.ledger.commands import Command, Finalize, Reserve
from shared.ledger.terms import TermsCache

PAIRS, BATCH, ACCOUNTS = 20_000, 64, 1_000
# Pairs a second in the peak, of which a day has a third on average.
LOADS, PEAK_TO_MEAN, DAY_SECONDS = (10, 100, 1_000, 10_000), 3, 86_400
# How busy a plan may make the cores. It takes more cores to carry more, one for one: a guess that
# holds until the commits of one account, or the disk of one database, are the limit.
FILL = 0.6
_SIZES = text(
    "SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class"
    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)


def measure(pairs: int) -> tuple[dict[str, float], float]:
    """Return the bytes of a pair by table, with indexes, and the pairs a second on this machine."""
    with running_postgres(fsync=True) as server:
        book = open_book(server.url, ACCOUNTS)
        terms = TermsCache(book.database).current()

        def sizes() -> dict[str, int]:
            with book.database.reading() as tx:
                return {row.name: row.bytes for row in tx.all(_SIZES)}

        before, began = sizes(), time.perf_counter()
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
        with book.database.transaction() as tx:
            tx.run(text("ANALYZE"))  # autovacuum has not come yet, and the check joins whole tables
        book.check()
        after = sizes()
        book.database.dispose()
    return {name: (after[name] - before[name]) / pairs for name in after}, pairs / seconds


def plan(load: int, *, bytes_a_pair: float, pairs_a_core: float) -> tuple[float, float, int]:
    """Return GB a day, TB a year, and cores (database and services) for *load* in the peak."""
    a_day = load / PEAK_TO_MEAN * DAY_SECONDS * bytes_a_pair
    return a_day / 1e9, a_day * 365 / 1e12, math.ceil(load / (pairs_a_core * FILL))


def main() -> None:
    """Print both tables."""
    found, rate = measure(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
    total, cores = sum(found.values()), os.cpu_count() or 1
    print(f"{'table':32}{'bytes a pair':>14}")
    for name, size in sorted(found.items(), key=lambda one: -one[1]):
        if size >= 1:
            print(f"{name:32}{size:14.0f}")
    print(f"{'all':32}{total:14.0f}\n\n{rate:.0f} pairs/s, {cores} cores\n")
    print(f"{'pairs/s in the peak':>20}{'GB a day':>12}{'TB a year':>12}{'cores':>8}")
    for load in LOADS:
        a_day, a_year, needed = plan(load, bytes_a_pair=total, pairs_a_core=rate / cores)
        print(f"{load:20}{a_day:12.2f}{a_year:12.2f}{needed:8}")


if __name__ == "__main__":
    main()
