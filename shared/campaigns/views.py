"""Lists and grants as callers see them."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, text

from shared.campaigns.granting import describe_grant
from shared.clock import to_wire
from shared.database import Tx
from shared.errors import NotFound
from shared.models.campaigns import Campaign, Grant, GrantBatch, GrantItem

_FAILURES_SHOWN = 100


@dataclass(frozen=True)
class GrantFilter:
    """Which grants are wanted; ``after`` is the id of the last one of the page before."""

    status: str | None = None
    account_id: str | None = None
    batch_id: str | None = None
    limit: int = 50
    after: str | None = None


def list_grants(tx: Tx, campaign_id: str, wanted: GrantFilter) -> dict[str, Any]:
    """Return a campaign's grants in the order of their ids, and the next page's cursor.

    Raises NotFound (``campaign_not_found``).
    """
    _require_campaign(tx, campaign_id)
    statement = select(*Grant.__table__.c).where(Grant.campaign_id == campaign_id)
    for column, value in (
        (Grant.status, wanted.status),
        (Grant.account_id, wanted.account_id),
        (Grant.batch_id, wanted.batch_id),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if wanted.after is not None:
        statement = statement.where(Grant.id > wanted.after)
    rows = tx.all(statement.order_by(Grant.id).limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "grants": [describe_grant(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def list_batches(tx: Tx, campaign_id: str, *, limit: int, after: str | None) -> dict[str, Any]:
    """Return a campaign's lists, oldest first, and the next page's cursor. Raises NotFound."""
    _require_campaign(tx, campaign_id)
    statement = _BATCHES.where(GrantBatch.campaign_id == campaign_id)
    if after is not None:
        statement = statement.where(GrantBatch.id > after)
    rows = tx.all(statement.order_by(GrantBatch.id).limit(limit + 1))
    page = rows[:limit]
    return {
        "batches": [_describe(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > limit else None,
    }


def show_batch(tx: Tx, campaign_id: str, batch_id: str) -> dict[str, Any]:
    """Return a list with its progress and its first hundred failures. Raises NotFound."""
    row = _find(tx, campaign_id, batch_id)
    failures = tx.all(_FAILURES, id=batch_id)
    return {
        **_describe(row),
        "failures": [
            {"accountId": one.account_id, "amountMicro": str(one.amount_micro), "error": one.error}
            for one in failures
        ],
    }


def show_result(tx: Tx, campaign_id: str, batch_id: str) -> dict[str, Any]:
    """Return a list with what became of each wallet (behaviour 9.6). Raises NotFound."""
    row = _find(tx, campaign_id, batch_id)
    return {**_describe(row), "grants": [_item(one) for one in tx.all(_ITEMS, id=batch_id)]}


def _describe(row: Row[Any]) -> dict[str, Any]:
    return {
        "batchId": row.id,
        "campaignId": row.campaign_id,
        "status": _status(row),
        "total": row.total,
        "done": row.position,
        "totalGranted": row.granted,
        "totalExisting": row.existing,
        "totalSkipped": row.skipped,
        "totalFailed": row.failed,
        "totalAmountMicro": str(row.granted_micro),
        "formula": json.loads(row.formula) if row.formula else None,
        "stopReason": row.stop_reason,
        "createdBy": row.created_by,
        "createdAt": to_wire(row.created_at),
        "doneAt": to_wire(row.done_at) if row.done_at else None,
    }


def _status(row: Row[Any]) -> str:
    if row.state == "done":
        return "stopped" if row.stop_reason else "completed"
    if row.campaign_status == "paused":
        return "paused"
    return "running" if row.position or row.lease_token else "queued"


def _item(row: Row[Any]) -> dict[str, Any]:
    has_grant = row.status in ("granted", "existing")
    return {
        "grantId": row.grant_id,
        "accountId": row.account_id,
        "lotId": row.lot_id if has_grant else None,
        # What an account has been granted before is its grant, whatever this list says.
        "amountMicro": str(row.granted_micro if has_grant else row.amount_micro),
        "status": "granted" if has_grant else row.status,
        "isNew": row.status == "granted",
        "error": row.error,
    }


def _find(tx: Tx, campaign_id: str, batch_id: str) -> Row[Any]:
    row = tx.first(_BATCHES.where(GrantBatch.id == batch_id))
    if row is None or row.campaign_id != campaign_id:
        raise NotFound("Grant list not found.", code="grant_batch_not_found")
    return row


def _require_campaign(tx: Tx, campaign_id: str) -> None:
    if tx.scalar(select(Campaign.id).where(Campaign.id == campaign_id)) is None:
        raise NotFound("Campaign not found.", code="campaign_not_found")


_BATCHES = select(*GrantBatch.__table__.c, Campaign.status.label("campaign_status")).join(
    Campaign, Campaign.id == GrantBatch.campaign_id
)
_FAILURES = (
    select(GrantItem.account_id, GrantItem.amount_micro, GrantItem.error)
    .where(GrantItem.batch_id == text(":id"), GrantItem.status == "failed")
    .order_by(GrantItem.position)
    .limit(_FAILURES_SHOWN)
)
_ITEMS = (
    select(
        GrantItem.account_id,
        GrantItem.amount_micro,
        GrantItem.status,
        GrantItem.error,
        Grant.id.label("grant_id"),
        Grant.lot_id,
        Grant.amount_micro.label("granted_micro"),
    )
    .join(GrantBatch, GrantBatch.id == GrantItem.batch_id)
    .outerjoin(
        Grant,
        (Grant.campaign_id == GrantBatch.campaign_id) & (Grant.account_id == GrantItem.account_id),
    )
    .where(GrantItem.batch_id == text(":id"))
    .order_by(GrantItem.position)
)
