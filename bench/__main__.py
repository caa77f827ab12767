"""`make bench`: everything that has a target, measured side by side in one run.

Shuffled loops on servers of its own; docs/performance.md says how to read what it prints.
"""

import argparse
import dataclasses
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from sqlalchemy import text

from bench import deposits, growth, ledger, measuring, picture, report
from bench.fronts import fronts
from bench.measuring import Found
from deploy.local.servers import running_postgres, running_redis

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    loops: int
    seconds: float  # of each case in each loop
    accounts: int
    deposits: int  # a loop
    tasks: int  # that do nothing, a loop
    entries: int  # of the long history
    lots: int


FULL = Plan(5, 2.0, 2_000, 1_500, 1_000, 1_000_000, 10_000)
QUICK = Plan(1, 1.0, 500, 500, 500, 100_000, 1_000)
SMOKE = Plan(1, 0.2, 20, 20, 20, 2_000, 20)


def measure(plan: Plan, directory: Path) -> tuple[Found, str, str]:
    """Measure all cases with files in *directory*; return what was found and servers' versions."""
    with ExitStack() as stack:
        enter = stack.enter_context
        postgres, redis = enter(running_postgres(fsync=True)), enter(running_redis())
        print("Preparing the ledgers ...", flush=True)
        book = ledger.open_book(postgres.url, plan.accounts)
        copies = {name: book.clone(name) for name in ("http", "deposits", "growth")}
        on_file = ledger.open_book(f"sqlite:///{directory / 'bench.db'}", 2)
        books = [book, on_file, *copies.values()]
        for one in books:
            stack.callback(one.database.dispose)
        served = enter(fronts(copies["http"], redis.url, directory, plan.seconds))
        parts = [
            enter(ledger.on_postgres(book, plan.seconds)),
            enter(ledger.on_sqlite(on_file, plan.seconds)),
            enter(
                growth.cases(
                    copies["growth"], entries=plan.entries, lots=plan.lots, seconds=plan.seconds
                )
            ),
            enter(
                deposits.cases(
                    copies["deposits"].url,
                    book.accounts,
                    redis.url,
                    directory / "celery.log",
                    deposits=plan.deposits,
                    tasks=plan.tasks,
                )
            ),
            served.part(),
        ]
        found = measuring.run(parts, plan.loops)
        print("The API at steady rates ...", flush=True)
        served.at_rates(found)
        copies["http"].check()
        with book.database.reading() as tx:
            postgres_version = str(tx.scalar(text("SHOW server_version")))
        with Redis.from_url(redis.url) as client:
            server = client.info("server")
        name = "valkey" if "valkey_version" in server else "redis"
        return found, postgres_version, f"{name} {server[f'{name}_version']}"


def main() -> None:
    """Measure, print the tables, and write the results and their picture."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="plan", const=QUICK)
    size.add_argument("--smoke", action="store_const", dest="plan", const=SMOKE)
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    parser.set_defaults(plan=FULL)
    chosen = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="arrakis-bench-") as directory:
        found, postgres, redis = measure(chosen.plan, Path(directory))
    about = report.machine(found, postgres, redis, dataclasses.asdict(chosen.plan))
    report.show(found, about)
    report.write(found, about, chosen.results / "latest.json")
    picture.draw(found, chosen.results / "latest.svg")
    print(f"{time.perf_counter() - began:.0f} s; written to {chosen.results}/latest.json and .svg")


if __name__ == "__main__":
    main()
