"""The dead-letter queue: what failed is tried again after 60, 300 and 1800 s, then reviewed.

The delays are times in rows, with ±10 % jitter, so neither a restart nor Redis forgets them.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, func, or_, select, text, update

from shared.clock import add_seconds
from shared.database import Tx, insert_rows, update_rows
from shared.ids import new_id
from shared.models.operations import WAITING_LETTER, DeadLetter
from shared.models.types import UtcTime
from shared.parameters import constant, member_of

DELAYS_SECONDS = (60, 300, 1800)
LEASE_SECONDS = 300
_JITTER = 0.1
_TABLE = DeadLetter.__table__
_BATCH = 100


def enter(
    tx: Tx,
    operation: str,
    *,
    subject_id: str,
    payload: Mapping[str, Any],
    error: str,
    needs_person: bool = False,
) -> str:
    """Put *subject_id* in the queue, or count its next failure; return the row's status.

    With *needs_person* no retry is tried: no rule can settle it.
    """
    known = tx.first(_BY_SUBJECT, operation=operation, subject_id=subject_id)
    failures = known.retry_count + 1 if known is not None and known.status != "completed" else 0
    status, next_retry_at = "manual_review", None
    if not needs_person and failures < len(DELAYS_SECONDS):
        status = "pending"
        spread = 1 + random.uniform(-_JITTER, _JITTER)  # noqa: S311  a jitter is no secret
        next_retry_at = add_seconds(tx.now, DELAYS_SECONDS[failures] * spread)
    row = {
        "error_message": error[:500],
        "retry_count": failures,
        "status": status,
        "next_retry_at": next_retry_at,
        "lease_until": None,
        "updated_at": tx.now,
        "completed_at": None,
    }
    if known is not None:
        update_rows(tx, _TABLE, [{"id": known.id, **row}])
    else:
        made = {
            "id": f"dlq_{new_id(tx.now)}",
            "operation_type": operation,
            "subject_id": subject_id,
            "payload": json.dumps(payload, ensure_ascii=False),
            "created_at": tx.now,
        }
        insert_rows(tx, _TABLE, [{**made, **row}])
    return status


def complete(tx: Tx, operation: str, *, subject_id: str) -> None:
    """Note that what was in the queue has succeeded; does nothing if it never was there."""
    complete_all(tx, operation, [subject_id])


def complete_all(tx: Tx, operation: str, subject_ids: Sequence[str]) -> None:
    """Note that all of *subject_ids* have succeeded; most never were in the queue."""
    if subject_ids:
        tx.run(_COMPLETE, operation=operation, ids=sorted(subject_ids), now=tx.now)


def take_due(tx: Tx, operation: str, *, only: str | None = None) -> list[str]:
    """Mark due rows of *operation* as being processed and return their subjects.

    A row that is being processed for longer than its lease is due again: its worker is gone (W61).
    *only* leaves every subject but this one alone.
    """
    statement = _DUE if only is None else _DUE.where(DeadLetter.subject_id == only)
    rows = tx.all(statement, operation=operation, now=tx.now)
    begin(tx, [row.id for row in rows])
    return [row.subject_id for row in rows]


def begin(tx: Tx, ids: Sequence[str]) -> None:
    """Mark rows as being processed, for as long as a lease lasts."""
    lease = {"status": "processing", "lease_until": add_seconds(tx.now, LEASE_SECONDS)}
    update_rows(tx, _TABLE, [{"id": one, **lease, "updated_at": tx.now} for one in ids])


def depth(tx: Tx) -> dict[str, int]:
    """Return how many rows there are by status (runbook 3)."""
    return {row.status: row.rows for row in tx.all(_DEPTH)}


_DEPTH = select(DeadLetter.status, func.count().label("rows")).group_by(DeadLetter.status)
_BY_SUBJECT = (
    select(DeadLetter.id, DeadLetter.status, DeadLetter.retry_count)
    .where(
        DeadLetter.operation_type == text(":operation"),
        DeadLetter.subject_id == text(":subject_id"),
    )
    .with_for_update()
)
_NOW = bindparam("now", type_=UtcTime())
_COMPLETE = (
    update(DeadLetter)
    .where(
        DeadLetter.operation_type == text(":operation"),
        member_of(DeadLetter.subject_id, "ids"),
        DeadLetter.status != "completed",
    )
    .values(
        status="completed",
        next_retry_at=None,
        lease_until=None,
        updated_at=_NOW,
        completed_at=_NOW,
    )
)
_DUE = (
    select(DeadLetter.id, DeadLetter.subject_id)
    .where(
        WAITING_LETTER,
        or_(
            and_(DeadLetter.status == "pending", DeadLetter.next_retry_at <= _NOW),
            and_(
                DeadLetter.status == "processing",
                or_(DeadLetter.lease_until.is_(None), DeadLetter.lease_until <= _NOW),
            ),
        ),
        DeadLetter.operation_type == text(":operation"),
        DeadLetter.subject_id.is_not(None),
    )
    .order_by(DeadLetter.created_at)
    .limit(constant(_BATCH))
    .with_for_update(skip_locked=True)
)
