"""Forgetting events that were told long ago, with their deliveries, in bounded batches."""

from sqlalchemy import and_, bindparam, delete, exists, func, or_, select

from shared.clock import add_seconds
from shared.database import Database
from shared.ids import lowest_id
from shared.models.ledger import Lot
from shared.models.notifications import Delivery, Event
from shared.models.operations import OPEN_LETTER, DeadLetter
from shared.models.types import UtcTime
from shared.notifications.outbox import EventType
from shared.notifications.outcomes import DLQ_OPERATION
from shared.operations.retention import EVENT_DAYS, EVENT_KEY, load_days
from shared.parameters import member_of

_BATCH = 500
_DAY_SECONDS = 86_400
_EXPIRING = f"{EventType.GRANT_EXPIRING}:"


def sweep(database: Database) -> int:
    """Forget a batch of the oldest events that are over; return how many.

    Kept are those that still wait for a try or a person, and those whose key keeps a lot from
    being told of twice. Raises Unavailable if the configuration makes no sense.
    """
    with database.transaction() as tx:
        days = load_days(tx, EVENT_KEY, EVENT_DAYS)
        if days == 0:
            return 0
        before = add_seconds(tx.now, -days * _DAY_SECONDS)
        ids = [row.id for row in tx.all(_OVER, before=f"msg_{lowest_id(before)}", now=tx.now)]
        if not ids:
            return 0
        tx.run(_FORGET_DELIVERIES, ids=ids)
        return tx.run(_FORGET_EVENTS, ids=ids)


_OF_EVENT = Delivery.event_id == Event.id
_HAS_LETTER = exists().where(
    DeadLetter.operation_type == DLQ_OPERATION, DeadLetter.subject_id == Delivery.id, OPEN_LETTER
)
_IS_WAITING = exists().where(_OF_EVENT, or_(Delivery.state == "new", _HAS_LETTER))
_IS_LOT_OPEN = and_(
    Event.type == EventType.GRANT_EXPIRING.value,
    exists().where(
        Lot.id == func.substr(Event.key, len(_EXPIRING) + 1),
        Lot.is_open,
        Lot.expires_at > bindparam("now", type_=UtcTime()),
    ),
)
# Ids are in the order of time, so the oldest are found without an index of their own.
_OVER = (
    select(Event.id)
    .where(Event.id < bindparam("before"), ~_IS_WAITING, ~_IS_LOT_OPEN)
    .order_by(Event.id)
    .limit(_BATCH)
)
# One that an operator retries meanwhile stays, and its event with it.
_FORGET_DELIVERIES = delete(Delivery).where(
    member_of(Delivery.event_id, "ids"), Delivery.state != "new"
)
_FORGET_EVENTS = delete(Event).where(member_of(Event.id, "ids"), ~exists().where(_OF_EVENT))
