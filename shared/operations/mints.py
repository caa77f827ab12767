"""Mints by an admin: once for each key or payment, audited, refused above the threshold alone."""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import select

from shared.database import Database, Tx, patiently
from shared.errors import Forbidden
from shared.ledger.book import post
from shared.ledger.commands import Mint, Outcome
from shared.ledger.terms import Terms, TermsCache
from shared.models.operations import ConfigRow
from shared.operations.audit import Actor, record
from shared.payments import crediting

FOUR_EYES_DEFAULT_MICRO = 1_000_000_000


@dataclass(frozen=True)
class MintOrder:
    """What an admin asks for. ``payment_id`` names the payment that the credits stand for."""

    account_id: str
    lot_id: str
    amount_micro: int
    source_type: str
    pool_id: str
    description: str | None = None
    payment_id: str | None = None
    idempotency_key: str | None = None


def mint(database: Database, terms: TermsCache, actor: Actor, order: MintOrder) -> Outcome:
    """Carry out *order* with its audit row in one transaction; a refusal is audited too (W67).

    A later notice of the same payment credits nothing, because both name one source.
    """
    return patiently(partial(_mint, database, terms.current(), actor, order))


def _mint(database: Database, terms: Terms, actor: Actor, order: MintOrder) -> Outcome:
    with database.transaction() as tx:
        payment = crediting.find_payment(tx, order.payment_id) if order.payment_id else None
        known_id = payment.provider_payment_id if payment is not None else order.payment_id
        command = Mint(
            account_id=order.account_id,
            lot_id=order.lot_id,
            amount_micro=order.amount_micro,
            source_type=order.source_type,
            source_id=crediting.source_id("nowpayments", known_id) if known_id else None,
            pool_id=order.pool_id,
            description=order.description,
            idempotency_key=order.idempotency_key,
        )
        outcome = _refuse_alone(tx, order) or post(tx, [command], terms)[0]
        if outcome.answer is not None and not outcome.is_replay and payment is not None:
            crediting.link_lot(tx, payment.id, command)
        if not outcome.is_replay:
            record(
                tx,
                actor,
                "admin_mint" if outcome.error is None else "admin_mint_refused",
                target_type="account",
                target_id=order.account_id,
                details={
                    "amountMicro": str(order.amount_micro),
                    "sourceType": order.source_type,
                    "paymentId": order.payment_id,
                    "lotId": outcome.answer["lotId"] if outcome.answer else None,
                    "refusedBecause": outcome.error.code if outcome.error else None,
                },
            )
    return outcome


def _refuse_alone(tx: Tx, order: MintOrder) -> Outcome | None:
    threshold = tx.scalar(_THRESHOLD)
    if order.amount_micro <= int(threshold or FOUR_EYES_DEFAULT_MICRO):
        return None
    return Outcome(
        error=Forbidden(
            "A mint of this size needs the approval of a second admin.",
            code="four_eyes_required",
            details={"thresholdMicro": str(threshold or FOUR_EYES_DEFAULT_MICRO)},
        )
    )


_THRESHOLD = select(ConfigRow.value).where(ConfigRow.key == "four_eyes_threshold_micro")
