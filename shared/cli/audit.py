"""``arrakis audit``: who did what, and what was refused."""

import json
from datetime import UTC, datetime

import click

from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.database import Database
from shared.operations.audit import AuditFilter, list_rows


@click.group()
def audit() -> None:
    """Read the audit log."""


@audit.command("list")
@click.option("--actor", help="Only what this one did.")
@click.option("--action", help="Only this, for example admin_mint.")
@click.option("--target-type", help="Only about this kind of thing, for example account.")
@click.option("--target-id", help="Only about this one.")
@click.option("--since", type=click.DateTime(), help="UTC, included.")
@click.option("--until", type=click.DateTime(), help="UTC, not included.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--cursor", help="The nextCursor of the page before.")
@as_json
@click.pass_obj
def list_audit(
    settings: OperatorSettings,
    *,
    actor: str | None,
    action: str | None,
    target_type: str | None,
    target_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str | None,
    is_json: bool,
) -> None:
    """List what was done and what was refused, newest first.

    \b
    Examples:
        arrakis audit list --action config_set
        arrakis audit list --target-type account --target-id ACCOUNT --since 2026-11-01
    """
    wanted = AuditFilter(
        actor_id=actor,
        action=action,
        target_type=target_type,
        target_id=target_id,
        since=since.replace(tzinfo=UTC) if since else None,
        until=until.replace(tzinfo=UTC) if until else None,
        limit=limit,
        before=cursor,
    )
    with Database(settings.database_url).reading() as tx:
        found = list_rows(tx, wanted)
    lines = [
        f"{row['createdAt']}  {row['actorType']} {row['actorId']}: {row['action']} "
        f"{row['targetType']} {row['targetId']} {json.dumps(row['details'], ensure_ascii=False)}"
        for row in found["audit"]
    ]
    if found["nextCursor"]:
        lines.append(f"More: --cursor {found['nextCursor']}")
    tell(found, is_json=is_json, text="\n".join(lines or ["Nothing was done."]))
