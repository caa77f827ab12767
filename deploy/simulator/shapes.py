"""A payment, and the three JSON shapes it has at the provider: created, read, and notice.

The provider is not consistent (payment_id is text at creation, a number later); nor is this.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from deploy.simulator.prices import COINS, OUTCOME_CURRENCY, outcome_of
from deploy.simulator.wire import JsonObject

_FIXED_RATE_LIFE = timedelta(minutes=20)
_PAYMENT_LIFE = timedelta(days=7)


@dataclass
class Payment:
    """One payment. *pay_usd* is what *pay_amount* is worth; the rest is named as in the API."""

    id: int
    parent_id: int | None
    order_id: str | None
    order_description: str | None
    purchase_id: str
    price_amount: Decimal
    price_currency: str
    pay_usd: Decimal
    pay_amount: Decimal
    pay_currency: str
    pay_address: str
    callback_url: str | None
    is_fixed_rate: bool
    is_fee_paid_by_user: bool
    created_at: datetime
    updated_at: datetime
    status: str = "waiting"
    actually_paid: Decimal = Decimal(0)
    given_outcome: Decimal | None = None
    outcome_currency: str = OUTCOME_CURRENCY
    notices: dict[str, JsonObject] = field(default_factory=dict)


def created_shape(payment: Payment) -> JsonObject:
    """Return the answer to POST /payment."""
    coin = COINS[payment.pay_currency]
    valid_for = _FIXED_RATE_LIFE if payment.is_fixed_rate else _PAYMENT_LIFE
    return {
        "payment_id": str(payment.id),
        "payment_status": payment.status,
        "pay_address": payment.pay_address,
        "price_amount": payment.price_amount,
        "price_currency": payment.price_currency,
        "pay_amount": payment.pay_amount,
        "pay_currency": payment.pay_currency,
        "order_id": payment.order_id,
        "order_description": payment.order_description,
        "ipn_callback_url": payment.callback_url,
        "created_at": iso_text(payment.created_at),
        "updated_at": iso_text(payment.updated_at),
        "purchase_id": payment.purchase_id,
        "amount_received": None,
        "payin_extra_id": None,
        "smart_contract": coin.contract,
        "network": coin.network,
        "network_precision": coin.decimals,
        "time_limit": None,
        "burning_percent": None,
        "expiration_estimate_date": iso_text(payment.created_at + _FIXED_RATE_LIFE),
        "is_fixed_rate": payment.is_fixed_rate,
        "is_fee_paid_by_user": payment.is_fee_paid_by_user,
        "valid_until": iso_text(payment.created_at + valid_for),
        "type": "crypto2crypto",
    }


def read_shape(payment: Payment) -> JsonObject:
    """Return the answer to GET /payment/{id}."""
    outcome_amount, _ = _outcome(payment)
    purchase = payment.purchase_id
    return {
        "payment_id": payment.id,
        "invoice_id": None,
        "payment_status": payment.status,
        "pay_address": payment.pay_address,
        "payin_extra_id": None,
        "price_amount": payment.price_amount,
        "price_currency": payment.price_currency,
        "pay_amount": payment.pay_amount,
        "actually_paid": payment.actually_paid,
        "pay_currency": payment.pay_currency,
        "order_id": payment.order_id,
        "order_description": payment.order_description,
        "purchase_id": int(purchase) if purchase.isascii() and purchase.isdecimal() else purchase,
        "outcome_amount": outcome_amount,
        "outcome_currency": payment.outcome_currency,
        "payout_hash": None,
        "payin_hash": None,
        "created_at": iso_text(payment.created_at),
        "updated_at": iso_text(payment.updated_at),
        "burning_percent": None,
        "type": "crypto2crypto",
        "payment_extra_ids": [],
        "parent_payment_id": payment.parent_id,
        "origin_type": "deposit" if payment.parent_id else "payment",
    }


def notice_shape(payment: Payment) -> JsonObject:
    """Return the body of the notice about the payment as it stands."""
    outcome_amount, service_fee = _outcome(payment)
    return {
        "payment_id": payment.id,
        "parent_payment_id": payment.parent_id,
        "invoice_id": None,
        "payment_status": payment.status,
        "pay_address": payment.pay_address,
        "payin_extra_id": None,
        "price_amount": payment.price_amount,
        "price_currency": payment.price_currency,
        "pay_amount": payment.pay_amount,
        "actually_paid": payment.actually_paid,
        "actually_paid_at_fiat": 0,
        "pay_currency": payment.pay_currency,
        "order_id": payment.order_id,
        "order_description": payment.order_description,
        "purchase_id": payment.purchase_id,
        "outcome_amount": outcome_amount,
        "outcome_currency": payment.outcome_currency,
        "payment_extra_ids": None,
        "fee": {
            "currency": OUTCOME_CURRENCY,
            "depositFee": 0,
            "withdrawalFee": 0,
            "serviceFee": service_fee,
        },
        "updated_at": _epoch_milliseconds(payment.updated_at),
    }


def iso_text(moment: datetime) -> str:
    """Print *moment* as JavaScript's toISOString does."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _epoch_milliseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _outcome(payment: Payment) -> tuple[Decimal, Decimal]:
    """Return (outcome, service fee): of what was paid, or, like the provider, an estimate first."""
    paid = payment.actually_paid or payment.pay_amount
    outcome, fee = outcome_of(payment.pay_usd * paid / payment.pay_amount)
    return (outcome if payment.given_outcome is None else payment.given_outcome), fee
