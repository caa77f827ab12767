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
    """One thing to measure. ``measure`` does it once and returns what it found, by name of row.

    ``check`` looks at the invariants after each loop: a figure from a run that broke one is none.
    """

    measure: Callable[[], dict[str, float]]
    check: Callable[[], None] = lambda: None
    unit: str = "pairs/s"
    in_flight: int = 1


@dataclass(frozen=True)
class Part:
    """What one part of the bench brings: cases, and processes whose memory is watched, by name."""

    cases: list[Case]
    processes: dict[str, int] = field(default_factory=dict)


@dataclass
class Series:
    """What the loops of a row found, in one unit."""

    unit: str
    in_flight: int
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
            "unit": self.unit,
            "inFlight": self.in_flight,
            "median": self.median,
            "lowest": min(self.values),
            "highest": max(self.values),
            "loops": len(self.values),
            "cpuOfOthers": round(statistics.median(self.others), 3),
        }


Found = dict[str, Series]
_UNITS = {"_ms": "ms", "_us": "us", "_mb": "MB"}


def run(parts: list[Part], loops: int) -> Found:
    """Run every case once a loop, in shuffled order, telling each as it is done."""
    cases = [case for part in parts for case in part.cases]
    processes = {name: pid for part in parts for name, pid in part.processes.items()}
    found: Found = {}
    _weigh(found, processes, "start")
    for loop in range(1, loops + 1):
        for case in random.sample(cases, len(cases)):
            rows = measure(found, case)
            told = "  ".join(f"{name} {value:,.1f}" for name, value in rows.items())
            print(f"  loop {loop}/{loops}  {told}", flush=True)
        for check in dict.fromkeys(case.check for case in cases):
            check()
        if loop == 1:
            _weigh(found, processes, "first_loop")
    _weigh(found, processes, "end")
    return found


def measure(found: Found, case: Case) -> dict[str, float]:
    """Run *case* once, add what it says to *found*, and return that."""
    with _watched() as others:
        rows = case.measure()
    for name, value in rows.items():
        unit = _UNITS.get(name[-3:], case.unit)
        series = found.setdefault(name, Series(unit, case.in_flight))
        series.values.append(value)
        series.others.append(others[0])
    return rows


def _weigh(found: Found, processes: dict[str, int], when: str) -> None:
    """Add the resident memory of *processes*, each with its children."""
    for name, pid in processes.items():
        parent = psutil.Process(pid)
        members = [parent, *parent.children(recursive=True)]
        megabytes = sum(member.memory_info().rss for member in members) / 1024**2
        found[f"{name}_{when}_mb"] = Series("MB", 0, [megabytes], [0.0])


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
