"""Other processes that use the same ledger: each waits for the start, works, and reports as JSON.

Run as ``python -m tests.ledger_processes TASK URL ARGUMENTS``; the tests call :func:`race`.
"""

import json
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from shared.campaigns import working
from shared.campaigns.lists import GrantList, Wish
from shared.clock import system_clock
from shared.database import Database
from shared.errors import ArrakisError
from shared.ids import new_id
from shared.ledger import sweeps
from shared.ledger.commands import Command, Finalize, Mint, Release, Reserve
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from shared.operations.audit import Actor

ROOT = Path(__file__).resolve().parent.parent
HOLD_MICRO, COST_MICRO = 100, 60
RACER = Actor("admin", "racer")


def make_id() -> str:
    """Return a new id of now. (The tests' own is in a module that is slow to import.)"""
    return new_id(system_clock())


class Caller:
    """A process's executor; what goes wrong is an outcome too."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.terms = TermsCache(self.database)
        self.executor = Executor(self.database, self.terms)
        self.terms.current()  # so that the first command does not pay for the connection

    def try_one(self, command: Command) -> str:
        """Carry out *command*; return ``ok``, the code of its refusal, or the fault's name."""
        try:
            error = self.executor.execute(command).error
        except ArrakisError as fault:
            return f"fault {fault.code}"
        except Exception as fault:  # noqa: BLE001  reported, and the test refuses it
            return f"fault {type(fault).__name__}: {fault}"
        return error.code if error else "ok"


def cycles(caller: Caller, account: str, count: str) -> Counter[str]:
    """Reserve and finalize *count* times."""
    seen: Counter[str] = Counter()
    for _ in range(int(count)):
        hold = make_id()
        seen[caller.try_one(Reserve(account, hold, HOLD_MICRO))] += 1
        seen[caller.try_one(Finalize(hold, COST_MICRO))] += 1
    return seen


def mints(caller: Caller, own: str, shared: str, count: str) -> list[dict[str, str]]:
    """Mint from *count* sources that others mint from too, to an account of its own and another."""
    return [
        {
            source: caller.try_one(Mint(account, make_id(), 5, "deposit", source))
            for source in (f"{name}-{number}" for number in range(int(count)))
        }
        for account, name in ((own, "to-two"), (shared, "to-one"))
    ]


def finalizes(caller: Caller, *holds: str) -> dict[str, Any]:
    """Settle *holds*; say of each what became of it, and whether it was late."""
    told: dict[str, Any] = {}
    for hold in holds:
        outcome = caller.executor.execute(Finalize(hold, COST_MICRO))
        told[hold] = outcome.error.code if outcome.error else outcome.unwrap()["late"]
    return told


def releases(caller: Caller, *holds: str) -> dict[str, str]:
    """Give *holds* back."""
    return {hold: caller.try_one(Release(hold)) for hold in holds}


def sweeping(caller: Caller, count: str) -> int:
    """Sweep holds *count* times by a clock that runs an hour fast."""
    caller.database.clock = lambda: system_clock() + timedelta(hours=1)
    return sum(sweeps.expire_holds(caller.database, caller.terms) for _ in range(int(count)))


def rolling_up(caller: Caller, count: str) -> int:
    """Roll up revenue *count* times."""
    return sum(sweeps.roll_up_revenue(caller.database) for _ in range(int(count)))


def granting(caller: Caller, campaign: str, amount: str, *accounts: str) -> Counter[str]:
    """Grant *amount* from *campaign* to each of *accounts*, one batch after the other."""
    seen: Counter[str] = Counter()
    for account in accounts:
        wanted = GrantList([Wish(account, int(amount))])
        try:
            outcome = working.grant_now(caller.database, caller.terms, RACER, campaign, wanted)
        except ArrakisError as fault:
            seen[f"fault {fault.code}"] += 1
        else:
            seen[outcome.error.code if outcome.error else "ok"] += 1
    return seen


def listing(caller: Caller, campaign: str, amount: str, *accounts: str) -> list[Any]:
    """Leave a list of *accounts* for the workers, and work it off beside others who do."""
    wanted = GrantList([Wish(account, int(amount)) for account in accounts])
    outcome = working.enlist(caller.database, RACER, campaign, wanted)
    done = 0
    while chunk := working.work_off(caller.database, caller.terms):
        done += chunk
    return [outcome.error.code if outcome.error else "ok", done]


TASKS = {
    task.__name__: task
    for task in (cycles, mints, finalizes, releases, sweeping, rolling_up, granting, listing)
}


def race(url: str, *tasks: tuple[str, ...]) -> list[Any]:
    """Run each task in a process of its own, all from the same start; return their reports."""
    command = [sys.executable, "-m", "tests.ledger_processes"]
    children = [
        subprocess.Popen(
            [*command, task, url, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for task, *arguments in tasks
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        reports = [child.communicate(timeout=60)[0] for child in children]
        assert [child.returncode for child in children] == [0] * len(children)
        return [json.loads(report.splitlines()[-1]) for report in reports]  # after any log lines
    finally:
        for child in children:
            child.kill()
            child.wait()


def main() -> None:
    """Carry out the task of the command line."""
    task, url, *arguments = sys.argv[1:]
    caller = Caller(url)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    json.dump(TASKS[task](caller, *arguments), sys.stdout)
    caller.database.dispose()


if __name__ == "__main__":
    main()
