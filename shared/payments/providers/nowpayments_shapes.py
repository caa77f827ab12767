"""What NOWPayments answers, read into our shapes: ids as text, amounts as exact decimals.

Ids and amounts may come as text or as numbers (protocols 1.4). Every reader raises ValueError for
an answer that makes no sense; a field that decides about money is never guessed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.errors import Invalid
from shared.money import CoinAmount, parse_coin

_TEXT_MAX = 255
_SAID_MAX = 200
_NESTING_MAX = 5_000  # a page of 200 rows has a few hundred
_IDENTIFIER = re.compile(r"[0-9]{1,20}")
_STATUS_WORD = re.compile(r"[A-Za-z_]{1,32}")
_EPOCH_MILLISECONDS = re.compile(r"[0-9]{13}")
_TICKER = re.compile(r"[a-z0-9]{2,20}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class CreatedPayment:
    """What the provider answers to a new payment."""

    provider_payment_id: str
    status: str
    pay_address: str
    pay_amount: CoinAmount
    pay_currency: str
    expires_at: datetime | None
    raw: str


@dataclass(frozen=True)
class PaymentReading:
    """A payment as the provider shows it now: all that a notice of it would carry.

    ``payment_status`` is the provider's word, in lower case, also one that we do not know. With
    ``parent_payment_id`` it is a further deposit to an address, and ``price_amount`` says nothing
    of it (protocols 1.6). ``raw`` is the JSON that it was read from.
    """

    payment_id: str
    parent_payment_id: str | None
    invoice_id: str | None
    order_id: str | None
    order_description: str | None
    purchase_id: str | None
    payment_status: str
    price_amount: CoinAmount | None
    price_currency: str | None
    pay_amount: CoinAmount | None
    actually_paid: CoinAmount | None
    pay_currency: str | None
    pay_address: str | None
    payin_extra_id: str | None
    outcome_amount: CoinAmount | None
    outcome_currency: str | None
    payin_hash: str | None
    payout_hash: str | None
    created_at: datetime | None
    updated_at: datetime | None
    raw: str


@dataclass(frozen=True)
class PaymentPage:
    """One page of payments, and how many pages and payments there are."""

    payments: tuple[PaymentReading, ...]
    page: int
    pages_count: int
    total: int


@dataclass(frozen=True)
class Minimum:
    """The least that can be paid in a coin, in that coin and in USD (None if not told)."""

    coin_amount: CoinAmount
    usd_amount: CoinAmount | None


def is_identifier(text: object) -> bool:
    """Tell whether *text* can be the provider's id of a payment: 1 to 20 digits."""
    return isinstance(text, str) and _IDENTIFIER.fullmatch(text) is not None


def read_created(body: bytes, order_id: str) -> CreatedPayment:
    """Read the answer to the creation of *order_id*. One for another order makes no sense."""
    fields = _object(body)
    if fields.get("order_id") not in (None, order_id):
        raise ValueError("the answer is for another order")
    return CreatedPayment(
        provider_payment_id=_identifier(fields.get("payment_id")),
        status=_status(fields.get("payment_status")),
        pay_address=_needed(fields.get("pay_address")),
        pay_amount=_needed_amount(fields.get("pay_amount")),
        pay_currency=_needed(fields.get("pay_currency")).lower(),
        expires_at=_moment(fields.get("expiration_estimate_date")),
        raw=body.decode(),
    )


def read_payment(body: bytes) -> PaymentReading:
    """Read the answer to the reading of one payment."""
    return _reading(_object(body), body.decode())


def read_page(body: bytes) -> PaymentPage:
    """Read one page of a listing; a row that makes no sense spoils it, for it might be the one."""
    fields = _object(body)
    rows = fields.get("data")
    if not isinstance(rows, list):
        raise ValueError("a page without rows")  # noqa: TRY004  callers catch one kind
    return PaymentPage(
        payments=tuple(_reading(_mapping(row), json.dumps(row)) for row in rows),
        page=_count(fields.get("page")),
        pages_count=_count(fields.get("pagesCount")),
        total=_count(fields.get("total")),
    )


def read_estimate(body: bytes) -> CoinAmount:
    """Read what an amount is in another currency."""
    return _needed_amount(_object(body).get("estimated_amount"))


def read_minimum(body: bytes) -> Minimum:
    """Read the least amount of a coin."""
    fields = _object(body)
    return Minimum(
        coin_amount=_needed_amount(fields.get("min_amount")),
        usd_amount=_amount(fields.get("fiat_equivalent")),
    )


