"""`make chaos` in short: every kind of victim once, under load, and nothing lost or doubled."""

import random
from pathlib import Path

from deploy.local.chaos.judge import Line
from deploy.local.chaos.run import SHORT_SECONDS, Plan, run
from deploy.local.chaos.victims import (
    FORKING,
    PARENTS,
    POSTGRES,
    SHORT,
    every_kind,
    schedule,
)

FAULTS = {"provider", "facilitator"}


def test_nothing_is_lost_or_doubled_while_everything_is_broken_once(tmp_path: Path) -> None:
    """Contract 8."""
    tmp_path.chmod(0o700)
    said: list[str] = []
    plan = Plan(seed=8, seconds=SHORT_SECONDS, is_short=True)
    verdict = run(tmp_path, plan, said.append)
    assert verdict.wrong == [], "\n".join(said)
    answered = verdict.journal.answers
    assert all(answered[kind] > 10 for kind in ("reserve", "finalize", "payment", "mint", "batch"))
    assert all(line.acknowledged > 0 for line in verdict.lines)
    kinds = every_kind(SHORT, random.Random(0), is_postgres=True)
    wanted = {f"{kind.act} {kind.target}" for kind in kinds if kind.act not in FAULTS} | FAULTS
    assert wanted <= verdict.broken.keys(), "\n".join(said)


def test_a_seed_alone_decides_what_is_broken_and_when() -> None:
    first, again, other = (schedule(seed, 300, SHORT, is_postgres=True) for seed in (7, 7, 8))
    assert first == again != other
    struck = {f"{strike.act} {strike.target}" for strike in first[:25]}
    assert struck >= {f"kill {name}" for name in PARENTS}
    assert struck >= {f"kill child of {name}" for name in FORKING}
    assert struck >= {f"{act} postgres" for act in POSTGRES}
    assert struck >= {"empty redis", "stop redis", "start redis", "freeze worker-payments"}


def test_what_is_missing_is_lost_and_what_nobody_was_told_of_is_doubled() -> None:
    line = Line("reserves")
    line.compare_sets({"a", "b"}, {"b", "c"})
    assert (line.acknowledged, line.found) == (2, 1)
    assert line.lost == ["a: not in the ledger"]
    assert line.doubled == ["c: nobody was told of it"]
    line.compare("d", 5, 4)
    line.compare("e", 5, 10)
    line.compare("f", 5, 5)
    assert (len(line.lost), len(line.doubled)) == (2, 2)
