"""Deliveries as operators see them: what was sent where, what came back; and once more."""

import json
from typing import Any

from sqlalchemy import Row, Select, select, text, update

from shared.clock import to_wire
from shared.database import Message, Tx
from shared.errors import Conflict, NotFound
from shared.messaging import TaskName
from shared.models.notifications import Delivery, Endpoint, Event
from shared.notifications import endpoints
from shared.operations.audit import Actor, record

_LAST_DELIVERIES = 10


def show_endpoint(tx: Tx, endpoint_id: str) -> dict[str, Any]:
    """Return an endpoint with its last deliveries. Raises NotFound (``webhook_not_found``)."""
    found = endpoints.show(tx, endpoint_id)
    last = list_deliveries(tx, endpoint_id, limit=_LAST_DELIVERIES)
    return {**found, "lastDeliveries": last["deliveries"]}


def list_deliveries(
    tx: Tx, endpoint_id: str, *, limit: int, after: str | None = None
) -> dict[str, Any]:
    """Return an endpoint's deliveries, newest first, and the next cursor.

    Raises NotFound (``webhook_not_found``) if there is none, or it is removed.
    """
    endpoints.show(tx, endpoint_id)
    statement = _ALL.where(Delivery.endpoint_id == endpoint_id).order_by(Delivery.id.desc())
    if after is not None:
        statement = statement.where(Delivery.id < after)
    rows = tx.all(statement.limit(limit + 1))
    page = rows[:limit]
    return {
        "deliveries": [_describe(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > limit else None,
    }


def show_delivery(tx: Tx, delivery_id: str) -> dict[str, Any]:
    """Return a delivery. Raises NotFound (``delivery_not_found``)."""
    return _describe(_find(tx, delivery_id))


def retry(tx: Tx, actor: Actor, delivery_id: str) -> dict[str, Any]:
    """Have a delivery made again from the start, also one that succeeded; audited.

    Raises Conflict (``webhook_removed``) if its endpoint is.
    """
    row = _find(tx, delivery_id)
    if row.endpoint_status == "removed":
        raise Conflict("The endpoint of this delivery is removed.", code="webhook_removed")
    rearm(tx, delivery_id)
    facts = {"deliveryId": delivery_id, "eventId": row.event_id}
    record(
        tx,
        actor,
        "webhook_delivery_retry",
        target_type="webhook",
        target_id=row.endpoint_id,
        details=facts,
    )
    return show_delivery(tx, delivery_id)


def rearm(tx: Tx, delivery_id: str) -> bool:
    """Let a delivery begin again, now; False if there is none, or nobody to deliver it to."""
    is_there = tx.run(_AGAIN.values(due_at=tx.now), delivery=delivery_id)
    if is_there:
        tx.messages.append(Message(TaskName.DELIVER_WEBHOOKS))
    return bool(is_there)


def _find(tx: Tx, delivery_id: str) -> Row[Any]:
    row = tx.first(_ALL.where(Delivery.id == delivery_id))
    if row is None:
        raise NotFound("There is no such delivery.", code="delivery_not_found")
    return row


def _describe(row: Row[Any]) -> dict[str, Any]:
    return {
        "deliveryId": row.id,
        "endpointId": row.endpoint_id,
        "eventId": row.event_id,
        "type": row.type,
        "data": json.loads(row.data),
        "status": row.outcome or ("waiting" if row.state == "new" else "dead"),
        "tries": row.attempts,
        "nextTryAt": to_wire(row.due_at) if row.state == "new" else None,
        "statusCode": row.status_code,
        "response": row.response,
        "error": row.last_error,
        "createdAt": to_wire(row.created_at),
        "endedAt": to_wire(row.done_at) if row.done_at else None,
    }


_ALL: Select[Any] = (
    select(
        *Delivery.__table__.c,
        Event.type,
        Event.data,
        Endpoint.status.label("endpoint_status"),
    )
    .join(Event, Event.id == Delivery.event_id)
    .join(Endpoint, Endpoint.id == Delivery.endpoint_id)
)
_AGAIN = (
    update(Delivery)
    .where(
        Delivery.id == text(":delivery"),
        Delivery.endpoint_id.in_(select(Endpoint.id).where(Endpoint.status != "removed")),
    )
    .values(state="new", attempts=0, outcome=None, done_at=None, lease_until=None, lease_token=None)
)
