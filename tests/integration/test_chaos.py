"""`make chaos` in short: every kind of victim once, under load, and nothing lost or doubled."""

import random
from pathlib import Path

from deploy.local.chaos.journal import Book, Deposit, Hold, TopUp
from deploy.local.chaos.judge import Line, compare, waiting
from deploy.local.chaos.run import KINDS, SHORT_SECONDS, Plan, run
from deploy.local.chaos.victims import (
    FORKING,
    PARENTS,
    POSTGRES,
    SHORT,
    every_kind,
    schedule,
)
from tests.ledger import Ledger

FAULTS = {"provider", "facilitator"}


def test_nothing_is_lost_or_doubled_while_everything_is_broken_once(tmp_path: Path) -> None:
    """Contract 8."""
    tmp_path.chmod(0o700)
    said: list[str] = []
    plan = Plan(seed=8, seconds=SHORT_SECONDS, is_short=True, least_answers=11)
    verdict = run(tmp_path, plan, said.append)
    assert verdict.wrong == [], "\n".join(said)
    answered = verdict.journal.answers
    assert all(answered[kind] > 10 for kind in KINDS), answered
    assert all(line.acknowledged > 0 for line in verdict.lines), verdict.lines
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


def test_the_judge_misses_what_was_promised_and_is_not_in_the_ledger(ledger: Ledger) -> None:
    book = Book(
        holds={
            "left": Hold("a", 5),
            "settled": Hold("a", 5, "finalized", 3),
            "released": Hold("a", 5, "released"),
        },
        grants={"lot": 5},
        deposits={"1": Deposit("a", "happy", 5), "2": Deposit("a", "happy", 5, "admin")},
        top_ups={"b": TopUp(5, "0xAB", "202"), "c": TopUp(5, "0xCD", "503")},
        notices={("1", "finished")},
    )
    with ledger.database.reading() as tx:
        lines = {one.kind: one for one in compare(tx, book, [{"nonce": "0xab", "status": "mined"}])}
    assert {kind: len(one.lost) for kind, one in lines.items()} == {
        "reserves": 3,
        "finalizes": 1,
        "releases": 1,
        "mints": 1,
        "notices": 1,
        "payments": 2,
        "refunds": 0,  # of what was never credited there is nothing to take back
        "x402 top-ups": 1,  # of the other one nothing moved on the chain
    }
    assert not any(one.doubled for one in lines.values())


def test_the_judge_sees_what_nobody_was_told_of_and_what_differs(ledger: Ledger) -> None:
    account = ledger.account()
    lot = ledger.mint(account, 100)
    ledger.mint(account, 50, "deposit")
    told = ledger.reserve(account, 10, idempotency_key="told")
    untold = ledger.reserve(account, 20, idempotency_key="untold")
    ledger.finalize(told, 4)
    book = Book(holds={told: Hold(account, 9, "finalized", 3)}, grants={lot: 99})
    with ledger.database.reading() as tx:
        lines = {one.kind: one for one in compare(tx, book, [])}
        assert waiting(tx) == {"holds still pending": 1, "charges not rolled up": 1}
    words = "9 was acknowledged, 10 is in the ledger"
    assert lines["reserves"].doubled == [
        f"{untold}: nobody was told of it",
        f"{told} held: {words}",
    ]
    assert lines["finalizes"].doubled == [f"{told} charged: 3 was acknowledged, 4 is in the ledger"]
    assert len(lines["mints"].doubled) == 1
    assert lines["payments"].doubled == [
        "lots without a payment: 0 was acknowledged, 1 is in the ledger"
    ]
    assert not any(one.lost for one in lines.values())
