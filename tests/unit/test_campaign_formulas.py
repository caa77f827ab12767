"""The grant formulas as examples and properties (behaviour 180, W60); the campaign's machine."""

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.campaigns.formulas import (
    Formula,
    amounts,
    clip,
    read_formula,
    read_input,
)
from shared.campaigns.states import RESULTS, TRANSITIONS, Action, next_status
from shared.errors import Conflict, Invalid
from shared.money import MAX_AMOUNT_MICRO

ACCOUNTS = st.text(alphabet="abcdef", min_size=1, max_size=6)
INPUTS = st.dictionaries(ACCOUNTS, st.integers(0, MAX_AMOUNT_MICRO), max_size=30)
AMOUNT = st.integers(1, MAX_AMOUNT_MICRO)
FORMULA = st.one_of(
    st.builds(Formula, st.just("fixed_amount"), amount_micro=AMOUNT),
    st.builds(Formula, st.just("proportional_loss"), pot_micro=AMOUNT),
    st.dictionaries(st.integers(0, MAX_AMOUNT_MICRO), AMOUNT, min_size=1, max_size=8).map(
        lambda tiers: Formula("tiered", tiers=tuple(sorted(tiers.items())))
    ),
)
TIERS = read_formula(
    "tiered",
    {
        "tiers": [
            {"threshold": 100, "amountMicro": "3000000"},
            {"threshold": "10", "amountMicro": "1000000"},
        ]
    },
)


def test_a_fixed_amount_is_the_same_for_everybody() -> None:
    formula = read_formula("fixed_amount", {"amountMicro": "2500000"})
    assert amounts(formula, {"b": 7, "a": 0}) == {"b": 2_500_000, "a": 2_500_000}


@pytest.mark.parametrize(
    ("pot", "losses", "shares"),
    [
        ("100", {"a": 1, "b": 1, "c": 1}, {"a": 34, "b": 33, "c": 33}),
        ("100", {"c": 1, "b": 1, "a": 1}, {"a": 34, "b": 33, "c": 33}),
        ("10", {"a": 1, "b": 2, "c": 4}, {"a": 1, "b": 3, "c": 6}),
        ("7", {"a": 0, "b": 3}, {"a": 0, "b": 7}),
        ("2", {"a": 5, "b": 5, "c": 5}, {"a": 1, "b": 1, "c": 0}),
        ("7", {"a": 0}, {"a": 0}),
        ("7", {}, {}),
    ],
)
def test_a_pot_is_shared_by_largest_remainder_ties_by_account(
    pot: str, losses: dict[str, int], shares: dict[str, int]
) -> None:
    assert amounts(read_formula("proportional_loss", {"potMicro": pot}), losses) == shares


@pytest.mark.parametrize(
    ("metric", "amount"),
    [(0, 0), (9, 0), (10, 1_000_000), (99, 1_000_000), (100, 3_000_000), (10**16 - 1, 3_000_000)],
)
def test_a_tier_is_the_highest_threshold_that_is_reached(metric: int, amount: int) -> None:
    assert amounts(TIERS, {"a": metric}) == {"a": amount}


def test_shares_are_cut_to_the_cap_and_then_to_the_budget_in_the_order_of_accounts() -> None:
    shares = {"c": 5, "a": 9, "b": 5}
    assert clip(shares, cap_micro=6, remaining_micro=9) == {"a": 6, "b": 3, "c": 0}
    kept = clip(shares, cap_micro=6, remaining_micro=9, granted=["a"])
    assert kept == {"a": 6, "b": 5, "c": 4}


@given(FORMULA, INPUTS, st.randoms(use_true_random=False))
def test_amounts_are_never_negative_and_do_not_depend_on_the_order(
    formula: Formula, inputs: dict[str, int], chance: random.Random
) -> None:
    found = amounts(formula, inputs)
    shuffled = list(inputs.items())
    chance.shuffle(shuffled)
    assert amounts(formula, dict(shuffled)) == found
    assert found.keys() == inputs.keys()
    assert all(amount >= 0 for amount in found.values())


