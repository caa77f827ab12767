"""A mint that somebody ordered: checked against its payment, carried out once, audited."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from shared.database import Tx
from shared.errors import Conflict
from shared.ledger import book
from shared.ledger.commands import Mint, Outcome
from shared.ledger.terms import Terms
from shared.operations import dlq
from shared.operations.audit import Actor, record
from shared.payments import crediting
from shared.payments.telling import tell_deposit


@dataclass(frozen=True)
class MintOrder:
    """What is asked for. ``payment_id`` names the payment that the credits stand for."""

    account_id: str
    lot_id: str
    amount_micro: int
    source_type: str
    pool_id: str
    description: str | None = None
    payment_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Prepared:
    """An order as the ledger's command, and its payment's row if we know it, locked."""

    order: MintOrder
    command: Mint
    payment: Row[Any] | None


def prepare(tx: Tx, order: MintOrder) -> Prepared:
    """Lock the payment of *order*, if it names one, and name the source of the credits.

    A later notice of the same payment credits nothing, because both name one source.
    """
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
    return Prepared(order, command, payment)


def rehearse(tx: Tx, prepared: Prepared, terms: Terms) -> Outcome:
    """Return what would become of an order now. Nothing is written; its account stays locked."""
    return _refuse_payment(prepared) or book.rehearse(tx, prepared.command, terms)


def carry_out(tx: Tx, actor: Actor, prepared: Prepared, terms: Terms, **details: Any) -> Outcome:
    """Mint, or refuse; both are audited, so the caller commits either.

    *details* are more facts for the audit row.
    """
    payment, command = prepared.payment, prepared.command
    outcome = _refuse_payment(prepared) or book.post(tx, [command], terms)[0]
    if outcome.is_replay:
        return outcome
    if outcome.answer is not None and payment is not None:
        crediting.link_lot(tx, payment, command)
        # Whatever a person had to decide about it is decided.
        dlq.complete(tx, "deposit", subject_id=payment.provider_payment_id)
    order = prepared.order
    if outcome.answer is not None and command.source_type == "deposit":
        tell_deposit(
            tx,
            account_id=order.account_id,
            lot_id=command.lot_id,
            amount_micro=order.amount_micro,
            source="admin",
            payment_id=payment.id if payment is not None else None,
        )
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
            **details,
        },
    )
    return outcome


def _refuse_payment(prepared: Prepared) -> Outcome | None:
    """Refuse to mint for a payment that is another's, or that nobody can have paid yet."""
    payment = prepared.payment
    if payment is None:
        return None
    if payment.account_id is not None and payment.account_id != prepared.order.account_id:
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
