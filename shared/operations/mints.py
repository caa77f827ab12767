"""Mints by an admin: once for each key or payment, audited, refused above the threshold alone."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Row, select, text

from shared.database import Database, Tx, patiently
from shared.errors import Conflict, Forbidden, Unavailable
from shared.ledger.book import post
from shared.ledger.commands import Mint, Outcome
from shared.ledger.terms import Terms, TermsCache
from shared.models.ledger import Operation
from shared.models.operations import ConfigRow
from shared.operations import dlq
from shared.operations.audit import Actor, record
from shared.payments import crediting

FOUR_EYES_DEFAULT_MICRO = 1_000_000_000
_DIGITS_MAX = 18


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
        source_id = crediting.source_id("nowpayments", known_id) if known_id else None
        command = Mint(
            account_id=order.account_id,
            lot_id=order.lot_id,
            amount_micro=order.amount_micro,
            # What stands for a payment is a deposit: then both bear one name, unique for ever.
            source_type="deposit" if order.payment_id else order.source_type,
            source_id=source_id,
            pool_id=order.pool_id,
            description=order.description,
            # A key of its own: the notice's credit is refused as a second one, not repeated.
            idempotency_key=order.idempotency_key or (source_id and f"admin-{source_id}"),
        )
        outcome = (
            _refuse_payment(payment, command)
            or _refuse_alone(tx, command, terms)
            or post(tx, [command], terms)[0]
        )
        if outcome.answer is not None and not outcome.is_replay and payment is not None:
            crediting.link_lot(tx, payment, command)
            # Whatever a person had to decide about it is decided.
            dlq.complete(tx, "deposit", subject_id=payment.provider_payment_id)
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


def _refuse_payment(payment: Row[Any] | None, command: Mint) -> Outcome | None:
    """Refuse to mint for a payment that is another's, or that nobody can have paid yet."""
    if payment is None:
        return None
    if payment.account_id is not None and payment.account_id != command.account_id:
        return Outcome(
            error=Conflict("The payment is for another account.", code="payment_of_another_account")
        )
    if payment.provider_payment_id is None:
        return Outcome(
            error=Conflict(
                "The provider has not confirmed this payment, so nobody can have paid it.",
                code="payment_not_confirmed",
            )
        )
    return None


def _refuse_alone(tx: Tx, command: Mint, terms: Terms) -> Outcome | None:
    """Refuse what one admin may not mint alone.

    What was minted before is only repeated, and an amount above the ceiling is nobody's.
    """
    try:
        threshold = read_threshold(tx.scalar(_THRESHOLD) or str(FOUR_EYES_DEFAULT_MICRO))
    except ValueError as error:
        raise Unavailable(f"{error}.", code="config_invalid") from error
    if not threshold < command.amount_micro <= terms.ceiling_micro:
        return None
    if tx.first(_MINTED, account_id=command.account_id, key=command.key) is not None:
        return None
    return Outcome(
        error=Forbidden(
            "A mint of this size needs the approval of a second admin.",
            code="four_eyes_required",
            details={"thresholdMicro": str(threshold)},
        )
    )


def read_threshold(written: str) -> int:
    """Read ``four_eyes_threshold_micro``. Raises ValueError unless it is a whole number."""
    if not written.isascii() or not written.isdigit() or len(written) > _DIGITS_MAX:
        raise ValueError(f"four_eyes_threshold_micro is {written[:40]!r}, not a whole number")
    return int(written)


_THRESHOLD = select(ConfigRow.value).where(ConfigRow.key == "four_eyes_threshold_micro")
_MINTED = select(Operation.idempotency_key).where(
    Operation.account_id == text(":account_id"),
    Operation.operation == "mint",
    Operation.idempotency_key == text(":key"),
)
