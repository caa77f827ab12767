"""``arrakis alerts``: what is wrong now, what was, and who has seen it."""

import sys
from typing import Any

import click

from shared.alerts import views
from shared.cli.acting import with_reason
from shared.cli.api import Api
from shared.cli.desk import Host, get, post, with_desk
from shared.cli.options import limited, paged
from shared.cli.output import as_json, more, tell

_BAD_NEWS = 1


@click.group(invoke_without_command=True)
@as_json
@with_desk
@click.pass_context
def alerts(context: click.Context, desk: Host | Api, *, is_json: bool) -> None:
    """Show every alert with its figure; exit 1 while one fires.

    \b
    Examples:
        arrakis alerts
        arrakis alerts history
    """
    if context.invoked_subcommand is not None:
        return
    found = desk.read(get("alerts"), views.show_alerts)
    lines = [_line(one) for one in found["alerts"]]
    lines.append(f"{found['firing']} firing." if found["firing"] else "No alert fires.")
    tell(found, is_json=is_json, text="\n".join(lines))
    if found["firing"]:
        sys.exit(_BAD_NEWS)


@alerts.command()
@limited
@paged
@as_json
@with_desk
def history(desk: Host | Api, limit: int, cursor: str | None, *, is_json: bool) -> None:
    """List what fired, cleared and was acknowledged, newest first.

    \b
    Example:
        arrakis alerts history --limit 20
    """
    found = desk.read(
        get("alerts", "history", query={"limit": limit, "cursor": cursor}),
        lambda tx: views.list_history(tx, limit=limit, before=cursor),
    )
    lines = [
        f"{one['createdAt']}  {one['action']:18} {one['targetId']}  by {one['actorId']}"
        for one in found["history"]
    ]
    text = "\n".join([*lines, *more(found)]) if lines else "No alert has ever fired."
    tell(found, is_json=is_json, text=text)


@alerts.command()
@click.argument("name")
@click.option("--subject", default="", help="Of which campaign, tick, queue or provider.")
@with_reason
@as_json
@with_desk
def acknowledge(desk: Host | Api, name: str, subject: str, reason: str, *, is_json: bool) -> None:
    """Note that you have seen the alert NAME; it fires on until its cause is gone.

    \b
    Example:
        arrakis alerts acknowledge dlq_depth --reason "the provider is down, ticket 7"
    """
    found = desk.work(
        post("alerts", name, "acknowledge", body={"subject": subject, "reason": reason}),
        lambda host: views.acknowledge(
            host.database, host.actor, name, subject=subject, reason=reason
        ),
    ).facts
    tell(found, is_json=is_json, text=f"{name} is acknowledged by {found['acknowledgedBy']}.")


def _line(one: dict[str, Any]) -> str:
    if one["status"] == "ok":
        return f"ok       {one['name']:24} {_figure(one)} (alert at {one['threshold']})"
    seen = f" [seen by {one['acknowledgedBy']}]" if one["acknowledgedBy"] else ""
    head = f"{one['severity'].upper():8} {one['message']}, since {one['since']}{seen}"
    if one["clearsInSeconds"] is not None:
        return f"{head}\n{'':8} It is calm now, and clears in {one['clearsInSeconds']} s."
    return f"{head}\n{'':8} {one['meaning']}. Do: {one['whatToDo']}"


def _figure(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "nothing to measure"
    return f"{one['value']}" + (f" of {one['outOf']}" if one["outOf"] is not None else "")
