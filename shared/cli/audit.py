"""``arrakis audit``: who did what, and what was refused."""

from datetime import datetime

import click

from shared.cli.api import Api
from shared.cli.desk import Host, get, with_desk
from shared.cli.options import MOMENT, limited, paged, wire_time
from shared.cli.output import as_json, more, table, tell
from shared.operations.audit import AuditFilter, list_rows


@click.group()
def audit() -> None:
    """Read the audit log."""


@audit.command("list")
@click.option("--actor", help="Only what this one did.")
@click.option("--action", help="Only this, for example admin_mint.")
@click.option("--target-type", help="Only about this kind of thing, for example account.")
@click.option("--target-id", help="Only about this one.")
@click.option("--since", type=MOMENT, help="UTC, included.")
@click.option("--until", type=MOMENT, help="UTC, not included.")
@limited
@paged
@as_json
@with_desk
def list_audit(
    desk: Host | Api,
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
        since=since,
        until=until,
        limit=limit,
        before=cursor,
    )
    query = {
        "actor": actor,
        "action": action,
        "targetType": target_type,
        "targetId": target_id,
        "since": wire_time(since),
        "until": wire_time(until),
        "limit": limit,
        "cursor": cursor,
    }
    found = desk.read(get("audit", query=query), lambda tx: list_rows(tx, wanted))
    rows = [
        (
            row["createdAt"],
            f"{row['actorType']} {row['actorId']}",
            row["action"],
            f"{row['targetType']} {row['targetId']}",
            row["details"],
        )
        for row in found["audit"]
    ]
    lines = [table(("at", "who", "what", "about", "details"), rows), *more(found)]
    tell(found, is_json=is_json, text="\n".join(lines) if rows else "Nothing was done.")
