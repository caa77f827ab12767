"""``arrakis status``: is everything that should be done being done?"""

import sys
from typing import Any

import click

from shared.cli.desk import Host, on_host
from shared.cli.output import as_json, table, tell
from shared.clock import to_wire
from shared.config import OperatorSettings
from shared.operations import dlq, ticks

_BAD_NEWS = 1
_LAG_SECONDS = 60


@click.command()
@as_json
@on_host
def status(settings: OperatorSettings, *, is_json: bool) -> None:
    """Show the workers' ticks, what is due in each queue, and the dead letters.

    Exit 1 if a tick is missing, work is due for more than a minute, or a person is needed.

    \b
    Example:
        arrakis status
    """
    with Host(settings).database.reading() as tx:
        seen, due, letters = ticks.list_ticks(tx), ticks.lags(tx), dlq.depth(tx)
    bad = [f"{tick.name} has not succeeded in time" for tick in seen if tick.is_missing]
    bad += [
        f"{lag.queue}: {lag.rows} {lag.kind} due, the oldest for {lag.seconds:.0f} s"
        for lag in due
        if lag.seconds > _LAG_SECONDS
    ]
    if letters.get("manual_review"):
        bad.append(f"{letters['manual_review']} dead letters need a person: arrakis dlq list")
    if not seen:
        bad.append("No worker has ever done anything here.")
    facts: dict[str, Any] = {
        "isHealthy": not bad,
        "problems": bad,
        "ticks": [_tick(tick) for tick in seen],
        "queues": [vars(lag) for lag in due],
        "deadLetters": letters,
    }
    tell(facts, is_json=is_json, text="\n".join([*_lines(facts), *(bad or ["All is well."])]))
    if bad:
        sys.exit(_BAD_NEWS)


def _tick(tick: ticks.TickState) -> dict[str, Any]:
    return {
        "name": tick.name,
        "everySeconds": tick.every_seconds,
        "succeededAt": to_wire(tick.succeeded_at) if tick.succeeded_at else None,
        "failedAt": to_wire(tick.failed_at) if tick.failed_at else None,
        "error": tick.error,
        "isMissing": tick.is_missing,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    seen = [
        (one["name"], one["everySeconds"], one["succeededAt"] or "never", one["error"] or "")
        for one in facts["ticks"]
    ]
    due = [
        (lag["queue"], lag["kind"], lag["rows"], round(lag["seconds"])) for lag in facts["queues"]
    ]
    letters = ", ".join(f"{count} {name}" for name, count in sorted(facts["deadLetters"].items()))
    return [
        *([table(("tick", "every s", "last done", "error"), seen), ""] if seen else []),
        *([table(("queue", "kind", "due", "oldest s"), due), ""] if due else []),
        f"Dead letters: {letters or 'none'}.",
    ]
