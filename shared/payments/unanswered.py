"""Payments whose creation was never answered: looked up at the provider by our order (contract 6).

An order that the provider may have heard of is never sent again; its listing tells whether a
payment of it exists.
"""

from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import bindparam, select, update

from shared.clock import add_seconds
from shared.database import Database, update_rows
from shared.errors import Unavailable
from shared.models.payments import CryptoPayment
from shared.models.types import UtcTime
from shared.operations import dlq
from shared.payments.inbox import store_notice
from shared.payments.polling import next_look, notice_of
from shared.payments.providers.nowpayments import NowPayments
from shared.payments.providers.nowpayments_shapes import PaymentReading

log = structlog.get_logger()
BATCH = 5
_AGAIN_SECONDS = 600
# A listing that shows nothing for so long shows that nothing was made.
_NEVER_MADE_AFTER = timedelta(hours=1)
_ASK_A_PERSON_AFTER = timedelta(hours=24)


def search(database: Database, provider: NowPayments) -> int:
    """Look up payments that are due, a bounded number; return how many were taken.

    Raises Unavailable, after all were tried, if the provider is away or if its listing is not
    configured: then what is older than a day is left to a person.
    """
    with database.transaction() as tx:
        due = tx.all(_DUE, now=tx.now)
        again = add_seconds(tx.now, _AGAIN_SECONDS)
        update_rows(
            tx, CryptoPayment.__table__, [{"id": row.id, "next_poll_at": again} for row in due]
        )
        for row in due:
            if tx.now - row.created_at > _ASK_A_PERSON_AFTER:
                _ask_a_person(tx, row, "The provider's answer to its creation is still unknown.")
    failure = None
    for row in due:
        try:
            _look_up(database, provider, row)
        except Unavailable as error:  # others may need no listing
            failure = failure or error
    if failure is not None:
        raise failure
    return len(due)


def _look_up(database: Database, provider: NowPayments, row: Any) -> None:
    if row.order_id is None:
        _never_made(database, row, "Nobody asked for it again.")
    else:
        found = provider.find_by_order_id(row.order_id, created_around=row.updated_at)
        _note(database, row, found)


def _note(database: Database, row: Any, found: tuple[PaymentReading, ...]) -> None:
    if len(found) == 1:
        _made(database, row, found[0])
        return
    with database.transaction() as tx:
        if found:
            numbers = ", ".join(reading.payment_id for reading in found)
            _ask_a_person(tx, row, f"The provider has several payments of this order: {numbers}.")
            return
        is_sure = tx.now - row.updated_at > _NEVER_MADE_AFTER
    if is_sure:
        _never_made(database, row, "The provider has made no payment of it.")


def _made(database: Database, row: Any, reading: PaymentReading) -> None:
    """Take over the payment that was made, and let the intake apply what it shows."""
    with database.transaction() as tx:
        values = {
            "provider_payment_id": reading.payment_id,
            "status": "waiting",
            "pay_address": reading.pay_address,
            "pay_amount": reading.pay_amount,
            "raw_payload": reading.raw,
            "next_poll_at": next_look("waiting", created_at=row.created_at, now=tx.now),
            "updated_at": tx.now,
        }
        if not tx.run(_UNANSWERED.values(**values), payment=row.id):
            return  # its notice was faster
        store_notice(
            tx,
            provider="nowpayments",
            notice=notice_of(reading),
            raw_body=reading.raw.encode(),
            source="poll",
        )
        dlq.complete(tx, "deposit", subject_id=row.id)
    log.info("payment_found", payment_id=row.id, provider_payment_id=reading.payment_id)


def _never_made(database: Database, row: Any, reason: str) -> None:
    with database.transaction() as tx:
        if tx.now - row.updated_at <= _NEVER_MADE_AFTER:
            return
        values = {
            "provider_payment_id": f"refused-{row.id}",
            "status": "failed",
            "review_reason": reason,
            "next_poll_at": None,
            "updated_at": tx.now,
        }
        # Whoever has its key may have sent it since it was looked at: then it is not the same row.
        unchanged = _UNANSWERED.where(CryptoPayment.updated_at == row.updated_at)
        if tx.run(unchanged.values(**values), payment=row.id):
            dlq.complete(tx, "deposit", subject_id=row.id)


def _ask_a_person(tx: Any, row: Any, reason: str) -> None:
    facts = {"paymentId": row.id, "orderId": row.order_id}
    dlq.enter(tx, "deposit", subject_id=row.id, payload=facts, error=reason, needs_person=True)


_DUE = (
    select(
        CryptoPayment.id,
        CryptoPayment.order_id,
        CryptoPayment.created_at,
        CryptoPayment.updated_at,
    )
    .where(
        CryptoPayment.provider == "nowpayments",
        CryptoPayment.provider_payment_id.is_(None),
        CryptoPayment.status == "creating",
        CryptoPayment.next_poll_at <= bindparam("now", type_=UtcTime()),
    )
    .order_by(CryptoPayment.next_poll_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
_UNANSWERED = update(CryptoPayment).where(
    CryptoPayment.id == bindparam("payment"),
    CryptoPayment.status == "creating",
    CryptoPayment.provider_payment_id.is_(None),
)
