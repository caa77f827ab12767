"""What a run found: the ratios and their targets, the table, and the file of results."""

import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measuring import Found


@dataclass(frozen=True)
class Ratio:
    """One row's median divided by another's, with its target: at least, or at most (``_max``)."""

    name: str
    row: str
    by: str
    target: float

    @property
    def is_max(self) -> bool:
        """True if the target is an upper bound."""
        return self.name.endswith("_max")

    def of(self, found: Found) -> float:
        """Return the ratio."""
        return found[self.row].median / found[self.by].median

    def is_reached(self, value: float) -> bool:
        """Say whether *value* is as good as the target."""
        return value <= self.target if self.is_max else value >= self.target


RATIOS = (
    Ratio("pg_spread_vs_pgbench", "pg_spread", "pgbench_spread", 2.0),
    Ratio("pg_hot_vs_pgbench", "pg_hot", "pgbench_hot", 3.0),
    Ratio("pg_single_vs_pgbench", "pg_single", "pgbench_spread", 0.4),
    Ratio("hot_vs_spread", "pg_hot", "pg_spread", 0.85),
    Ratio("sqlite_single_vs_core", "sqlite_single", "sqlite_core", 1.3),
    Ratio("sqlite_batched_vs_single", "sqlite_batched", "sqlite_single", 4.0),
    Ratio("http_vs_bare", "http", "http_bare", 0.5),
    Ratio("http_p99_ms_vs_bare_max", "http_p99_ms", "http_bare_p99_ms", 4.0),
    Ratio("webhook_vs_bare", "webhook", "webhook_bare", 0.5),
    Ratio("deposits_vs_noop", "deposits", "noop_tasks", 3.0),
    Ratio("growth_entries_max", "pair_long_history_us", "pair_short_history_us", 1.15),
    Ratio("balance_read_growth_max", "balance_long_history_us", "balance_short_history_us", 1.1),
)


def machine(found: Found, postgres: str, redis: str, run: dict[str, Any]) -> dict[str, Any]:
    """Describe where and how *found* was measured."""
    shares = [share for series in found.values() for share in series.others]
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "postgres": postgres,
        "redis": redis,
        "fsync": True,
        "cpuOfOthers": round(statistics.median(shares), 3),
        "run": run,
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def show(found: Found, about: dict[str, Any]) -> None:
    """Print the table of rows and that of ratios."""
    print(f"\n{'row':<32}{'median':>12}{'lowest':>12}{'highest':>12}  {'unit':<12}{'in flight':>9}")
    for name, series in found.items():
        figures = (series.median, min(series.values), max(series.values))
        shown = "".join(f"{value:>12,.1f}" for value in figures)
        in_flight = str(series.in_flight) if series.in_flight else "-"
        print(f"{name:<32}{shown}  {series.unit:<12}{in_flight:>9}")
    print(f"\n{'ratio':<32}{'found':>12}{'target':>12}")
    for ratio in RATIOS:
        value = ratio.of(found)
        target = f"{'<=' if ratio.is_max else '>='} {ratio.target:g}"
        verdict = "reached" if ratio.is_reached(value) else "missed"
        print(f"{ratio.name:<32}{value:>12.2f}{target:>12}  {verdict}")
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items() if name != "run"))
    print(", ".join(f"{name} {value}" for name, value in about["run"].items()))


def write(found: Found, about: dict[str, Any], path: Path) -> None:
    """Write the results to *path*."""
    results = {
        "machine": about,
        "rows": [series.row(name) for name, series in found.items()],
        "ratios": {ratio.name: ratio.of(found) for ratio in RATIOS},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
