"""Check what callers send to the provider API, and refuse it in the provider's words."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from deploy.simulator.notices import is_loopback_url
from deploy.simulator.prices import COINS, MINIMUM_USD, coin_amount, usd_price
from deploy.simulator.state import Order
from deploy.simulator.wire import JsonObject, js_number

_LARGEST_AMOUNT = Decimal(10**9)


class Refusal(Exception):
    """The provider says no: the HTTP status, its code and its message."""

    def __init__(self, http_status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code
        self.message = message

    def as_json(self) -> JsonObject:
        """Return the provider's error body."""
        return {
            "status": False,
            "statusCode": self.http_status,
            "code": self.code,
            "message": self.message,
        }


def bad_request(message: str) -> Refusal:
    """Return the refusal of a malformed call."""
    return Refusal(400, "BAD_REQUEST", message)


def order_from(asked: Mapping[str, Any]) -> Order:
    """Return the order in a POST /payment body. Raises Refusal; unknown fields are ignored."""
    price_amount = _amount(asked, "price_amount")
    if price_amount is None:
        raise bad_request("price_amount is required")
    price_currency, price_usd = currency_from(asked, "price_currency")
    pay_currency, coin_usd = currency_from(asked, "pay_currency", coins_only=True)
    worth = price_amount * price_usd
    pay_amount = _amount(asked, "pay_amount") or coin_amount(worth, coin_usd)
    if pay_amount * coin_usd < MINIMUM_USD:
        message = f"Crypto amount {js_number(pay_amount)} is less than minimal"
        raise Refusal(400, "AMOUNT_MINIMAL_ERROR", message)
    callback_url = _text(asked, "ipn_callback_url")
    if callback_url is not None and not is_loopback_url(callback_url):
        raise bad_request("ipn_callback_url must be a loopback address: this is a simulator")
    return Order(
        price_amount=price_amount,
        price_currency=price_currency,
        price_usd=worth,
        pay_amount=pay_amount,
        pay_currency=pay_currency,
        order_id=_text(asked, "order_id"),
        order_description=_text(asked, "order_description"),
        purchase_id=_text(asked, "purchase_id"),
        callback_url=callback_url,
        is_fixed_rate=_flag(asked, "is_fixed_rate"),
        is_fee_paid_by_user=_flag(asked, "is_fee_paid_by_user"),
    )


def currency_from(
    asked: Mapping[str, Any], name: str, *, coins_only: bool = False
) -> tuple[str, Decimal]:
    """Return (currency in lower case, its price in USD) named by field *name*."""
    text = _text(asked, name)
    if not text:
        raise bad_request(f"{name} is required")
    currency = text.lower()
    price = usd_price(currency)
    if price is None or (coins_only and currency not in COINS):
        raise bad_request(f"Currency {currency.upper()} was not found")
    return currency, price


def decimal_from(value: Any) -> Decimal | None:
    """Return *value* (a JSON number, or text of one) as a finite Decimal >= 0, else None."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number < _LARGEST_AMOUNT else None


def _amount(asked: Mapping[str, Any], name: str) -> Decimal | None:
    value = asked.get(name)
    if value is None:
        return None
    # Text is refused here though decimal_from would read it: the provider documents a number.
    number = None if isinstance(value, str) else decimal_from(value)
    if number is None or number == 0:
        raise bad_request(f"{name} must be a positive number")
    return number


def _text(asked: Mapping[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > 1000):
        raise bad_request(f"{name} must be a string")
    return value


def _flag(asked: Mapping[str, Any], name: str) -> bool:
    value = asked.get(name, False)
    if not isinstance(value, bool):
        raise bad_request(f"{name} must be a boolean")
    return value
