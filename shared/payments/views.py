"""Payments as callers see them."""

from typing import Any

from sqlalchemy import Row, select, text

from shared.clock import to_wire
from shared.database import Tx
from shared.errors import NotFound
from shared.models.payments import CryptoPayment, PaymentCredit
from shared.money import CoinAmount, coin_to_micro, usd_text

# Coins whose wallets read "scheme:address?amount=" (BIP 21, Solana Pay); others get the address.
_URI_SCHEMES = {
    "btc": "bitcoin",
    "bch": "bitcoincash",
    "doge": "dogecoin",
    "ltc": "litecoin",
    "sol": "solana",
}


def show_payment(tx: Tx, payment_id: str, *, account_id: str | None = None) -> dict[str, Any]:
    """Return a payment as callers see it, by our id or the provider's.

    Raises NotFound (``payment_not_found``), also for a payment of another account.
    """
    row = find_row(tx, payment_id)
    if account_id is not None and row.account_id != account_id:
        raise _not_found()
    return describe(tx, row)


def find_row(tx: Tx, payment_id: str) -> Row[Any]:
    """Return a payment's row by our id or the provider's. Raises NotFound."""
    row = tx.first(_BY_ID, id=payment_id)
    if row is None:
        raise _not_found()
    return row


def describe(tx: Tx, row: Row[Any]) -> dict[str, Any]:
    """Write the payment *row* with its credits."""
    credited = tx.all(_CREDITS, id=row.id) if row.lot_id is not None else []
    return {
        "paymentId": row.id,
        "provider": row.provider,
        "providerPaymentId": row.provider_payment_id,
        "accountId": row.account_id,
        "status": row.status,
        "priceAmount": _dollars(row.price_amount),
        "priceCurrency": row.price_currency,
        "packId": row.pack_id,
        "payAddress": row.pay_address,
        "payAmount": _coin(row.pay_amount),
        "payCurrency": row.pay_currency,
        "qrData": qr_data(row.pay_currency, row.pay_address, _coin(row.pay_amount)),
        "actuallyPaid": _coin(row.actually_paid),
        "creditedMicro": str(row.amount_usd_micro) if row.amount_usd_micro else None,
        "lotId": row.lot_id,
        "credits": [
            {
                "lotId": one.lot_id,
                "amountMicro": str(one.amount_micro),
                "basis": one.basis,
                "rate": _coin(one.rate),
            }
            for one in credited
        ],
        "reviewReason": row.review_reason,
        "createdAt": to_wire(row.created_at),
        "expiresAt": to_wire(row.expires_at) if row.expires_at else None,
        "finishedAt": to_wire(row.finished_at) if row.finished_at else None,
    }


def qr_data(pay_currency: str | None, address: str | None, amount: str | None) -> str | None:
    """Return what a QR code of the payment says, so that a wallet fills in address and amount."""
    scheme = _URI_SCHEMES.get(pay_currency or "")
    if scheme is None or address is None or amount is None:
        return address
    return f"{scheme}:{address}?amount={amount}"


def _dollars(amount: CoinAmount | None) -> str | None:
    return None if amount is None else usd_text(coin_to_micro(amount))


def _coin(amount: Any) -> str | None:
    return None if amount is None else f"{amount:f}"


def _not_found() -> NotFound:
    return NotFound("Payment not found.", code="payment_not_found")


_BY_ID = (
    select(*CryptoPayment.__table__.c)
    .where((CryptoPayment.id == text(":id")) | (CryptoPayment.provider_payment_id == text(":id")))
    .order_by(CryptoPayment.provider)
)
_CREDITS = (
    select(
        PaymentCredit.lot_id, PaymentCredit.amount_micro, PaymentCredit.basis, PaymentCredit.rate
    )
    .where(PaymentCredit.payment_id == text(":id"))
    .order_by(PaymentCredit.created_at, PaymentCredit.lot_id)
)
