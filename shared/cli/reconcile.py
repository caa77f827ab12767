"""``arrakis reconcile``: compare the books now, and show what was found."""

import sys
import time
from typing import Any

import click

from shared.cli.acting import operator
from shared.cli.desk import Host, on_host
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.reconciliation import runs, views
from shared.reconciliation.desk import Desk
from shared.wiring import make_desk

_BAD_NEWS, _AWAY = 1, 3
_LOOK_SECONDS = 0.2
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
@on_host
def run(
    settings: OperatorSettings, *, is_cache: bool, provider: bool, days: int, is_json: bool
) -> None:
    """Compare now, here; exit 1 if anything is wrong, 3 if a dependency was away.

    Wrong cached balances are corrected, and lots that an operator emptied by hand are booked;
    everything else is only told, with what mends it. If a run is open, that one is finished.

    \b
    Examples:
        arrakis reconcile run
        arrakis reconcile run --no-provider
        arrakis reconcile run --cache
    """
    kind = "cache" if is_cache else "daily"
    database = Host(settings).database
    asked = runs.request(database, operator(), kind, asks_provider=provider, days=days)
    job = _work(make_desk(settings, database), asked.unwrap(), is_quiet=is_json)
    _tell(job["result"], job, is_json=is_json)


@reconcile.command()
@click.argument("run_id", required=False)
@as_json
@on_host
def show(settings: OperatorSettings, run_id: str | None, *, is_json: bool) -> None:
    """Show what the last daily run found, or RUN_ID; exit 1 if something is wrong.

    \b
    Example:
        arrakis reconcile show
    """
    with Host(settings).database.reading() as tx:
        facts = views.show_run(tx, run_id) if run_id else views.last_result(tx)
    _tell(facts["result"], facts, is_json=is_json)


def _work(desk: Desk, job: dict[str, Any], *, is_quiet: bool) -> dict[str, Any]:
    """Work a run off here, beside the workers, and tell of each check as it ends."""
    told = 0
    while job["doneAt"] is None:
        if not runs.work_off(desk, only=job["runId"]):
            time.sleep(_LOOK_SECONDS)  # a worker has it
        with desk.database.reading() as tx:
            job = views.show_run(tx, job["runId"])
        checks = job["result"].get("checks", [])
        for check in checks[told:] if not is_quiet else ():
            click.echo(f"{check['name']:24} {_MARKS[check['passed']]}", err=True)
        told = len(checks)
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
