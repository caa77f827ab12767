"""``arrakis reconcile``: compare the books now, and show what was found."""

import sys
import time
from dataclasses import replace
from typing import Any

import click

from shared.cli.api import Api
from shared.cli.desk import Facts, Host, get, post, with_desk
from shared.cli.output import as_json, progress, tell
from shared.reconciliation import runs, views
from shared.wiring import make_desk

_BAD_NEWS, _AWAY = 1, 3
_LOOK_SECONDS = 0.2
_WAIT_SECONDS = 2  # small books are compared in this time, so nothing has to be asked again
_ASK_SECONDS = 3  # the API answers an admin thirty times in a minute
_MARKS = {True: "ok", False: "FAILED", None: "not checked"}


@click.group()
def reconcile() -> None:
    """Compare cached balances, lots, entries, payments and the provider."""


@reconcile.command()
@click.option("--cache", "is_cache", is_flag=True, help="Only the cached balances.")
@click.option("--provider/--no-provider", default=True, help="Ask NOWPayments too (default).")
@click.option(
    "--days",
    default=7,
    show_default=True,
    type=click.IntRange(1, 90),
    help="Payments that changed since then are compared with the provider.",
)
@as_json
@with_desk
def run(desk: Host | Api, *, is_cache: bool, provider: bool, days: int, is_json: bool) -> None:
    """Compare now; exit 1 if anything is wrong, 3 if a dependency was away.

    Wrong cached balances are corrected, and lots that an operator emptied by hand are booked;
    everything else is only told, with what mends it. If a run is open, that one is finished.
    On the host the command compares, beside the workers; over an API the workers do.

    \b
    Examples:
        arrakis reconcile run
        arrakis reconcile run --no-provider
        arrakis reconcile run --cache
    """
    kind = "cache" if is_cache else "daily"
    call = post(
        "reconciliation", "run", body={"kind": kind, "provider": provider, "providerDays": days}
    )
    asked = desk.work(
        replace(call, wait_seconds=_WAIT_SECONDS),
        lambda host: runs.request(
            host.database, host.actor, kind, asks_provider=provider, days=days
        ),
    )
    job = _wait(desk, asked.facts)
    _tell(job["result"], job, is_json=is_json)


@reconcile.command()
@click.argument("run_id", required=False)
@as_json
@with_desk
def show(desk: Host | Api, run_id: str | None, *, is_json: bool) -> None:
    """Show what the last daily run found, or RUN_ID; exit 1 if something is wrong.

    \b
    Example:
        arrakis reconcile show
    """
    if run_id is None:
        facts = desk.read(get("reconciliation"), views.last_result)
    else:
        facts = _show(desk, run_id)
    _tell(facts["result"], facts, is_json=is_json)


def _show(desk: Host | Api, run_id: str) -> Facts:
    return desk.read(get("reconciliation", "runs", run_id), lambda tx: views.show_run(tx, run_id))


def _wait(desk: Host | Api, job: Facts) -> Facts:
    """Wait until a run is done; on the host, work it off beside the workers."""
    checker = make_desk(desk.settings, desk.database) if isinstance(desk, Host) else None
    with progress("Comparing") as so_far:
        while job["doneAt"] is None:
            so_far(job["checksDone"], len(runs.CHECKS[job["kind"]]))
            if checker is None:
                time.sleep(_ASK_SECONDS)
            elif not runs.work_off(checker, only=job["runId"]):
                time.sleep(_LOOK_SECONDS)  # a worker has it
            job = _show(desk, job["runId"])
    return job


def _tell(result: dict[str, Any], facts: dict[str, Any], *, is_json: bool) -> None:
    tell(facts, is_json=is_json, text="\n".join(_lines(result)))
    checks = result.get("checks", [])
    if any(check["passed"] is False for check in checks):
        sys.exit(_BAD_NEWS)
    if any(check["isAway"] for check in checks):
        sys.exit(_AWAY)


def _lines(result: dict[str, Any]) -> list[str]:
    checks = result.get("checks", [])
    if not checks:
        return ["Nothing has been compared yet."]
    lines = []
    for check in checks:
        counts = ", ".join(f"{name} {count}" for name, count in check["counts"].items())
        lines.append(f"{check['name']:24} {_MARKS[check['passed']]:12} {counts}".rstrip())
        if check["passed"] is not True:
            lines.append(f"    {check['details']}")
        for finding in check["findings"]:
            lines.append(f"    {finding['severity']} {finding['kind']}: {finding['message']}")
            lines.append(f"        {finding['proposal']}")
    if "timestamp" in result:
        verdict = "The books are right." if result["passed"] else "Something is wrong."
        if result["notChecked"]:
            verdict += f" Not checked: {', '.join(result['notChecked'])}."
        lines.append(f"{result['timestamp']}: {verdict}")
    return lines
