"""Open payments are read at the provider, so that a missed notice heals by itself (contract 6).

A reading is stored as a notice of our own asking; the intake does the rest, as with theirs.
"""

from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import bindparam, select, update

from shared.clock import add_seconds
from shared.database import Database, update_rows
from shared.errors import Unavailable
from shared.models.payments import CryptoPayment
from shared.models.types import UtcTime
from shared.money import CoinAmount
from shared.payments.inbox import store_notice
from shared.payments.providers.nowpayments import NowPayments
from shared.payments.providers.nowpayments_shapes import PaymentReading, is_identifier

log = structlog.get_logger()
BATCH = 10
_FIRST_LOOK_SECONDS = 600
_SHORTEST_SECONDS, _LONGEST_SECONDS = 120, 720  # so that whatever was missed heals in 15 minutes
_OPEN = frozenset({"waiting", "confirming", "confirmed", "sending", "partially_paid"})
# The address of one of these may still be paid, for about as long as providers watch it.
_MAY_COME_LATE = frozenset({"expired", "failed"})
_LATE_SECONDS, _LATE_LAST_DAYS = 3_600, 30
_DAY_SECONDS = 86_400
CLAIM_SECONDS = 60
_FORGOTTEN_SECONDS, _GIVEN_UP_SECONDS = 14 * _DAY_SECONDS, 90 * _DAY_SECONDS


def next_look(status: str, *, created_at: datetime, now: datetime) -> datetime | None:
    """Return when to read a payment in *status* next; None if its notices alone can change it.

    An open one after 10 minutes, then after a sixth of its age, at least every 12 minutes. One
    that is open for two weeks was forgotten by its payer or its provider: it is looked at daily,
    and after three months no more, so that such payments do not use up what may be read.
    """
    age = (now - created_at).total_seconds()
    if status in _OPEN and age >= _FORGOTTEN_SECONDS:
        return add_seconds(now, _DAY_SECONDS) if age < _GIVEN_UP_SECONDS else None
    if status in _OPEN:
        pause = min(max(age / 6, _SHORTEST_SECONDS), _LONGEST_SECONDS)
        return add_seconds(now, max(pause, _FIRST_LOOK_SECONDS - age))
    if status in _MAY_COME_LATE and age < timedelta(days=_LATE_LAST_DAYS).total_seconds():
        return add_seconds(now, max(age / 6, _LATE_SECONDS))
    return None


def poll(database: Database, provider: NowPayments) -> int:
    """Read the payments whose time has come, a bounded number; return how many were taken.

    To take one is to put its time off for a while, so that two pollers read different ones, and
    one that could not be read is due again soon. Raises Unavailable if there is such a one, after
    all were tried.
    """
    with database.transaction() as tx:
        due = tx.all(_DUE, now=tx.now)
        claimed = add_seconds(tx.now, CLAIM_SECONDS)
        update_rows(
            tx, CryptoPayment.__table__, [{"id": row.id, "next_poll_at": claimed} for row in due]
        )
    failure = None
    for row in due:
        try:
            look(database, provider, row.provider_payment_id)
            plan_next(database, row, claimed)
        except Unavailable as error:  # one answer without sense must not keep the others waiting
            failure = failure or error
    if failure is not None:
        raise failure
    return len(due)


def plan_next(database: Database, row: Any, claimed: datetime) -> None:
    """Set the time of the next look at *row*, unless it is not *claimed* any more."""
    with database.transaction() as tx:
        due_at = next_look(row.status, created_at=row.created_at, now=tx.now)
        still_claimed = update(CryptoPayment).where(
            CryptoPayment.id == row.id, CryptoPayment.next_poll_at == claimed
        )
        tx.run(still_claimed.values(next_poll_at=due_at))


def look(database: Database, provider: NowPayments, provider_payment_id: str) -> bool | None:
    """Read one payment and store what is told; True if that is news, None if there is none.

    There is none of what cannot be a number of theirs. Raises Unavailable if the provider is away.
    """
    if not is_identifier(provider_payment_id):
        return None
    reading = provider.read_payment(provider_payment_id)
    if reading is None:
        log.warning("payment_unknown_to_provider", provider_payment_id=provider_payment_id)
        return None
    with database.transaction() as tx:
        return store_notice(
            tx,
            provider="nowpayments",
            notice=notice_of(reading),
            raw_body=reading.raw.encode(),
            source="poll",
        )


def notice_of(reading: PaymentReading) -> dict[str, Any]:
    """Return *reading* as the notice that would tell the same."""
    return {
        name: f"{value:f}" if isinstance(value, CoinAmount) else value
        for name, value in vars(reading).items()
        if not isinstance(value, datetime) and name != "raw"
    }


_DUE = (
    select(
        CryptoPayment.id,
        CryptoPayment.provider_payment_id,
        CryptoPayment.status,
        CryptoPayment.created_at,
    )
    .where(
        CryptoPayment.provider == "nowpayments",
        CryptoPayment.provider_payment_id.is_not(None),
        CryptoPayment.next_poll_at <= bindparam("now", type_=UtcTime()),
    )
    .order_by(CryptoPayment.next_poll_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
