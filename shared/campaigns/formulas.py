"""The grant formulas: what each wallet of a list gets. Pure, integers of micro-USD only.

The earlier system named three formulas and defined none (behaviour 9.7, W60); these are ours:

- ``fixed_amount``: everybody gets the same amount.
- ``proportional_loss``: a pot is shared out by loss, by largest remainder: each share is rounded
  down, and the micro-USD left over go one each to the largest remainders, ties by account id.
- ``tiered``: the amount of the highest threshold that the wallet's metric reaches, else nothing.

A share above the cap for one wallet is cut to the cap. What that leaves is not shared out again:
it stays in the budget. Who changes a rule here raises VERSION, which is kept with each grant.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import Invalid
from shared.money import MAX_AMOUNT_MICRO, parse_amount

VERSION = 1
TIERS_MAX = 100
FORMULAS = ("fixed_amount", "proportional_loss", "tiered")
# The name of the figure that the formula wants to know of a wallet.
INPUTS = {"proportional_loss": "lossMicro", "tiered": "metric"}


@dataclass(frozen=True)
class Formula:
    """A formula with its figures. ``tiers`` are pairs of threshold and amount, lowest first."""

    name: str
    amount_micro: int = 0
    pot_micro: int = 0
    tiers: tuple[tuple[int, int], ...] = ()


def read_formula(name: str, config: Mapping[str, Any] | None) -> Formula:
    """Read a campaign's ``grantConfig``: ``amountMicro``, ``potMicro``, or ``tiers``.

    Raises Invalid (``invalid_grant_config``) if *name* or what it needs makes no sense.
    """
    found = config or {}
    match name:
        case "fixed_amount":
            return Formula(name, amount_micro=_positive(found, "amountMicro"))
        case "proportional_loss":
            return Formula(name, pot_micro=_positive(found, "potMicro"))
        case "tiered":
            return Formula(name, tiers=_read_tiers(found.get("tiers")))
        case _:
            raise _senseless(f"There is no formula {name}.")


def read_input(formula: Formula, told: Mapping[str, Any] | None) -> int:
    """Return the figure of one wallet that *formula* works with, 0 if it needs none.

    A whole number, or text of digits. Raises Invalid (``invalid_formula_input``).
    """
    name = INPUTS.get(formula.name)
    if name is None:
        return 0
    value = (told or {}).get(name)
    try:
        return _whole(value)
    except Invalid as error:
        raise Invalid(
            f"formulaInput.{name} must be a whole number that is not negative.",
            code="invalid_formula_input",
        ) from error


def amounts(formula: Formula, inputs: Mapping[str, int]) -> dict[str, int]:
    """Return what *formula* gives to each account of *inputs*, not cut to any limit yet.

    The same whatever the order of *inputs*; never negative; of a pot exactly the pot, unless
    nobody has lost anything.
    """
    match formula.name:
        case "fixed_amount":
            return dict.fromkeys(inputs, formula.amount_micro)
        case "proportional_loss":
            return _share_out(formula.pot_micro, inputs)
        case _:
            return {name: _tier_amount(formula.tiers, metric) for name, metric in inputs.items()}


def clip(
    shares: Mapping[str, int], *, cap_micro: int, remaining_micro: int, granted: Iterable[str] = ()
) -> dict[str, int]:
    """Cut *shares* to the cap for one wallet, and to what remains of the budget.

    The budget is given out in the order of the account ids, until nothing is left: the last one
    may get a part. Accounts in *granted* have theirs already and take nothing from the budget.
    """
    found, has_grant = {}, set(granted)
    for account in sorted(shares):
        found[account] = min(shares[account], cap_micro)
        if account not in has_grant:
            found[account] = min(found[account], remaining_micro)
            remaining_micro -= found[account]
    return found


def _share_out(pot_micro: int, losses: Mapping[str, int]) -> dict[str, int]:
    whole = sum(losses.values())
    if whole == 0:
        return dict.fromkeys(losses, 0)
    shares = {account: pot_micro * loss // whole for account, loss in losses.items()}
    left = pot_micro - sum(shares.values())
    by_remainder = sorted(losses, key=lambda name: (-(pot_micro * losses[name] % whole), name))
    for account in by_remainder[:left]:
        shares[account] += 1
    assert sum(shares.values()) == pot_micro
    return shares


def _tier_amount(tiers: Sequence[tuple[int, int]], metric: int) -> int:
    return next((amount for threshold, amount in reversed(tiers) if metric >= threshold), 0)


def _read_tiers(told: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(told, list) or not 1 <= len(told) <= TIERS_MAX:
        raise _senseless(f"tiers must be a list of 1 to {TIERS_MAX} tiers.")
    tiers = []
    for one in told:
        if not isinstance(one, dict):
            raise _senseless("A tier is an object with threshold and amountMicro.")
        try:
            threshold = _whole(one.get("threshold"))
        except Invalid as error:
            raise _senseless("threshold must be a whole number, not negative.") from error
        tiers.append((threshold, _positive(one, "amountMicro")))
    thresholds = [threshold for threshold, _ in tiers]
    if len(set(thresholds)) != len(thresholds):
        raise _senseless("Two tiers have the same threshold.")
    return tuple(sorted(tiers))


def _positive(config: Mapping[str, Any], name: str) -> int:
    try:
        amount = parse_amount(config.get(name))
    except Invalid as error:
        raise _senseless(f"{name} must be an amount in micro-USD, text of digits.") from error
    if amount == 0:
        raise _senseless(f"{name} must be greater than zero.")
    return amount


def _whole(value: Any) -> int:
    """Read a whole number from 0 to 16 digits: JSON's, or text. True is not 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= MAX_AMOUNT_MICRO:
            raise Invalid("out of range", code="invalid_number")
        return value
    return parse_amount(value)


def _senseless(message: str) -> Invalid:
    return Invalid(message, code="invalid_grant_config")
