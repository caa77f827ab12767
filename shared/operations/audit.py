"""The audit log: who did what, written in the transaction of the change (W69)."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select

from shared.clock import to_wire
from shared.database import Database, Tx, insert_rows
from shared.errors import Conflict, Forbidden, NotFound, Refused
from shared.ids import new_id
from shared.models.operations import AuditRow


@dataclass(frozen=True)
class Actor:
    """Who acts: an admin by token, an operator by command line, or the system itself."""

    kind: str
    id: str
    address: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None


def record(
    tx: Tx,
    actor: Actor,
    action: str,
    *,
    target_type: str,
    target_id: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one row; it can never be altered."""
    facts = {
        **(details or {}),
        "ip": actor.address,
        "userAgent": actor.user_agent,
        "correlationId": actor.correlation_id,
    }
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    insert_rows(
        tx,
        AuditRow.__table__,
        [
            {
                "id": new_id(tx.now),
                "actor_type": actor.kind,
                "actor_id": actor.id,
                "action": action,
                "target_type": target_type,
                "target_id": target_id,
                "details": json.dumps(known, ensure_ascii=False),
                "created_at": tx.now,
            }
        ],
    )


@contextmanager
def noting_refusals(
    database: Database, actor: Actor, action: str, *, target_type: str, target_id: str
) -> Iterator[None]:
    """Audit what is refused within, in a transaction of its own, because the refused one is gone.

    Only for what a person may not do now; a dependency that is away refuses nothing.
    """
    try:
        yield
    except (Conflict, Forbidden, NotFound, Refused) as refusal:
        details = {"refusedBecause": refusal.code}
        with database.transaction() as tx:
            record(
                tx,
                actor,
                f"{action}_refused",
                target_type=target_type,
                target_id=target_id,
                details=details,
            )
        raise


def trail(
    tx: Tx, *, target_type: str, target_id: str, limit: int, after: str | None
) -> dict[str, Any]:
    """Return what was done to a target, and what was refused, oldest first, page by page."""
    statement = (
        select(*AuditRow.__table__.c)
        .where(AuditRow.target_type == target_type, AuditRow.target_id == target_id)
        .order_by(AuditRow.id)
    )
    if after is not None:
        statement = statement.where(AuditRow.id > after)
    rows = tx.all(statement.limit(limit + 1))
    page = rows[:limit]
    return {
        "audit": [_describe(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > limit else None,
    }


@dataclass(frozen=True)
class AuditFilter:
    """Which rows are wanted: *since* included, *until* not; ``before`` is a page's cursor."""

    actor_id: str | None = None
    action: str | None = None
    target_type: str | None = None
    target_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    before: str | None = None


def list_rows(tx: Tx, wanted: AuditFilter) -> dict[str, Any]:
    """Return what was done and refused, newest first, and the cursor of the page before."""
    statement = select(*AuditRow.__table__.c).order_by(AuditRow.id.desc())
    for column, value in (
        (AuditRow.actor_id, wanted.actor_id),
        (AuditRow.action, wanted.action),
        (AuditRow.target_type, wanted.target_type),
        (AuditRow.target_id, wanted.target_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if wanted.since is not None:
        statement = statement.where(AuditRow.created_at >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(AuditRow.created_at < wanted.until)
    if wanted.before is not None:
        statement = statement.where(AuditRow.id < wanted.before)
    rows = tx.all(statement.limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "audit": [
            _describe(row) | {"targetType": row.target_type, "targetId": row.target_id}
            for row in page
        ],
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def _describe(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "actorType": row.actor_type,
        "actorId": row.actor_id,
        "action": row.action,
        "details": json.loads(row.details or "{}"),
        "createdAt": to_wire(row.created_at),
    }
