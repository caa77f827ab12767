"""Memory under a steady load: does a process of ours grow without end?

``python -m bench.soak [--minutes N] [--rate R] [--notices R]`` starts the system on PostgreSQL,
sends R requests and notices a second, and weighs each process every 15 seconds. A sixth of the time
is for warming up: caches and pools fill. After it a process may grow by 12 MB, or the exit status
is 1. docs/performance.md says how to read the table.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import text

from bench.steady import REFUSALS, Caller, keep_on, paying, prepare, spending
from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_ports
from deploy.local.stack import Stack
from shared.database import Database
from shared.ledger import integrity

GROWTH_MAX_MB = 12.0
WARM_UP_SHARE = 1 / 6
_SAMPLE_SECONDS = 15.0
_FAILED_SHARE_MAX = 0.001
_SPENDERS = 4
# PostgreSQL's memory is shared between its processes; the simulator keeps all that it was told.
_NOT_WEIGHED = {"postgres", "simulator"}
_NOT_JUDGED = {"redis", "flower"}  # no code of ours; their limits are settings


@dataclass
class Weights:
    """The resident memory of each process by the seconds at which it was looked at."""

    stack: Stack
    began: float = field(default_factory=time.monotonic)
    found: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    cpu: Counter[str] = field(default_factory=Counter)
    pids: dict[str, int] = field(default_factory=dict)
    _used: dict[int, float] = field(default_factory=dict)

    def take(self) -> None:
        """Weigh every process with its children. Ends the run if one was started again."""
        now = time.monotonic() - self.began
        for name, pid in self.stack.pids().items():
            if self.pids.setdefault(name, pid) != pid:
                sys.exit(f"{name} ended and was started again:\n{self.stack.log_tail(name)}")
            parent = psutil.Process(pid)
            members = [parent, *parent.children(recursive=True)]
            is_first = pid not in self._used  # what its start took is no load's
            for member in members:
                times = member.cpu_times()
                used = times.user + times.system
                self.cpu[name] += 0.0 if is_first else used - self._used.get(member.pid, 0.0)
                self._used[member.pid] = used
            if name not in _NOT_WEIGHED:
                megabytes = sum(member.memory_info().rss for member in members) / 1024**2
                self.found.setdefault(name, []).append((now, megabytes))

    def at(self, name: str, seconds: float) -> float:
        """Return what *name* weighed about then: the middle of three looks."""
        near = sorted(self.found[name], key=lambda one: abs(one[0] - seconds))[:3]
        return statistics.median(megabytes for _, megabytes in near)

    def growth(self, name: str, seconds: float) -> tuple[float, float]:
        """Return the growth after the warm-up of a run of *seconds*, and its slope an hour."""
        settled = [one for one in self.found[name] if one[0] >= seconds * WARM_UP_SHARE]
        times, weights = zip(*settled, strict=True)
        slope = statistics.linear_regression(times, weights).slope
        begin, end = self.at(name, seconds * WARM_UP_SHARE), self.at(name, seconds)
        return end - begin, slope * 3600


def report(weights: Weights, answers: Counter[int], seconds: float) -> list[str]:
    """Print the table; return what is wrong."""
    tenths = [seconds * tenth / 10 for tenth in range(1, 10)]
    times = sorted({0.0, *tenths, *([300.0] if seconds > 300 else []), seconds})
    heads = "".join(f"{time_ / 60:7.1f}" for time_ in times)
    print(f"\nMB after minutes  {heads}   growth  MB an hour   CPU %")
    wrong = []
    for name in sorted(weights.found):
        shown = "".join(f"{weights.at(name, time_):7.1f}" for time_ in times)
        growth, slope = weights.growth(name, seconds)
        cpu = 100 * weights.cpu[name] / seconds
        print(f"{name:<18}{shown} {growth:8.1f} {slope:11.1f} {cpu:7.1f}")
        if growth > GROWTH_MAX_MB and name not in _NOT_JUDGED:
            wrong.append(f"{name} grew by {growth:.1f} MB after the warm-up.")
    others = {name: weights.cpu[name] for name in _NOT_WEIGHED} | {"load": time.process_time()}
    shares = ", ".join(f"{name} {100 * used / seconds:.1f}" for name, used in others.items())
    total = answers.total()
    print(f"CPU % of others: {shares}; answers: {dict(answers)}, {total / seconds:.1f} a second")
    failed = sum(count for status, count in answers.items() if status >= REFUSALS)
    if failed > total * _FAILED_SHARE_MAX:
        wrong.append(f"{failed} of {total} requests were refused: the load was not carried.")
    return wrong


def soak(directory: Path, seconds: float, *, rate: float, notices: float) -> list[str]:
    """Start the system in *directory*, load it for *seconds*, weigh it; return what is wrong."""
    ports = dict(zip(("api", "webhooks", "flower", "simulator"), free_ports(4), strict=True))
    stack = arrakis_stack(
        directory,
        **{f"{name}_port": port for name, port in ports.items()},
        with_postgres=True,
        env={},
    )
    database = Database(stack.env["DATABASE_URL"])
    stopping = threading.Event()
    with stack:
        callers = [Caller(f"soak-{number}", stack, ports) for number in range(_SPENDERS + 1)]
        prepare(callers[0], database)
        loads = [(spending(one), rate / _SPENDERS) for one in callers[1:]]
        loads.append((paying(callers[0]), notices))
        threads = [
            threading.Thread(target=keep_on, args=(acts, pace, stopping), daemon=True)
            for acts, pace in loads
        ]
        weights = Weights(stack)
        for thread in threads:
            thread.start()
        while time.monotonic() < weights.began + seconds and all(t.is_alive() for t in threads):
            weights.take()
            print(".", end="", flush=True)
            time.sleep(_SAMPLE_SECONDS)
        is_loaded = all(thread.is_alive() for thread in threads)
        stopping.set()
        for thread in threads:
            thread.join()
        weights.take()
        wrong = report(weights, sum((one.answers for one in callers), Counter[int]()), seconds)
        with database.reading() as tx:
            wrong += [str(breach) for breach in integrity.verify(tx)]
            wrong += [f"{tx.scalar(_OPEN)} notices wait"] if tx.scalar(_OPEN) else []
        database.dispose()
    return wrong if is_loaded else [*wrong, "A thread of the load ended."]


def main() -> None:
    """Run, print the table, and say what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument("--notices", type=float, default=5.0, help="notices a second")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="arrakis-soak-") as directory:
        seconds = 60 * chosen.minutes
        wrong = soak(Path(directory), seconds, rate=chosen.rate, notices=chosen.notices)
    for one in wrong:
        print(one)
    sys.exit(1 if wrong else 0)


_OPEN = text("SELECT COUNT(*) FROM webhook_events WHERE state <> 'done'")

if __name__ == "__main__":
    main()
