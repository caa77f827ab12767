"""``arrakis ledger shadow``: what would have been charged, and who would have been refused."""

from datetime import datetime
from typing import Any

import click

from shared.cli.api import Api
from shared.cli.desk import Host, get, with_desk
from shared.cli.options import MOMENT, limited, paged, wire_time
from shared.cli.output import as_json, more, table, tell
from shared.ledger.shadow_report import shadow_summary
from shared.money import format_usd


@click.command()
@click.option("--account", "account_id", help="Only this account.")
@click.option("--since", type=MOMENT, help="UTC; default from the beginning.")
@limited
@paged
@as_json
@with_desk
def shadow(
    desk: Host | Api,
    *,
    account_id: str | None,
    since: datetime | None,
    limit: int,
    cursor: str | None,
    is_json: bool,
) -> None:
    """Show what shadow mode would have charged, and whom live mode would have refused.

    \b
    Example:
        arrakis ledger shadow --since 2026-11-15
    """
    query = {
        "accountId": account_id,
        "since": wire_time(since),
        "limit": limit,
        "cursor": cursor,
    }
    found = desk.read(
        get("shadow-summary", query=query),
        lambda tx: shadow_summary(
            tx, account_id=account_id, since=since, limit=limit, after=cursor
        ),
    )
    tell(found, is_json=is_json, text="\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    would = format_usd(int(found["finalizedMicro"]))
    counts = f"{found['reserves']} reserves and {found['finalizes']} finalizes in shadow"
    accuracy = found["actualPerEstimated"] or "unknown"
    lost = f"{found['lost']} of {found['ended']} ({found['errorRate'] or 'unknown'})"
    lines = [
        f"{counts}; they would have charged {would}.",
        f"Actual cost per estimate: {accuracy}; holds lost: {lost}.",
    ]
    rows = [
        (
            one["accountId"],
            one["reserves"],
            one["finalizedMicro"],
            one["wouldRefuse"],
            one["largestShortfallMicro"],
        )
        for one in found["accounts"]
    ]
    if rows:
        shown = found["shown"]
        lines.append(
            f"Live mode would have refused {shown['wouldRefuse']} reserves of "
            f"{shown['accountsRefused']} of the {shown['accounts']} accounts shown, at the most "
            f"{shown['largestShortfallMicro']} micro-USD short."
        )
        titles = ("account", "reserves", "would charge", "would refuse", "largest shortfall")
        lines.append(table(titles, rows))
    return [*lines, *more(found)]