@given(st.integers(1, MAX_AMOUNT_MICRO), INPUTS)
def test_of_a_pot_all_is_shared_out_and_each_share_is_exact_to_a_micro(
    pot: int, losses: dict[str, int]
) -> None:
    found = amounts(Formula("proportional_loss", pot_micro=pot), losses)
    whole = sum(losses.values())
    assert sum(found.values()) == (pot if whole else 0)
    for account, loss in losses.items():
        if whole:
            assert 0 <= found[account] - pot * loss // whole <= 1
        assert loss or not found[account]


@given(FORMULA, INPUTS)
def test_who_has_lost_more_never_gets_less(formula: Formula, inputs: dict[str, int]) -> None:
    rising = {amount: None for _, amount in formula.tiers}
    ordered = tuple((t, a) for (t, _), a in zip(formula.tiers, sorted(rising), strict=False))
    fair = Formula(formula.name, formula.amount_micro, formula.pot_micro, ordered)
    found = amounts(fair, inputs)
    by_input = sorted(inputs, key=lambda name: inputs[name])
    for lesser, greater in pairwise(by_input):
        if inputs[lesser] < inputs[greater]:
            assert found[lesser] <= found[greater]


@given(
    FORMULA,
    INPUTS,
    st.integers(1, MAX_AMOUNT_MICRO),
    st.integers(0, MAX_AMOUNT_MICRO),
    st.sets(ACCOUNTS, max_size=5),
)
def test_nobody_gets_more_than_the_cap_and_all_together_not_more_than_the_budget(
    formula: Formula, inputs: dict[str, int], cap: int, remaining: int, granted: set[str]
) -> None:
    shares = amounts(formula, inputs)
    kept = clip(shares, cap_micro=cap, remaining_micro=remaining, granted=granted)
    assert kept.keys() == shares.keys()
    assert all(0 <= kept[name] <= min(shares[name], cap) for name in shares)
    new = [kept[name] for name in shares if name not in granted]
    wanted = sum(min(shares[name], cap) for name in shares if name not in granted)
    assert sum(new) == min(wanted, remaining)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("fixed_amount", None),
        ("fixed_amount", {"amountMicro": 5}),
        ("fixed_amount", {"amountMicro": "0"}),
        ("proportional_loss", {"potMicro": "-1"}),
        ("tiered", {}),
        ("tiered", {"tiers": []}),
        ("tiered", {"tiers": ["10"]}),
        ("tiered", {"tiers": [{"threshold": True, "amountMicro": "1"}]}),
        ("tiered", {"tiers": [{"threshold": -1, "amountMicro": "1"}]}),
        ("tiered", {"tiers": [{"threshold": 1, "amountMicro": "1"}] * 2}),
        ("tiered", {"tiers": [{"threshold": n, "amountMicro": "1"} for n in range(101)]}),
        ("lottery", {"amountMicro": "1"}),
    ],
)
def test_figures_that_make_no_sense_are_refused(name: str, config: Any) -> None:
    with pytest.raises(Invalid) as refused:
        read_formula(name, config)
    assert refused.value.code == "invalid_grant_config"


@pytest.mark.parametrize("told", [None, {}, {"metric": -1}, {"metric": 1.5}, {"metric": "x"}])
def test_an_input_that_makes_no_sense_is_refused(told: Any) -> None:
    with pytest.raises(Invalid) as refused:
        read_input(TIERS, told)
    assert refused.value.code == "invalid_formula_input"


def test_inputs_are_whole_numbers_or_digits_and_a_fixed_amount_needs_none() -> None:
    assert [read_input(TIERS, {"metric": one}) for one in (7, "7")] == [7, 7]
    assert read_input(Formula("fixed_amount", 1), {"lossMicro": "odd"}) == 0


@pytest.mark.parametrize("status", ["draft", "active", "paused", "completed", "expired"])
@pytest.mark.parametrize("action", list(Action))
def test_the_machine_is_the_table_of_behaviour_4(status: str, action: Action) -> None:
    """Behaviours 102 and 103."""
    allowed = {
        "draft": {"active"},
        "active": {"paused", "completed", "expired"},
        "paused": {"active", "completed", "expired"},
    }
    after = RESULTS[action]
    assert ((status, after) in TRANSITIONS) == (after in allowed.get(status, set()))
    if after in allowed.get(status, set()):
        assert next_status(status, action) == after
        return
    with pytest.raises(Conflict) as refused:
        next_status(status, action)
    assert refused.value.message == f"Invalid campaign transition: {status} → {after}"
