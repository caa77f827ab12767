"""Is the work being done? Heartbeats of the ticks, and the age of the oldest undone row of a queue.

Liveness is progress: a worker that lives and does nothing shows here, whatever Celery says of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, func, or_, select, text

from shared.database import Tx, upsert_rows
from shared.models.campaigns import GrantBatch
from shared.models.ledger import OPEN_LOT, PENDING_HOLD, UNPOSTED_REVENUE, Lot, Reservation
from shared.models.notifications import Delivery, Endpoint
from shared.models.operations import WAITING_LETTER, DeadLetter, Tick
from shared.models.payments import CryptoPayment, WebhookEvent
from shared.models.reconciliation import ReconciliationRun
from shared.models.types import UtcTime
from shared.models.x402 import Settlement
from shared.parameters import constant

# A tick is missing when it has not succeeded for this many of its intervals, and for as long.
_MISSED_INTERVALS, _LEAST_SECONDS = 4, 60


@dataclass(frozen=True)
class Lag:
    """A queue's work that is due: how many rows, and for how many seconds the oldest one is."""

    queue: str
    kind: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class TickState:
    """A tick: its interval, when it last succeeded and failed, and whether it is missing.

    ``error`` is that of the last failure, None once it has succeeded again.
    """

    name: str
    every_seconds: int
    succeeded_at: datetime | None
    failed_at: datetime | None
    error: str | None
    age_seconds: float
    is_missing: bool


BEAT = "beat"
"""The tick of the wake-ups themselves: beat sends one, and a worker that takes it notes it."""


def expect(tx: Tx, every_seconds: Mapping[str, int]) -> None:
    """Note which ticks there should be, by their intervals: one that never comes is missing too."""
    for name, every in sorted(every_seconds.items()):
        tx.run(_EXPECT, name=name, every=every, now=tx.now)


def succeeded(tx: Tx, name: str, *, every_seconds: int) -> None:
    """Note that the tick *name* has done its work."""
    row = {
        "name": name,
        "every_seconds": every_seconds,
        "succeeded_at": tx.now,
        "last_error": None,
    }
    upsert_rows(tx, Tick.__table__, [row], key=("name",))


def failed(tx: Tx, name: str, *, every_seconds: int, error: str) -> None:
    """Note that the tick *name* has failed, and why."""
    row = {
        "name": name,
        "every_seconds": every_seconds,
        "failed_at": tx.now,
        "last_error": error[:500],
    }
    upsert_rows(tx, Tick.__table__, [row], key=("name",))


def list_ticks(tx: Tx) -> list[TickState]:
    """Return every tick that was ever seen or expected, by name."""
    return [
        TickState(
            name=row.name,
            every_seconds=row.every_seconds,
            succeeded_at=row.succeeded_at,
            failed_at=row.failed_at,
            error=row.last_error,
            age_seconds=(tx.now - (row.succeeded_at or row.created_at)).total_seconds(),
            is_missing=is_missing(row.succeeded_at or row.created_at, row.every_seconds, tx.now),
        )
        for row in tx.all(_TICKS)
    ]


def is_missing(last: datetime, every_seconds: int, now: datetime) -> bool:
    """Tell whether a tick that last succeeded at *last* has been missed for too long."""
    patience = max(_LEAST_SECONDS, _MISSED_INTERVALS * every_seconds)
    return (now - last).total_seconds() > patience


def missed_intervals(tick: TickState) -> int:
    """Return how many intervals went by without success; above four the tick is missing."""
    interval = max(tick.every_seconds, _LEAST_SECONDS // _MISSED_INTERVALS)
    return math.ceil(tick.age_seconds / interval)


def lags(tx: Tx) -> list[Lag]:
    """Return what is due in each queue, by kind of row (reliability A5)."""
    found = []
    for queue, kind, statement in _DUE:
        row = tx.first(statement, now=tx.now)
        assert row is not None
        seconds = (tx.now - row.oldest).total_seconds() if row.oldest is not None else 0.0
        found.append(Lag(queue, kind, int(row.rows), max(0.0, seconds)))
    return found


def _due(since: Any, *where: Any) -> Select[Any]:
    oldest = func.min(since, type_=UtcTime()).label("oldest")
    return select(func.count().label("rows"), oldest).where(*where)


_NOW = bindparam("now", type_=UtcTime())
_EXPECT = text(
    "INSERT INTO worker_ticks (name, every_seconds, created_at) VALUES (:name, :every, :now)"
    " ON CONFLICT (name) DO NOTHING"
).bindparams(_NOW)
_TICKS = select(*Tick.__table__.c).order_by(Tick.name)
_DUE = (
    (
        "payments",
        "notices",
        _due(
            WebhookEvent.due_at, WebhookEvent.state == constant("new"), WebhookEvent.due_at <= _NOW
        ),
    ),
    (
        "payments",
        "settlements",
        _due(Settlement.due_at, Settlement.state == constant("new"), Settlement.due_at <= _NOW),
    ),
    (
        "ledger",
        "holds",
        _due(
            Reservation.expires_at,
            PENDING_HOLD,
            Reservation.expires_at <= _NOW,
        ),
    ),
    (
        "ledger",
        "lots",
        _due(Lot.expires_at, OPEN_LOT, Lot.available_micro > 0, Lot.expires_at <= _NOW),
    ),
    (
        "ledger",
        "revenue",
        _due(
            Reservation.finalized_at,
            UNPOSTED_REVENUE,
            Reservation.finalized_at <= _NOW,
        ),
    ),
    (
        "ledger",
        "grant_lists",
        _due(GrantBatch.due_at, GrantBatch.state == constant("new"), GrantBatch.due_at <= _NOW),
    ),
    (
        "maintenance",
        "reconciliations",
        _due(
            ReconciliationRun.due_at,
            ReconciliationRun.state == constant("new"),
            ReconciliationRun.due_at <= _NOW,
        ),
    ),
    (
        "maintenance",
        "dead_letters",
        _due(
            func.coalesce(DeadLetter.next_retry_at, DeadLetter.lease_until),
            WAITING_LETTER,
            or_(
                and_(DeadLetter.status == "pending", DeadLetter.next_retry_at <= _NOW),
                and_(DeadLetter.status == "processing", DeadLetter.lease_until <= _NOW),
            ),
        ),
    ),
    (
        "maintenance",
        "webhooks",
        _due(
            Delivery.due_at,
            Delivery.state == constant("new"),
            Delivery.due_at <= _NOW,
            Delivery.endpoint_id.in_(select(Endpoint.id).where(Endpoint.status == "active")),
        ),
    ),
    (
        "maintenance",
        "payments_to_read",
        _due(CryptoPayment.next_poll_at, CryptoPayment.next_poll_at <= _NOW),
    ),
)
