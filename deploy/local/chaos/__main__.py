"""`make chaos`: break the running system for some minutes, and say what was lost (nothing).

    python -m deploy.local.chaos [--seed N] [--minutes N] [--sqlite] [--short]

The seed is printed; with it the same things are broken at the same times. CHAOS_MINUTES (5) and
SEED are the defaults. Exit status: 0 nothing lost and nothing doubled, 1 otherwise, 130 stopped.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from deploy.local.chaos.run import SHORT_SECONDS, Plan, Verdict, run
from deploy.local.demo import interrupt
from deploy.local.lock import StackError
from deploy.local.story import bold, green, red

_MOST_SHOWN = 40
_NEED_A_PROVIDER = ("payment", "top-up")
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def report(verdict: Verdict) -> None:
    """Print what was broken, what was promised, and what became of it."""
    journal = verdict.journal
    print(f"\n{bold('Broken')}")
    for what, count in verdict.broken.items():
        print(f"  {count:4} x  {what}")
    print(f"\n{bold('Answered'):30}")
    for kind, count in sorted(journal.answers.items()):
        print(f"  {count:6}  {kind:20}{journal.outages[kind]:6.1f} s the longest wait")
    print(f"  {journal.repeats:6}  more attempts were needed, for want of an answer")
    print(f"\n{'':14}{'acknowledged':>14}{'in the ledger':>15}{'lost':>7}{'doubled':>9}")
    for line in verdict.lines:
        figures = f"{line.acknowledged:14}{line.found:15}{len(line.lost):7}{len(line.doubled):9}"
        print(f"  {line.kind:12}{figures}")
    theirs = max(journal.outages.get(kind, 0.0) for kind in _NEED_A_PROVIDER)
    ours = max(t for kind, t in journal.outages.items() if kind not in _NEED_A_PROVIDER)
    print(f"\n  longest time without an answer: {ours:.1f} s")
    print(f"  and where the provider or the facilitator is needed: {theirs:.1f} s")
    print(f"  healed after {verdict.heal_seconds:.1f} s (120 s are allowed)")
    print(f"  arrakis ledger verify: {verdict.invariants}")
    for one in verdict.wrong[:_MOST_SHOWN]:
        print(f"  {red('✗')} {one}")
    if len(verdict.wrong) > _MOST_SHOWN:
        print(f"  … and {len(verdict.wrong) - _MOST_SHOWN} more")


def main() -> int:
    """Do one run and judge it."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=os.environ.get("SEED") or None)
    minutes = float(os.environ.get("CHAOS_MINUTES") or 5)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--sqlite", action="store_true", help="instead of PostgreSQL")
    parser.add_argument("--short", action="store_true", help="the run of `make test`")
    options = parser.parse_args()
    for end in _ENDS:
        signal.signal(end, _interrupt_once)
    seed = random.randrange(10_000) if options.seed is None else options.seed
    plan = Plan(
        seed=seed,
        seconds=SHORT_SECONDS if options.short else options.minutes * 60,
        is_postgres=not options.sqlite,
        is_short=options.short,
    )
    where = "SQLite" if options.sqlite else "PostgreSQL"
    print(f"Seed {seed} (again: make chaos SEED={seed}), {plan.seconds:.0f} s on {where} …")
    directory = Path(tempfile.mkdtemp(prefix="arrakis-chaos-"))
    is_good = False
    try:
        verdict = run(directory, plan, lambda text: print(f"  {text}", flush=True))
        report(verdict)
        is_good = verdict.is_good
    except StackError as error:
        print(f"\n  {red('✗')} {error}", flush=True)
    except KeyboardInterrupt:
        print("\nStopped before the end; no process is left.")
        is_good = True
        return 130
    finally:
        if is_good:
            shutil.rmtree(directory, ignore_errors=True)
    if not is_good:
        print(f"\n{red('It failed.')} Every request, and the logs: {directory}")
        return 1
    print(f"\n{green('✓')} Nothing was lost and nothing doubled.")
    return 0


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    """Stop the run in order; to stop has a time limit, so a second Ctrl-C has no say."""
    for end in _ENDS:
        signal.signal(end, signal.SIG_IGN)
    interrupt(number, frame)


if __name__ == "__main__":
    sys.exit(main())
