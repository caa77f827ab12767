"""The one name under which a payment can be credited, and credits for payments by hand."""

from typing import Any

from sqlalchemy import Row, select, text

from shared.database import Tx, insert_rows, update_rows
from shared.ledger.commands import Mint
from shared.models.payments import CryptoPayment, PaymentCredit

_PREFIXES = {"nowpayments": "nowpay", "x402": "x402"}


def source_id(provider: str, provider_payment_id: str) -> str:
    """Return the lot source of a payment: unique for ever, so it credits once (behaviour 12)."""
    return f"{_PREFIXES[provider]}-{provider_payment_id}"


def name_of_transfer(tx: Tx, *, transaction: str, payer: str) -> tuple[str, Row[Any] | None]:
    """Return the name of what *payer* moved to us in *transaction*, and the payment that has it.

    A transaction may carry the transfers of several payers (a bundle of contract wallets, or
    somebody who sends another's authorization along with a transfer of his own): each is a payment
    of its own, or whoever comes first would take the others' place. The name is the transaction's
    hash, and for a second payer the hash and the payer.
    """
    together = f"{transaction}-{payer}"
    named = tx.all(_OF_TRANSACTION, alone=transaction, together=together)
    return (
        together if named else transaction,
        next((row for row in named if row.payer == payer), None),
    )


def find_payment(tx: Tx, payment_id: str) -> Row[Any] | None:
    """Return the row of a NOWPayments payment by our id or theirs, locked; None if unknown."""
    return tx.first(_BY_ANY_ID, id=payment_id)


def link_lot(tx: Tx, payment: Row[Any], command: Mint) -> None:
    """Note on a payment that *command* credited it by hand: then nothing else will."""
    credit = {
        "lot_id": command.lot_id,
        "payment_id": payment.id,
        "amount_micro": command.amount_micro,
        "basis": "admin",
        "created_at": tx.now,
    }
    insert_rows(tx, PaymentCredit.__table__, [credit])
    row = {
        "id": payment.id,
        "account_id": command.account_id,
        # What waited for a person was finished at the provider, and the person has decided.
        "status": "finished" if payment.status == "manual_review" else payment.status,
        "lot_id": command.lot_id,
        "amount_usd_micro": command.amount_micro,
        "review_reason": None,
        "updated_at": tx.now,
    }
    update_rows(tx, CryptoPayment.__table__, [row])


_OF_TRANSACTION = select(
    CryptoPayment.id, CryptoPayment.account_id, CryptoPayment.status, CryptoPayment.payer
).where(
    CryptoPayment.provider == "x402",
    (CryptoPayment.provider_payment_id == text(":alone"))
    | (CryptoPayment.provider_payment_id == text(":together")),
)
_BY_ANY_ID = (
    select(*CryptoPayment.__table__.c)
    .where(
        CryptoPayment.provider == "nowpayments",
        (CryptoPayment.id == text(":id")) | (CryptoPayment.provider_payment_id == text(":id")),
    )
    .with_for_update()
)
