"""What a request to a model may cost: pure, in whole micro-USD, rounded up at every step."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from shared.errors import Invalid

TOKENS_MAX = 1_000_000_000
_PRICE_UNIT_TOKENS = 1000
_MULTIPLIER = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Prices of a model in micro-USD for 1,000 tokens."""

    input_micro: int
    output_micro: int


def read_prices(text: str) -> Mapping[str, ModelPrice]:
    """Read the price table of ``billing_config``. Raises ValueError if it makes no sense.

    Its form: ``{"gpt-4o": {"inputMicroPer1k": 2500, "outputMicroPer1k": 10000}}``.
    """
    try:
        table = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(table, dict):
        raise ValueError("it is not an object")  # noqa: TRY004  a bad value, not a bug
    prices = {}
    for model, price in table.items():
        known = price if isinstance(price, dict) else {}
        rates: list[Any] = [known.get("inputMicroPer1k"), known.get("outputMicroPer1k")]
        if not all(type(rate) is int and 0 <= rate < 10**12 for rate in rates):
            raise ValueError(f"{model} lacks whole micro-USD for 1k tokens")
        prices[model] = ModelPrice(*rates)
    return prices


def read_multiplier(text: str) -> Fraction:
    """Read the safety multiplier, an exact decimal from 1 to 100. Raises ValueError."""
    spelled = text.strip()
    if not _MULTIPLIER.fullmatch(spelled) or not 1 <= Fraction(spelled) <= 100:  # noqa: PLR2004
        raise ValueError(f"{spelled[:20]!r} is not a decimal from 1 to 100")
    return Fraction(spelled)


def estimate(
    prices: Mapping[str, ModelPrice],
    multiplier: Fraction,
    *,
    model: str,
    input_tokens: int,
    max_output_tokens: int,
) -> int:
    """Return the most that a request should cost, in micro-USD (behaviour 2; 189: W73).

    Each side is rounded up to a micro-USD, then their sum times the multiplier is rounded up:
    1,000 tokens at $0.01 for 1k and 1.1 are 11,000 exactly. Raises Invalid (``unknown_model``).
    """
    price = prices.get(model)
    if price is None:
        raise Invalid(
            f"There is no price for the model {model}.",
            code="unknown_model",
            details={"models": sorted(prices)},
        )
    cost = _div_ceil(price.input_micro * input_tokens, _PRICE_UNIT_TOKENS)
    cost += _div_ceil(price.output_micro * max_output_tokens, _PRICE_UNIT_TOKENS)
    return _div_ceil(cost * multiplier.numerator, multiplier.denominator)


def _div_ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
