"""``arrakis ledger shadow``: what would have been charged, and who would have been refused."""

from datetime import UTC, datetime
from typing import Any

import click

from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.database import Database
from shared.ledger.shadow_report import shadow_summary
from shared.money import format_usd


@click.command()
@click.option("--account", "account_id", help="Only this account.")
@click.option("--since", type=click.DateTime(), help="UTC; default from the beginning.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000))
@click.option("--after", help="Go on after this account.")
@as_json
@click.pass_obj
def shadow(
    settings: OperatorSettings,
    *,
    account_id: str | None,
    since: datetime | None,
    limit: int,
    after: str | None,
    is_json: bool,
) -> None:
    """Show what shadow mode would have charged, and whom live mode would have refused.

    \b
    Example:
        arrakis ledger shadow --since 2026-11-15
    """
    moment = since.replace(tzinfo=UTC) if since else None
    with Database(settings.database_url).reading() as tx:
        found = shadow_summary(tx, account_id=account_id, since=moment, limit=limit, after=after)
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
    if found["accounts"]:
        titles = ("account", "reserves", "would charge", "would refuse", "largest shortfall")
        lines.append("{:40} {:>10} {:>18} {:>13} {:>18}".format(*titles))
    lines += [
        f"{one['accountId']:40} {one['reserves']:>10} {one['finalizedMicro']:>18}"
        f" {one['wouldRefuse']:>13} {one['largestShortfallMicro']:>18}"
        for one in found["accounts"]
    ]
    if found["nextCursor"]:
        lines.append(f"More: --after {found['nextCursor']}")
    return lines
