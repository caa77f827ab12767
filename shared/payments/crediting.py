"""What a payment is worth in credits, and the one name under which it can be credited."""

from typing import Any

from sqlalchemy import Row, select, text

from shared.database import Tx, update_rows
from shared.ledger.commands import Mint
from shared.models.payments import CryptoPayment
from shared.money import CoinAmount, coin_to_micro

_TABLE = CryptoPayment.__table__
_PREFIXES = {"nowpayments": "nowpay", "x402": "x402"}


def source_id(provider: str, provider_payment_id: str) -> str:
    """Return the lot source of a payment: unique for ever, so it credits once (behaviour 12)."""
    return f"{_PREFIXES[provider]}-{provider_payment_id}"


def credit_of(
    *, status: str, price_amount: CoinAmount | None, price_currency: str, parent_id: str | None
) -> int | None:
    """Return the micro-USD that a payment in *status* is worth, or None if no rule can say.

    A finished payment of our own price in USD is worth its price (contract 6). A deposit that
    repeats another (*parent_id*) carries the other's price, so its price says nothing.
    """
    is_ours = parent_id is None and price_currency.lower() == "usd"
    if status != "finished" or not is_ours or price_amount is None:
        return None
    return coin_to_micro(price_amount) or None


def find_payment(tx: Tx, payment_id: str) -> Row[Any] | None:
    """Return the row of a NOWPayments payment by our id or theirs, locked; None if unknown."""
    return tx.first(_BY_ANY_ID, id=payment_id)


def link_lot(tx: Tx, payment_id: str, command: Mint) -> None:
    """Note on a payment that *command* credited it by hand."""
    row = {
        "id": payment_id,
        "lot_id": command.lot_id,
        "amount_usd_micro": command.amount_micro,
        "updated_at": tx.now,
    }
    update_rows(tx, _TABLE, [row])


_BY_ANY_ID = (
    select(*_TABLE.c)
    .where(
        CryptoPayment.provider == "nowpayments",
        (CryptoPayment.id == text(":id")) | (CryptoPayment.provider_payment_id == text(":id")),
    )
    .with_for_update()
)
