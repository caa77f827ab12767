"""Credit packs: a price in USD buys credits with a bonus (behaviour 7.7). Pure, integers only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from shared.errors import Invalid
from shared.ledger.estimates import read_multiplier
from shared.money import BPS_WHOLE, bps_share

MAX_PRICE_MICRO = 1_000_000_000_000_000
LEAST_CREDITS_MICRO = 1_000
_LOWEST_MARKUP, _HIGHEST_MARKUP = 1, 10


@dataclass(frozen=True, slots=True)
class Pack:
    """What is sold: for ``price_micro`` the buyer gets ``credit_micro``."""

    id: str
    price_micro: int
    bonus_bps: int
    credit_micro: int


def credits_for(price_micro: int, *, markup: Fraction, bonus_bps: int) -> int:
    """Return floor(price / markup), and on that the bonus, floored (behaviours 7.7 and 98).

    Raises ValueError for a price, markup or bonus out of range, or less than 1,000 micro-USD.
    """
    if not 0 < price_micro <= MAX_PRICE_MICRO:
        raise ValueError(f"a price of {price_micro} is not from 1 to {MAX_PRICE_MICRO} micro-USD")
    if not _LOWEST_MARKUP <= markup <= _HIGHEST_MARKUP:
        raise ValueError(f"a markup is from {_LOWEST_MARKUP} to {_HIGHEST_MARKUP}")
    if not 0 <= bonus_bps <= BPS_WHOLE:
        raise ValueError(f"a bonus is from 0 to {BPS_WHOLE} bps")
    base = price_micro * markup.denominator // markup.numerator
    total = base + bps_share(base, bonus_bps)
    if total < LEAST_CREDITS_MICRO:
        raise ValueError(f"a pack of {total} micro-USD is below {LEAST_CREDITS_MICRO}")
    return total


def find_pack(packs: Mapping[str, Pack], pack_id: str) -> Pack:
    """Return the pack of this id. Raises Invalid (``unknown_pack``)."""
    if pack_id not in packs:
        raise Invalid(
            f"There is no pack {pack_id}.", code="unknown_pack", details={"packs": sorted(packs)}
        )
    return packs[pack_id]


def read_packs(text: str, markup_text: str) -> Mapping[str, Pack]:
    """Read ``billing_config``'s ``credit_packs`` and ``credit_pack_markup``.

    The first is an object such as ``{"starter": {"priceMicro": 5000000, "bonusBps": 0}}``.
    Raises ValueError with what makes no sense.
    """
    markup = read_multiplier(markup_text)
    listed = json.loads(text)
    if not isinstance(listed, dict):
        raise ValueError("credit_packs is not an object")  # noqa: TRY004  a bad value, not a bug
    return {name: _read_pack(name, terms, markup) for name, terms in listed.items()}


def _read_pack(name: str, terms: Any, markup: Fraction) -> Pack:
    if not isinstance(terms, dict) or set(terms) - {"bonusBps"} != {"priceMicro"}:
        raise ValueError(f"pack {name} is not an object of priceMicro and bonusBps")
    price, bonus = terms["priceMicro"], terms.get("bonusBps", 0)
    if type(price) is not int or type(bonus) is not int:  # True is an int to isinstance
        raise ValueError(f"pack {name} has a figure that is no whole number")
    return Pack(name, price, bonus, credits_for(price, markup=markup, bonus_bps=bonus))
