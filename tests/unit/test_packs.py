"""Credit packs: what a price in USD buys (behaviours 7.7 and 98)."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.payments.packs import (
    LEAST_CREDITS_MICRO,
    MAX_PRICE_MICRO,
    Pack,
    credits_for,
    find_pack,
    read_packs,
)

M = 1_000_000
SOLD = json.dumps(
    {
        "starter": {"priceMicro": 5 * M, "bonusBps": 0},
        "standard": {"priceMicro": 10 * M, "bonusBps": 500},
        "premium": {"priceMicro": 25 * M, "bonusBps": 1000},
    }
)


def test_the_three_packs_give_5_10_and_a_half_and_27_and_a_half() -> None:
    """Behaviour 98: 5 M, 10.5 M, 27.5 M at markup 1; ids starter, standard, premium."""
    packs = read_packs(SOLD, "1")
    assert {name: pack.credit_micro for name, pack in packs.items()} == {
        "starter": 5 * M,
        "standard": 10_500_000,
        "premium": 27_500_000,
    }
    assert packs["premium"] == Pack("premium", 25 * M, 1000, 27_500_000)


def test_a_markup_of_two_halves_what_is_bought() -> None:
    """Behaviour 98."""
    halves = [pack.credit_micro for pack in read_packs(SOLD, "2").values()]
    assert halves == [2_500_000, 5_250_000, 13_750_000]


@pytest.mark.parametrize(
    ("price", "markup", "bonus", "micro"),
    [
        (7 * M, Fraction(3), 0, 2_333_333),
        (7 * M, Fraction(3), 500, 2_333_333 + 116_666),  # the bonus is floored, too
        (5 * M, Fraction("1.5"), 0, 3_333_333),
        (M, Fraction(10), 0, 100_000),
        (1_000, Fraction(1), 0, 1_000),
        (MAX_PRICE_MICRO, Fraction(1), 10_000, 2 * MAX_PRICE_MICRO),
    ],
)
def test_credits_are_rounded_down(price: int, markup: Fraction, bonus: int, micro: int) -> None:
    """Behaviour 98: 7,000,000 / 3 is 2,333,333."""
    assert credits_for(price, markup=markup, bonus_bps=bonus) == micro


@pytest.mark.parametrize("price", [0, -1, MAX_PRICE_MICRO + 1])
def test_a_price_out_of_range_is_an_error(price: int) -> None:
    """Behaviour 98: price 0, -1 and above 1e15."""
    with pytest.raises(ValueError, match="a price of"):
        credits_for(price, markup=Fraction(1), bonus_bps=0)


def test_a_pack_below_the_minimum_is_an_error() -> None:
    """Behaviour 98: 5,000 at markup 10 is 500, below 1,000."""
    with pytest.raises(ValueError, match="a pack of 500 micro-USD is below 1000"):
        credits_for(5_000, markup=Fraction(10), bonus_bps=0)
    assert credits_for(10_000, markup=Fraction(10), bonus_bps=0) == LEAST_CREDITS_MICRO


@pytest.mark.parametrize(
    "markup", ["0.5", "0", "11", "10.01", "-1", "NaN", "Infinity", "∞", "1e400", "", "1,5", "१"]
)
def test_a_markup_out_of_range_is_an_error(markup: str) -> None:
    """Behaviour 98: 0.5, 11, NaN and infinity."""
    with pytest.raises(ValueError, match=r"markup|decimal"):
        read_packs(SOLD, markup)


@pytest.mark.parametrize("bonus", [-1, 10_001])
def test_a_bonus_out_of_range_is_an_error(bonus: int) -> None:
    with pytest.raises(ValueError, match="a bonus is from 0 to 10000"):
        credits_for(M, markup=Fraction(1), bonus_bps=bonus)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '"starter"',
        "null",
        '{"starter": 5000000}',
        '{"starter": {}}',
        '{"starter": {"bonusBps": 1}}',
        '{"starter": {"priceMicro": "5000000"}}',
        '{"starter": {"priceMicro": 5000000.0}}',
        '{"starter": {"priceMicro": NaN}}',
        '{"starter": {"priceMicro": true}}',
        '{"starter": {"priceMicro": 5000000, "bonusBps": true}}',
        '{"starter": {"priceMicro": 5000000, "bonusBps": null}}',
        '{"starter": {"priceMicro": 5000000, "bonus": 5}}',
        '{"starter": {"priceMicro": 999}}',
        '{"good": {"priceMicro": 5000000}, "bad": {"priceMicro": 0}}',
    ],
)
def test_a_list_of_packs_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_packs(text, "1")


def test_a_pack_without_a_bonus_is_its_price() -> None:
    assert read_packs('{"plain": {"priceMicro": 5000000}}', "1.0")["plain"].credit_micro == 5 * M


def test_an_unknown_pack_is_told_with_those_that_are_sold() -> None:
    """Behaviour 98: unknown pack -> none."""
    packs = read_packs(SOLD, "1")
    assert find_pack(packs, "starter").price_micro == 5 * M
    with pytest.raises(Invalid) as refused:
        find_pack(packs, "gold")
    assert refused.value.code == "unknown_pack"
    assert refused.value.details == {"packs": ["premium", "standard", "starter"]}


@given(
    price=st.integers(1, MAX_PRICE_MICRO),
    markup=st.fractions(1, 10, max_denominator=1000),
    bonus=st.integers(0, 10_000),
)
def test_a_pack_never_gives_more_than_its_exact_share(
    price: int, markup: Fraction, bonus: int
) -> None:
    exact = Fraction(price) / markup * (1 + Fraction(bonus, 10_000))
    try:
        got = credits_for(price, markup=markup, bonus_bps=bonus)
    except ValueError:
        assert exact < LEAST_CREDITS_MICRO + 2
        return
    assert type(got) is int
    assert exact - 3 < got <= exact
