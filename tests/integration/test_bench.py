"""`make bench` in small: every case runs, and what it writes has the documented form."""

import json
import subprocess
import sys
from pathlib import Path

from bench.report import RATIOS

ROOT = Path(__file__).resolve().parents[2]
ROW = {"name", "unit", "inFlight", "median", "lowest", "highest", "loops", "cpuOfOthers"}


def test_the_bench_measures_every_ratio_and_draws_its_picture(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke", "--results", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "latest.json").read_text())
    assert set(results) == {"machine", "rows", "ratios"}
    assert set(results["ratios"]) == {ratio.name for ratio in RATIOS}
    assert all(value > 0 for value in results["ratios"].values())
    assert all(set(row) == ROW for row in results["rows"])
    assert results["machine"]["fsync"] is True
    assert all(ratio.name in done.stdout for ratio in RATIOS)
    assert (tmp_path / "latest.svg").read_text().startswith("<svg ")
