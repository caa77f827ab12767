"""The outbox: what happens is written down for those who want to know, in its own transaction.

So an event is told if, and only if, its cause was committed (ADR 0015).
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, select, text

from shared.database import Message, Tx, insert_rows
from shared.ids import new_id
from shared.messaging import TaskName
from shared.models.notifications import Delivery, Endpoint, Event, Subscription
from shared.models.types import UtcTime


class EventType(StrEnum):
    """The events that endpoints can subscribe to (docs/webhooks.md)."""

    ALERT_FIRED = "alert.fired"
    ALERT_CLEARED = "alert.cleared"
    DEPOSIT_CREDITED = "account.deposit_credited"
    REFUNDED = "account.refunded"
    LOW_BALANCE = "account.low_balance"
    GRANT_EXPIRING = "account.grant_expiring"


TEST_TYPE = "webhook.test"
"""Told to one endpoint when an operator asks for it; nobody subscribes to it."""


def emit(tx: Tx, event_type: str, *, key: str, data: Mapping[str, Any]) -> str | None:
    """Have every active endpoint that subscribed to *event_type* be told of *data*.

    The event and its deliveries are rows of the caller's transaction. Returns the event's id, or
    None if there is nothing to do: nobody subscribed, or *key* was told of before. Amounts in
    *data* are text of digits.
    """
    kind = EventType(event_type)
    subscribed = [row.id for row in tx.all(_SUBSCRIBED, event_type=kind.value)]
    return write_event(tx, kind.value, key=key, data=data, endpoint_ids=subscribed)


def has_subscribers(tx: Tx, event_type: EventType) -> bool:
    """Tell whether anybody wants to know: without, no sweep needs to look."""
    return tx.first(_SUBSCRIBED.limit(1), event_type=event_type.value) is not None


def write_event(
    tx: Tx, event_type: str, *, key: str, data: Mapping[str, Any], endpoint_ids: list[str]
) -> str | None:
    """Write an event and a delivery to each of *endpoint_ids*; return its id, None if it is known.

    Nothing is written if there is nobody to tell.
    """
    if not endpoint_ids:
        return None
    event_id = f"msg_{new_id(tx.now)}"
    written = tx.first(
        _INSERT_EVENT,
        id=event_id,
        key=key,
        type=event_type,
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        created_at=tx.now,
    )
    if written is None:
        return None
    rows = [
        {
            "id": f"dlv_{new_id(tx.now)}",
            "event_id": event_id,
            "endpoint_id": endpoint_id,
            "due_at": tx.now,
            "created_at": tx.now,
        }
        for endpoint_id in endpoint_ids
    ]
    insert_rows(tx, Delivery.__table__, rows)
    tx.messages.append(Message(TaskName.DELIVER_WEBHOOKS))
    return event_id


_SUBSCRIBED = (
    select(Endpoint.id)
    .join(Subscription, Subscription.endpoint_id == Endpoint.id)
    .where(Subscription.event_type == text(":event_type"), Endpoint.status == "active")
    .order_by(Endpoint.id)
)
_INSERT_EVENT = text(
    f"INSERT INTO {Event.__tablename__} (id, key, type, data, created_at) "  # noqa: S608  our own
    "VALUES (:id, :key, :type, :data, :created_at) ON CONFLICT (key) DO NOTHING RETURNING id"
).bindparams(bindparam("created_at", type_=UtcTime()))
