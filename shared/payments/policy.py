"""What a payment is worth in credits: one pure table of cases (contract 6; docs/payments.md)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from sqlalchemy import select

from shared.database import Tx
from shared.errors import Unavailable
from shared.models.operations import ConfigRow
from shared.money import BPS_WHOLE, MICRO_PER_USD, CoinAmount, coin_to_micro
from shared.payments.packs import Pack, read_packs

_BPS = re.compile(r"[0-9]{1,5}")
_COIN_LIST = re.compile(r"[a-z0-9]{2,20}(,[a-z0-9]{2,20})*")
_SEEDS = {
    "partial_payment_policy": "credit",
    "overpaid_tolerance_bps": "100",
    "usd_coins": "usd",
    "credit_packs": "{}",
    "credit_pack_markup": "1",
}


@dataclass(frozen=True, slots=True)
class CreditPolicy:
    """What operators have decided about credits for payments (``billing_config``).

    ``usd_coins`` are taken for one dollar each; what exceeds the price by more than
    ``overpaid_tolerance_bps`` is credited as well.
    """

    credits_partial: bool = True
    overpaid_tolerance_bps: int = 100
    usd_coins: frozenset[str] = frozenset({"usd"})
    packs: Mapping[str, Pack] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a payment when money has come: its terms, and what the provider tells.

    ``pack_micro`` is what a pack gives for the full price; ``usd_rate`` what the provider says
    one unit of the outcome's currency is worth, where it had to be asked.
    """

    status: str
    is_own_price: bool
    price_amount: CoinAmount | None
    pack_micro: int | None = None
    pay_amount: CoinAmount | None = None
    actually_paid: CoinAmount | None = None
    outcome_amount: CoinAmount | None = None
    outcome_currency: str | None = None
    usd_rate: CoinAmount | None = None


@dataclass(frozen=True, slots=True)
class Worth:
    """What an arrival is worth in all, on what ground, and at which rate in USD for one coin."""

    amount_micro: int
    basis: str
    rate: CoinAmount | None = None


def load_policy(tx: Tx) -> CreditPolicy:
    """Read the policy. Raises Unavailable (``config_invalid``) if a row makes no sense."""
    values = _SEEDS | {row.key: row.value.strip() for row in tx.all(_CONFIG)}
    try:
        return read_policy(values)
    except (ValueError, RecursionError) as error:
        raise Unavailable(str(error), code="config_invalid") from error


def read_policy(values: Mapping[str, str]) -> CreditPolicy:
    """Build the policy from rows of ``billing_config``. Raises ValueError naming the key."""
    partial, coins = values["partial_payment_policy"], values["usd_coins"]
    tolerance = values["overpaid_tolerance_bps"]
    if partial not in ("credit", "review"):
        raise ValueError(f"partial_payment_policy is {partial!r}, not credit or review")
    if _COIN_LIST.fullmatch(coins) is None:
        raise ValueError(f"usd_coins is {coins[:80]!r}, not tickers with commas between them")
    if _BPS.fullmatch(tolerance) is None or int(tolerance) > BPS_WHOLE:
        raise ValueError(f"overpaid_tolerance_bps is {tolerance[:20]!r}, not from 0 to {BPS_WHOLE}")
    try:
        packs = read_packs(values["credit_packs"], values["credit_pack_markup"])
    except ValueError as error:
        raise ValueError(f"credit_packs or credit_pack_markup: {error}") from error
    return CreditPolicy(
        credits_partial=partial == "credit",
        overpaid_tolerance_bps=int(tolerance),
        usd_coins=frozenset(coins.split(",")),
        packs=packs,
    )


def has_rate(currency: str | None, policy: CreditPolicy) -> bool:
    """Tell whether nobody need be asked about *currency*: none is told, or it is a dollar each."""
    return not currency or currency in policy.usd_coins


def needs_rate(arrival: Arrival, policy: CreditPolicy) -> bool:
    """Tell whether only the provider can say what *arrival* is worth in USD."""
    if not arrival.outcome_amount or has_rate(arrival.outcome_currency, policy):
        return False
    is_at_price = arrival.status == "finished" and arrival.is_own_price
    return not is_at_price or _overpaid_micro(arrival, policy) > 0


def worth(arrival: Arrival, policy: CreditPolicy) -> Worth | None:
    """Return what a finished or partially paid *arrival* is worth, or None if no rule can say.

    Finished at our own price: the price (or its pack), and what reached us above it beyond the
    tolerance. Anything else, that is partial payments, repeated and wrong-asset deposits: what
    reached us, but never more than the price (or its pack) of a payment that is only partly paid.
    What reached us is the provider's outcome, after its fees. Always rounded down.
    """
    rate = CoinAmount(1) if arrival.outcome_currency in policy.usd_coins else arrival.usd_rate
    price_micro = _price_micro(arrival)
    if arrival.status == "finished" and arrival.is_own_price:
        if not price_micro:
            return None
        base, basis = arrival.pack_micro or price_micro, "pack" if arrival.pack_micro else "price"
        above = _overpaid_micro(arrival, policy)
        if above:
            above = min(above, _reached_micro(arrival, rate) - price_micro)
        if above * BPS_WHOLE <= price_micro * policy.overpaid_tolerance_bps:
            return Worth(base, basis)
        return Worth(base + above, "overpaid", rate)
    if arrival.status == "partially_paid" and not policy.credits_partial:
        return None
    reached = _reached_micro(arrival, rate)
    if arrival.is_own_price and price_micro:
        reached = min(reached, price_micro, arrival.pack_micro or price_micro)
    return Worth(reached, "outcome", rate) if reached else None


def _price_micro(arrival: Arrival) -> int:
    return coin_to_micro(arrival.price_amount) if arrival.price_amount else 0


def _reached_micro(arrival: Arrival, rate: CoinAmount | None) -> int:
    if rate is None or not arrival.outcome_amount:
        return 0
    return _floor(Fraction(arrival.outcome_amount) * Fraction(rate) * MICRO_PER_USD)


def _overpaid_micro(arrival: Arrival, policy: CreditPolicy) -> int:
    """Return what the payer sent above the price beyond the tolerance, at the quoted rate."""
    asked, paid, price_micro = arrival.pay_amount, arrival.actually_paid, _price_micro(arrival)
    if not asked or not paid or paid <= asked:
        return 0
    above = _floor(price_micro * Fraction(paid) / Fraction(asked)) - price_micro
    return above if above * BPS_WHOLE > price_micro * policy.overpaid_tolerance_bps else 0


def _floor(value: Fraction) -> int:
    return value.numerator // value.denominator


_CONFIG = select(ConfigRow.key, ConfigRow.value).where(ConfigRow.key.in_(_SEEDS))