def read_currencies(body: bytes) -> tuple[str, ...]:
    """Read the tickers, in lower case and in the provider's order."""
    tickers = _object(body).get("currencies")
    if not isinstance(tickers, list):
        raise ValueError("no list of currencies")  # noqa: TRY004  callers catch one kind
    named = [one.lower() for one in tickers if isinstance(one, str)]
    return tuple(one for one in named if _TICKER.fullmatch(one))


def read_token(body: bytes) -> str:
    """Read the token of a login."""
    token = _needed(_object(body).get("token"), longest=4096)
    if not token.isascii():
        raise ValueError("a token that no header can carry")
    return token


def is_healthy(body: bytes) -> bool:
    """Tell whether an answer to ``GET /status`` says OK (behaviour 93)."""
    return _object(body).get("message") == "OK"


def said(body: bytes) -> str | None:
    """Return the words of an error, safe to show and to store, or None if it has none."""
    try:
        fields = _object(body)
    except ValueError:
        return None
    words = fields.get("message") or fields.get("code")
    if not isinstance(words, str):
        return None
    return "".join(letter for letter in words if letter.isprintable())[:_SAID_MAX] or None


def _object(body: bytes) -> dict[str, Any]:
    # Some libraries raise the recursion limit of the whole process (py_ecc: to 100,000); then a
    # deep enough text crashes it before Python can object.
    if body.count(b"[") + body.count(b"{") > _NESTING_MAX:
        raise ValueError("too deep")
    try:
        return _mapping(json.loads(body.decode(), parse_float=str, parse_int=str))
    except RecursionError as error:
        raise ValueError("too deep") from error


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  callers catch one kind
    return value


def _reading(fields: Mapping[str, Any], raw: str) -> PaymentReading:
    parent = fields.get("parent_payment_id")
    return PaymentReading(
        payment_id=_identifier(fields.get("payment_id")),
        parent_payment_id=None if parent in (None, "") else _identifier(parent),
        invoice_id=_text(fields.get("invoice_id")),
        order_id=_text(fields.get("order_id")),
        order_description=_text(fields.get("order_description")),
        purchase_id=_text(fields.get("purchase_id")),
        payment_status=_status(fields.get("payment_status")),
        price_amount=_amount(fields.get("price_amount")),
        price_currency=_currency(fields.get("price_currency")),
        pay_amount=_amount(fields.get("pay_amount")),
        actually_paid=_amount(fields.get("actually_paid")),
        pay_currency=_currency(fields.get("pay_currency")),
        pay_address=_text(fields.get("pay_address")),
        payin_extra_id=_text(fields.get("payin_extra_id")),
        outcome_amount=_amount(fields.get("outcome_amount")),
        outcome_currency=_currency(fields.get("outcome_currency")),
        payin_hash=_text(fields.get("payin_hash")),
        payout_hash=_text(fields.get("payout_hash")),
        created_at=_moment(fields.get("created_at")),
        updated_at=_moment(fields.get("updated_at")),
        raw=raw,
    )


def _identifier(value: Any) -> str:
    if not is_identifier(value):
        raise ValueError("a payment id has 1 to 20 digits")
    return str(value)


def _status(value: Any) -> str:
    if not isinstance(value, str) or _STATUS_WORD.fullmatch(value) is None:
        raise ValueError("a status is a word")
    return value.lower()


def _needed(value: Any, *, longest: int = _TEXT_MAX) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= longest:
        raise ValueError("not a text that can be shown")
    return value


def _text(value: Any) -> str | None:
    """Return a text that is only shown or compared; one that cannot be stored counts as none."""
    try:
        return _needed(value)
    except ValueError:
        return None


def _currency(value: Any) -> str | None:
    return None if value in (None, "") else _needed(value).lower()


def _needed_amount(value: Any) -> CoinAmount:
    try:
        return parse_coin(value)
    except Invalid as error:
        raise ValueError("not an amount") from error


def _amount(value: Any) -> CoinAmount | None:
    return None if value in (None, "") else _needed_amount(value)


def _count(value: Any) -> int:
    return int(_identifier(value))  # digits, and not without end


def _moment(value: Any) -> datetime | None:
    """Return an instant told as ISO text or in milliseconds since 1970 (protocols 1.6), or None.

    It is only told to people, so an odd one must not cost the payment.
    """
    try:
        if _EPOCH_MILLISECONDS.fullmatch(value):
            return _EPOCH + timedelta(milliseconds=int(value))
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
