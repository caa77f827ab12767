"""Endpoints of outgoing webhooks: added, changed, tested, removed. Each change is audited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, select, text, update

from shared.clock import to_wire
from shared.database import Database, Tx, insert_rows, update_rows
from shared.errors import ArrakisError, Conflict, Invalid, NotFound
from shared.ids import new_id
from shared.models.notifications import Delivery, Endpoint, Subscription
from shared.notifications.addresses import check_url, masked, resolve
from shared.notifications.keys import Keys
from shared.notifications.outbox import TEST_TYPE, EventType, write_event
from shared.operations.audit import Actor, record
from shared.parameters import constant

ENDPOINTS_MAX = 20
"""How many there may be: each is served by a thread of its own."""

TARGET = "webhook"
_TABLE = Endpoint.__table__


@dataclass(frozen=True)
class Wanted:
    """What an endpoint is to be; None leaves a part as it is, or at its default."""

    url: str | None = None
    description: str | None = None
    event_types: Sequence[str] | None = None
    is_active: bool | None = None


def require_url(database: Database, actor: Actor, url: str, *, allow_private: bool) -> None:
    """Look whether webhooks may be sent to *url*, by name and by address; a refusal is audited.

    It asks a resolver, so it comes before the transaction. Raises Invalid.
    """
    try:
        resolve(check_url(url, allow_private=allow_private), allow_private=allow_private)
    except ArrakisError as refusal:
        details = {
            "url": masked(url)[:200],
            "refusedBecause": refusal.code,
            "message": refusal.message,
        }
        with database.transaction() as tx:
            _record(tx, actor, "webhook_url_refused", "-", details)
        raise


def create(tx: Tx, actor: Actor, keys: Keys, wanted: Wanted) -> dict[str, Any]:
    """Add an endpoint and return it with its secret, which is shown this once.

    Its URL has passed :func:`require_url`. Without types it subscribes to all of them. Raises
    Conflict (``too_many_webhooks``), Unavailable if webhooks are off.
    """
    assert wanted.url is not None
    if tx.scalar(_COUNT) >= ENDPOINTS_MAX:
        raise Conflict(f"There are {ENDPOINTS_MAX} webhooks.", code="too_many_webhooks")
    endpoint_id = f"whe_{new_id(tx.now)}"
    secret = keys.secret(endpoint_id, 1)
    row = {
        "id": endpoint_id,
        "url": wanted.url,
        "description": wanted.description,
        "created_by": actor.id,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, _TABLE, [row])
    types = list(EventType) if wanted.event_types is None else wanted.event_types
    _subscribe(tx, endpoint_id, types)
    details = {"url": masked(wanted.url), "eventTypes": sorted(set(types))}
    _record(tx, actor, "webhook_create", endpoint_id, details)
    return {**show(tx, endpoint_id), "secret": secret}


def list_endpoints(tx: Tx) -> dict[str, Any]:
    """Return all endpoints but those that were removed, oldest first."""
    return {"webhooks": [_describe(tx, row) for row in tx.all(_KEPT.order_by(Endpoint.id))]}


def show(tx: Tx, endpoint_id: str) -> dict[str, Any]:
    """Return an endpoint. Raises NotFound (``webhook_not_found``)."""
    return _describe(tx, _find(tx, endpoint_id))


def change(tx: Tx, actor: Actor, endpoint_id: str, wanted: Wanted) -> dict[str, Any]:
    """Change an endpoint and return it. Its new URL has passed :func:`require_url`.

    One that is enabled again gets what has waited for it.
    """
    before = show(tx, endpoint_id)
    row: dict[str, Any] = {"id": endpoint_id, "updated_at": tx.now}
    if wanted.url is not None:
        row["url"] = wanted.url
    if wanted.description is not None:
        row["description"] = wanted.description
    if wanted.is_active is not None:
        row["status"] = "active" if wanted.is_active else "disabled"
        row["disabled_reason"] = None if wanted.is_active else f"Disabled by {actor.id}."
        row["failing_since"] = None
    update_rows(tx, _TABLE, [row])
    if wanted.event_types is not None:
        tx.run(_UNSUBSCRIBE, endpoint=endpoint_id)
        _subscribe(tx, endpoint_id, wanted.event_types)
    after = show(tx, endpoint_id)
    changes = {
        name: {"old": before[name], "new": value}
        for name, value in after.items()
        if before[name] != value and name != "updatedAt"
    }
    if "url" in changes:
        changes["url"] = {when: masked(url) for when, url in changes["url"].items()}
    if changes:
        _record(tx, actor, "webhook_change", endpoint_id, {"changes": changes})
    return after


def remove(tx: Tx, actor: Actor, endpoint_id: str) -> dict[str, Any]:
    """Remove an endpoint; what waits for it is cancelled. Its deliveries stay as evidence."""
    row = _find(tx, endpoint_id)
    cancelled = tx.run(_CANCEL.values(done_at=tx.now), endpoint=endpoint_id)
    tx.run(_UNSUBSCRIBE, endpoint=endpoint_id)
    gone = {"id": endpoint_id, "status": "removed", "updated_at": tx.now}
    update_rows(tx, _TABLE, [gone])
    _record(
        tx, actor, "webhook_remove", endpoint_id, {"url": masked(row.url), "cancelled": cancelled}
    )
    return {"endpointId": endpoint_id, "status": "removed", "cancelled": cancelled}


def rotate_secret(tx: Tx, actor: Actor, keys: Keys, endpoint_id: str) -> dict[str, Any]:
    """Give an endpoint a new secret and return it, this once; the earlier one signs for a day."""
    row = _find(tx, endpoint_id)
    version = row.secret_version + 1
    new = {
        "id": endpoint_id,
        "secret_version": version,
        "secret_rotated_at": tx.now,
        "updated_at": tx.now,
    }
    update_rows(tx, _TABLE, [new])
    _record(tx, actor, "webhook_rotate_secret", endpoint_id, {"version": version})
    return {**show(tx, endpoint_id), "secret": keys.secret(endpoint_id, version)}


def send_test(tx: Tx, actor: Actor, endpoint_id: str) -> dict[str, Any]:
    """Have the endpoint told of a test, whatever it subscribed to; return the event's id.

    Raises Conflict (``webhook_disabled``).
    """
    row = _find(tx, endpoint_id)
    if row.status != "active":
        raise Conflict("The webhook is disabled; enable it first.", code="webhook_disabled")
    data = {"endpointId": endpoint_id, "sentBy": actor.id}
    key = f"{TEST_TYPE}:{new_id(tx.now)}"
    event_id = write_event(tx, TEST_TYPE, key=key, data=data, endpoint_ids=[endpoint_id])
    _record(tx, actor, "webhook_test", endpoint_id, {"eventId": event_id})
    return {"eventId": event_id, "endpointId": endpoint_id}


def _subscribe(tx: Tx, endpoint_id: str, types: Sequence[str]) -> None:
    """Raises Invalid (``unknown_event_type``)."""
    for one in types:
        if one not in set(EventType):
            raise Invalid(
                f"There is no event {one[:100]!r}; there are {', '.join(EventType)}.",
                code="unknown_event_type",
            )
    rows = [{"event_type": str(one), "endpoint_id": endpoint_id} for one in sorted(set(types))]
    insert_rows(tx, Subscription.__table__, rows)


def _find(tx: Tx, endpoint_id: str) -> Row[Any]:
    row = tx.first(_KEPT.where(Endpoint.id == endpoint_id))
    if row is None:
        raise NotFound("There is no such webhook.", code="webhook_not_found")
    return row


def _record(
    tx: Tx, actor: Actor, action: str, endpoint_id: str, details: Mapping[str, Any]
) -> None:
    record(tx, actor, action, target_type=TARGET, target_id=endpoint_id, details=details)


def _describe(tx: Tx, row: Row[Any]) -> dict[str, Any]:
    return {
        "endpointId": row.id,
        "url": row.url,
        "description": row.description,
        "eventTypes": [one.event_type for one in tx.all(_TYPES, endpoint=row.id)],
        "status": row.status,
        "disabledReason": row.disabled_reason,
        "failingSince": to_wire(row.failing_since) if row.failing_since else None,
        "secretVersion": row.secret_version,
        "waiting": tx.scalar(_WAITING, endpoint=row.id),
        "createdBy": row.created_by,
        "createdAt": to_wire(row.created_at),
        "updatedAt": to_wire(row.updated_at),
    }


_KEPT = select(*_TABLE.c).where(Endpoint.status != "removed")
_COUNT = select(func.count()).select_from(_TABLE).where(Endpoint.status != "removed")
_TYPES = (
    select(Subscription.event_type)
    .where(Subscription.endpoint_id == text(":endpoint"))
    .order_by(Subscription.event_type)
)
_WAITING = select(func.count()).where(
    Delivery.endpoint_id == text(":endpoint"), Delivery.state == constant("new")
)
_UNSUBSCRIBE = delete(Subscription).where(Subscription.endpoint_id == text(":endpoint"))
_CANCEL = (
    update(Delivery)
    .where(Delivery.endpoint_id == text(":endpoint"), Delivery.state != "done")
    .values(state="done", outcome="cancelled", lease_until=None, lease_token=None)
)
