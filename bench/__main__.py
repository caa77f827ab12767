"""`make bench`: pairs of reserve and finalize per second, on both databases, as ratios in one run.

Shuffled loops, medians with their range, every loop followed by a check of all invariants.
Writes bench/results/latest.json.
"""

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from deploy.local.servers import running_postgres
from shared import schema
from shared.database import Database
from shared.ids import new_id
from shared.ledger import accounts, integrity
from shared.ledger.commands import Finalize, Mint, Reserve
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache

LOOPS, LOOP_SECONDS, CALLERS, ACCOUNTS = 5, 2.0, 64, 1_000
RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass
class Bench:
    """A ledger in live mode with funded accounts."""

    database: Database
    executor: Executor
    accounts: list[str]

    def id(self) -> str:
        """Return a new id."""
        return new_id(self.database.clock())

    def pair(self, account: str) -> None:
        """Hold 10 micro-USD and settle 7."""
        held = self.executor.execute(Reserve(account, self.id(), 10)).unwrap()
        self.executor.execute(Finalize(held["reservationId"], 7)).unwrap()

    def loop(self, callers: int, among: Sequence[str]) -> float:
        """Return pairs per second of *callers* threads, each pair on one account of *among*."""
        stop, counts = time.perf_counter() + LOOP_SECONDS, [0] * callers

        def call(place: int) -> None:
            while time.perf_counter() < stop:
                self.pair(random.choice(among))
                counts[place] += 1

        began = time.perf_counter()
        threads = [threading.Thread(target=call, args=(n,)) for n in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - began)


def open_bench(url: str) -> Bench:
    """Migrate the database at *url*, switch it to live mode, and fund its accounts."""
    database = Database(url)
    schema.upgrade(database)
    with database.transaction() as tx:
        tx.run(text("UPDATE billing_config SET value = 'live' WHERE key = 'billing_mode'"))
        made = [
            accounts.create_account(tx, entity_type="person", entity_id=str(n))[0]
            for n in range(ACCOUNTS)
        ]
    bench = Bench(database, Executor(database, TermsCache(database)), made)
    for start in range(0, ACCOUNTS, 250):
        part = made[start : start + 250]
        mints = [Mint(a, bench.id(), 10_000_000_000, "deposit", bench.id()) for a in part]
        for outcome in bench.executor.execute_all(mints):
            outcome.unwrap()
    return bench


def measure(benches: dict[str, Bench]) -> dict[str, list[float]]:
    """Run every case LOOPS times in shuffled order; return pairs per second by case."""
    cases = {
        f"{kind}_{name}": (bench, callers, is_hot)
        for kind, bench in benches.items()
        for name, callers, is_hot in (
            ("single", 1, True),
            ("hot", CALLERS, True),
            ("spread", CALLERS, False),
        )
    }
    order = list(cases) * LOOPS
    random.shuffle(order)
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number, name in enumerate(order, start=1):
        bench, callers, is_hot = cases[name]
        rate = bench.loop(callers, bench.accounts[:1] if is_hot else bench.accounts)
        with bench.database.reading() as tx:
            breaches = integrity.verify(tx)
        if breaches:
            sys.exit(f"{name}: not a figure, an invariant is broken: {breaches[0]}")
        found[name].append(rate)
        print(f"  {number:>2}/{len(order)} {name:<18} {rate:8.0f} pairs/s", flush=True)
    return found


def main() -> None:
    """Measure, print a table, write the results."""
    with (
        tempfile.TemporaryDirectory(prefix="arrakis-bench-") as directory,
        running_postgres(fsync=True) as server,
    ):
        sqlite = f"sqlite:///{Path(directory) / 'bench.db'}"
        benches = {"sqlite": open_bench(sqlite), "pg": open_bench(server.url)}
        print(f"{LOOPS} shuffled loops of {LOOP_SECONDS:.0f} s a case; {CALLERS} callers:")
        found = measure(benches)
        with benches["pg"].database.reading() as tx:
            version = tx.scalar(text("SHOW server_version"))
        for bench in benches.values():
            bench.database.dispose()
    median = {name: statistics.median(rates) for name, rates in found.items()}
    ratios = {
        "sqlite_batched_vs_single": median["sqlite_hot"] / median["sqlite_single"],
        "hot_vs_spread": median["pg_hot"] / median["pg_spread"],
        "pg_batched_vs_single": median["pg_hot"] / median["pg_single"],
    }
    rows: list[dict[str, Any]] = [
        {"name": n, "median": median[n], "lowest": min(rates), "highest": max(rates)}
        for n, rates in found.items()
    ]
    print(f"\n{'case':<18}{'median':>8}{'lowest':>8}{'highest':>9}  pairs/s, fsync on")
    for row in rows:
        print(f"{row['name']:<18}{row['median']:>8.0f}{row['lowest']:>8.0f}{row['highest']:>9.0f}")
    for name, ratio in ratios.items():
        print(f"{name:<26}{ratio:.2f}")
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "postgres": version}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows, "ratios": ratios}, indent=1))
    print(f"Written to {RESULTS.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
