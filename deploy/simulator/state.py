"""The payments in memory: created, moved between states and read, under one lock.

Nothing here knows HTTP. Callers get plain JSON objects (shapes.py), never a live payment.
"""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal

from deploy.simulator.clock import Clock
from deploy.simulator.prices import COINS, OUTCOME_CURRENCY, coin_amount
from deploy.simulator.shapes import Payment, created_shape, notice_shape, read_shape
from deploy.simulator.wire import JsonObject

STATUSES = (
    "waiting",
    "confirming",
    "confirmed",
    "sending",
    "partially_paid",
    "finished",
    "failed",
    "refunded",
    "expired",
)
_FULLY_PAID = {"confirming", "confirmed", "sending", "finished"}
_TOKEN_LIFE = timedelta(minutes=5)
_COIN_STEP = Decimal("1e-8")


class UnknownPayment(LookupError):
    """No payment has this number."""


@dataclass(frozen=True)
class Order:
    """What a caller asked for, checked: one payment to create."""

    price_amount: Decimal
    price_currency: str
    price_usd: Decimal
    pay_amount: Decimal
    pay_currency: str
    order_id: str | None
    order_description: str | None
    purchase_id: str | None
    callback_url: str | None
    is_fixed_rate: bool
    is_fee_paid_by_user: bool


@dataclass(frozen=True)
class Notice:
    """One notice to send: whose, about which status, where to, and what it says."""

    payment_id: int
    status: str
    callback_url: str | None
    body: JsonObject


class Book:
    """All payments of one run, and the login tokens given out."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._payments: dict[int, Payment] = {}
        self._tokens: dict[str, datetime] = {}

    def create(self, order: Order) -> JsonObject:
        """Store a new waiting payment; return the answer to its creation."""
        now = self._clock.now()
        with self._lock:
            payment = Payment(
                id=self._free_id(),
                parent_id=None,
                order_id=order.order_id,
                order_description=order.order_description,
                purchase_id=order.purchase_id or str(_ten_digits()),
                price_amount=order.price_amount,
                price_currency=order.price_currency,
                pay_usd=order.price_usd,
                pay_amount=order.pay_amount,
                pay_currency=order.pay_currency,
                # No wallet accepts this address, on purpose: nobody can lose coins to a simulator.
                pay_address=f"sim{order.pay_currency}{secrets.token_hex(16)}",
                callback_url=order.callback_url,
                is_fixed_rate=order.is_fixed_rate,
                is_fee_paid_by_user=order.is_fee_paid_by_user,
                created_at=now,
                updated_at=now,
            )
            self._payments[payment.id] = payment
            return created_shape(payment)

    def read(self, payment_id: int) -> JsonObject:
        """Return the answer to GET /payment/{id}. Raises UnknownPayment."""
        with self._lock:
            return read_shape(self._find(payment_id))

    def read_all(self, keep: Callable[[Payment], bool]) -> list[JsonObject]:
        """Return the payments that *keep* accepts, oldest first."""
        with self._lock:
            return [read_shape(one) for one in self._payments.values() if keep(one)]

    def advance(
        self,
        payment_id: int,
        status: str,
        *,
        actually_paid: Decimal | None = None,
        outcome_amount: Decimal | None = None,
        outcome_currency: str | None = None,
    ) -> Notice:
        """Move the payment to *status* and return the notice of it; amounts default sensibly."""
        with self._lock:
            payment = self._find(payment_id)
            payment.status = status
            payment.actually_paid = (
                _usual_payment(payment, status) if actually_paid is None else actually_paid
            )
            payment.given_outcome = outcome_amount
            payment.outcome_currency = outcome_currency or OUTCOME_CURRENCY
            # Two changes in one millisecond still get two times, so that they can be told apart.
            payment.updated_at = max(
                self._clock.now(), payment.updated_at + timedelta(milliseconds=1)
            )
            body = notice_shape(payment)
            payment.notices[status] = body
            return Notice(payment.id, status, payment.callback_url, body)

    def advance_by_share(self, payment_id: int, status: str, *, share: Decimal) -> Notice:
        """Move the payment to *status* with *share* of the asked amount paid."""
        with self._lock:
            asked = self._find(payment_id).pay_amount
        paid = (asked * share).quantize(_COIN_STEP, ROUND_DOWN)
        return self.advance(payment_id, status, actually_paid=paid)

    def notice_of(self, payment_id: int, status: str | None) -> Notice:
        """Return the notice of *status* (None: the present one) without changing the state.

        A status that the payment went through gives the very notice of that moment.
        """
        with self._lock:
            payment = self._find(payment_id)
            wanted = status or payment.status
            body = payment.notices.get(wanted)
            if body is None:
                paid = Decimal(0) if wanted == "waiting" else payment.actually_paid
                body = notice_shape(replace(payment, status=wanted, actually_paid=paid))
            return Notice(payment.id, wanted, payment.callback_url, dict(body))

    def deposit_again(self, parent_id: int, *, share: Decimal, same_coin: bool) -> int:
        """Record another deposit to the parent's address; return the new payment's number.

        As at the provider: own amounts, the parent's order, and still the full price.
        """
        now = self._clock.now()
        with self._lock:
            parent = self._find(parent_id)
            coin = parent.pay_currency if same_coin else _other_coin(parent.pay_currency)
            usd = parent.pay_usd * share
            child = replace(
                parent,
                id=self._free_id(),
                parent_id=parent.id,
                pay_usd=usd,
                pay_currency=coin,
                pay_amount=coin_amount(usd, COINS[coin].usd),
                actually_paid=Decimal(0),
                given_outcome=None,
                outcome_currency=OUTCOME_CURRENCY,
                status="waiting",
                created_at=now,
                updated_at=now,
                notices={},
            )
            self._payments[child.id] = child
            return child.id

    def issue_token(self) -> str:
        """Return a login token that is good for five minutes."""
        token = f"sim.{secrets.token_hex(16)}"
        with self._lock:
            now = self._clock.now()
            self._tokens = {old: end for old, end in self._tokens.items() if end > now}
            self._tokens[token] = now + _TOKEN_LIFE
        return token

    def accepts_token(self, token: str) -> bool:
        """Tell whether *token* was given out here and has not run out."""
        with self._lock:
            ends_at = self._tokens.get(token)
        return ends_at is not None and ends_at > self._clock.now()

    def _find(self, payment_id: int) -> Payment:
        payment = self._payments.get(payment_id)
        if payment is None:
            raise UnknownPayment(f"There is no payment {payment_id}.")
        return payment

    def _free_id(self) -> int:
        # Random, not counted up: a restarted simulator must not repeat numbers a database knows.
        while (number := _ten_digits()) in self._payments:
            pass
        return number


def _usual_payment(payment: Payment, status: str) -> Decimal:
    """Return what has been paid by the time a payment reaches *status*, if nobody says."""
    if status in _FULLY_PAID:
        return max(payment.actually_paid, payment.pay_amount)
    if status == "partially_paid" and not 0 < payment.actually_paid < payment.pay_amount:
        return (payment.pay_amount / 2).quantize(_COIN_STEP, ROUND_DOWN)
    return payment.actually_paid


def _other_coin(coin: str) -> str:
    return "ltc" if coin != "ltc" else "doge"


def _ten_digits() -> int:
    return 4_000_000_000 + secrets.randbelow(3_000_000_000)
