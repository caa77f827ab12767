"""Money is an int of micro-USD (1 USD = 1,000,000). Parsing, shares and display, all pure."""

import re
from decimal import Decimal, InvalidOperation

from shared.errors import Invalid

MICRO_PER_USD = 1_000_000
BPS_WHOLE = 10_000
# The largest amount of one request, and the largest sum that a 64-bit column must hold
# (contract 4.8: sixteen digits; PostgreSQL bigint holds nineteen).
MAX_AMOUNT_MICRO = 9_999_999_999_999_999
DEFAULT_CEILING_MICRO = 1_000_000_000_000

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,15})")
_USD = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")
_COIN = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_COIN_EXPONENT_LIMIT = 60

CoinAmount = Decimal
"""An amount of a coin at a provider's edge. Never money of ours."""


def parse_amount(text: object) -> int:
    """Read an amount in micro-USD from the wire: text of at most 16 digits, no sign (contract 4.8).

    Raises Invalid (``invalid_amount``) for anything else: numbers, signs, spaces, leading zeros.
    """
    if not isinstance(text, str) or _AMOUNT.fullmatch(text) is None:
        raise Invalid(
            "An amount is text of 1 to 16 digits without sign or leading zeros, in micro-USD.",
            code="invalid_amount",
        )
    return int(text)


def parse_usd(text: object) -> int:
    """Read dollars such as ``"25.00"`` into micro-USD, exactly (at most 6 decimals).

    Raises Invalid (``invalid_amount``) for anything that is not such text.
    """
    if not isinstance(text, str) or _USD.fullmatch(text) is None:
        raise Invalid('Dollars are text such as "25.00".', code="invalid_amount")
    whole, _, fraction = text.partition(".")
    return int(whole) * MICRO_PER_USD + int(fraction.ljust(6, "0") or "0")


def format_usd(amount_micro: int) -> str:
    """Write micro-USD for people: half-up to cents, sign before ``$`` (behaviour 4: $1.01)."""
    cents = (abs(amount_micro) + 5_000) // 10_000
    sign = "-" if amount_micro < 0 and cents else ""
    return f"{sign}${cents // 100}.{cents % 100:02d}"


def usd_text(amount_micro: int) -> str:
    """Write micro-USD as exact dollars with at least two decimals: 25000000 -> ``25.00``."""
    whole, fraction = divmod(amount_micro, MICRO_PER_USD)
    return f"{whole}.{f'{fraction:06d}'.rstrip('0').ljust(2, '0')}"


def bps_share(amount_micro: int, rate_bps: int) -> int:
    """Return floor(amount x rate / 10,000): a share never takes more than its part."""
    return amount_micro * rate_bps // BPS_WHOLE


def parse_coin(text: object) -> CoinAmount:
    """Read a provider's coin amount (text or a number's exact token). Raises Invalid."""
    spelled = str(text) if isinstance(text, (str, int)) and not isinstance(text, bool) else ""
    if _COIN.fullmatch(spelled) is None:
        raise Invalid("A coin amount is a decimal number, not negative.", code="invalid_amount")
    try:
        value = Decimal(spelled)
    except InvalidOperation as error:  # an exponent beyond what Decimal holds
        raise Invalid("A coin amount is out of range.", code="invalid_amount") from error
    if value and abs(value.adjusted()) > _COIN_EXPONENT_LIMIT:
        raise Invalid("A coin amount is out of range.", code="invalid_amount")
    return value


def coin_to_micro(dollars: CoinAmount) -> int:
    """Turn a dollar amount of a provider into micro-USD, rounded down: never credit too much."""
    numerator, denominator = dollars.as_integer_ratio()  # a Decimal product would be rounded
    return numerator * MICRO_PER_USD // denominator
