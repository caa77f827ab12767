"""Cases measured in shuffled loops, with medians, ranges, and the share of CPU used by others."""

import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True)
class Case:
    """One thing to measure. ``loop`` runs it once and returns what it found, by name of row.

    ``check`` looks at the invariants after each loop: a figure from a run that broke one is none.
    """

    name: str
    loop: Callable[[], dict[str, float]]
    check: Callable[[], None] = lambda: None


@dataclass
class Series:
    """What the loops of a row found, in one unit."""

    values: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle of what was found."""
        return statistics.median(self.values)

    def row(self, name: str) -> dict[str, object]:
        """Return the row of the results' file."""
        return {
            "name": name,
            "median": self.median,
            "lowest": min(self.values),
            "highest": max(self.values),
            "loops": len(self.values),
            "cpuOfOthers": round(statistics.median(self.others), 3),
        }


def run(cases: list[Case], loops: int) -> dict[str, Series]:
    """Run every case *loops* times in shuffled order, telling each as it is done."""
    order = cases * loops
    random.shuffle(order)
    found: dict[str, Series] = {}
    for number, case in enumerate(order, start=1):
        with _watched() as others:
            rows = case.loop()
        case.check()
        for name, value in rows.items():
            series = found.setdefault(name, Series())
            series.values.append(value)
            series.others.append(others[0])
        told = "  ".join(f"{name} {value:,.1f}" for name, value in rows.items())
        print(f"  {number:>3}/{len(order)}  {told}", flush=True)
    return found


def give_up(message: str) -> None:
    """End the run: what was measured is no figure."""
    sys.exit(f"Not a figure: {message}")


@contextmanager
def _watched() -> Iterator[list[float]]:
    """Yield a list that holds, afterwards, the share of all CPU that others used meanwhile."""
    found = [0.0]
    began, busy, ours = time.perf_counter(), _busy_seconds(), _our_seconds()
    yield found
    passed = (time.perf_counter() - began) * (os.cpu_count() or 1)
    used = (_busy_seconds() - busy) - (_our_seconds() - ours)
    found[0] = max(0.0, used / passed)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _our_seconds() -> float:
    """Return the CPU time of this process, its children that live, and those that have ended."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
