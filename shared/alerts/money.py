"""Money at risk, in micro-USD: held, paid and not credited, put aside, owed, on its way."""

from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, func, select, text, union

from shared.database import Tx
from shared.models.ledger import Debt, Reservation
from shared.models.operations import DeadLetter
from shared.models.payments import PAID_NOT_CREDITED, CryptoPayment, WebhookEvent
from shared.models.types import UtcTime
from shared.models.x402 import Settlement
from shared.money import CoinAmount, coin_to_micro
from shared.payments.states import MONEY_STATUSES

KINDS = ("held", "uncredited", "dead_lettered", "debts", "pending_settlements")


def at_risk(tx: Tx) -> dict[str, int]:
    """Return how much there is of each kind. What a payment is worth is its price."""
    return {
        "held": int(tx.scalar(_HELD)),
        "uncredited": sum(uncredited(tx, before=tx.now).values()),
        "dead_lettered": sum(_prices(tx, _DEAD_LETTERED).values()),
        "debts": int(tx.scalar(_DEBTS)),
        "pending_settlements": sum(_prices(tx, _SETTLING).values()),
    }


def uncredited(tx: Tx, *, before: datetime) -> dict[str, int]:
    """Return the payments for which money has come, by *before*, and no lot: id and price.

    Those in ``manual_review`` are not among them: dead letters tell of these.
    """
    return _prices(tx, _UNCREDITED, before=before)


def _prices(tx: Tx, statement: Any, **parameters: Any) -> dict[str, int]:
    return {
        row.id: coin_to_micro(row.price_amount) if row.price_amount is not None else 0
        for row in tx.all(statement, **parameters)
    }


def _priced() -> Select[str, CoinAmount | None]:
    return select(CryptoPayment.id, CryptoPayment.price_amount)


_BEFORE = bindparam("before", type_=UtcTime())
_OPEN_LETTER = text("billing_dlq.status IN ('pending', 'processing', 'manual_review')")
_EVENT_OF_PAYMENT = and_(
    CryptoPayment.provider == WebhookEvent.provider,
    CryptoPayment.provider_payment_id == WebhookEvent.provider_payment_id,
)
_HELD = select(
    func.coalesce(func.sum(Reservation.total_reserved_micro - Reservation.overdraft_micro), 0)
).where(text("status = 'pending'"), Reservation.billing_mode != "shadow")
_DEBTS = select(func.coalesce(func.sum(Debt.debt_micro), 0)).where(text("resolved_at IS NULL"))
_UNCREDITED = union(
    _priced().where(PAID_NOT_CREDITED, CryptoPayment.updated_at <= _BEFORE),
    _priced()
    .join(WebhookEvent, _EVENT_OF_PAYMENT)
    .where(
        text("webhook_events.state = 'new'"),
        WebhookEvent.status.in_(sorted(MONEY_STATUSES)),
        WebhookEvent.received_at <= _BEFORE,
        CryptoPayment.lot_id.is_(None),
    ),
    _priced()
    .join(Settlement, Settlement.payment_id == CryptoPayment.id)
    .where(
        text("x402_settlements.state = 'new'"),
        Settlement.phase.in_(("settling", "confirming")),
        Settlement.created_at <= _BEFORE,
    ),
)
_DEAD_LETTERED = union(
    *(
        _priced()
        .join(DeadLetter, DeadLetter.subject_id == name)
        .where(_OPEN_LETTER, DeadLetter.operation_type == "deposit")
        for name in (CryptoPayment.id, CryptoPayment.payment_id)
    ),
    _priced()
    .join(WebhookEvent, _EVENT_OF_PAYMENT)
    .join(DeadLetter, DeadLetter.subject_id == WebhookEvent.id)
    .where(_OPEN_LETTER, DeadLetter.operation_type.in_(("webhook", "refund"))),
)
_SETTLING = (
    _priced()
    .join(Settlement, Settlement.payment_id == CryptoPayment.id)
    .where(text("x402_settlements.state = 'new'"))
)
