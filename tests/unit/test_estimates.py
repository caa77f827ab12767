"""What a request to a model may cost: exact where it can be, else rounded up, never down."""

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.ledger.commands import Mint, Reserve
from shared.ledger.estimates import (
    TOKENS_MAX,
    ModelPrice,
    estimate,
    read_multiplier,
    read_prices,
)
from shared.ledger.terms import TermsError, read_terms
from tests.books import ACCOUNT, answer, balance, new_book, refusal

ONE = Fraction(1)
TENTH_MORE = Fraction(11, 10)
CENT = {"penny": ModelPrice(10_000, 10_000)}

rates = st.integers(0, 10**12 - 1)
prices = st.builds(ModelPrice, rates, rates)
tokens = st.integers(0, TOKENS_MAX)
multipliers = st.fractions(1, 100, max_denominator=10_000)


def cost_of(
    price: ModelPrice, multiplier: Fraction, input_tokens: int, max_output_tokens: int
) -> int:
    return estimate(
        {"m": price},
        multiplier,
        model="m",
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
    )


def table(price: Any) -> str:
    return json.dumps({"m": price})


@pytest.mark.parametrize(("given_in", "given_out"), [(1000, 0), (0, 1000), (500, 500), (1, 999)])
def test_a_thousand_tokens_at_a_cent_with_the_safety_margin_are_exactly_11000(
    given_in: int, given_out: int
) -> None:
    """Behaviour 189 (W73): the earlier system's floats made it 11,001."""
    told = estimate(
        CENT, TENTH_MORE, model="penny", input_tokens=given_in, max_output_tokens=given_out
    )
    assert told == 11_000


@pytest.mark.parametrize(
    ("price", "multiplier", "given_in", "given_out", "expected"),
    [
        (ModelPrice(2_500, 10_000), ONE, 1_000, 1_000, 12_500),
        (ModelPrice(2_500, 10_000), TENTH_MORE, 1_000, 1_000, 13_750),
        (ModelPrice(1, 0), ONE, 1, 0, 1),  # a thousandth of a micro-USD
        (ModelPrice(1, 0), ONE, 1_000, 0, 1),
        (ModelPrice(1, 0), ONE, 1_001, 0, 2),
        (ModelPrice(1, 1), ONE, 1, 1, 2),  # each side by itself
        (ModelPrice(1, 1), TENTH_MORE, 1, 1, 3),  # and their sum once more: 2.2
        (ModelPrice(1, 1), Fraction(3, 2), 1, 1, 3),  # exactly 3
        (ModelPrice(10_000, 10_000), Fraction(1, 3) + 1, 1_000, 0, 13_334),
        (ModelPrice(0, 0), Fraction(100), TOKENS_MAX, TOKENS_MAX, 0),
        (ModelPrice(10**12 - 1, 0), Fraction(100), TOKENS_MAX, 0, (10**12 - 1) * 10**8),
    ],
)
def test_each_side_and_then_their_sum_are_rounded_up(
    price: ModelPrice, multiplier: Fraction, given_in: int, given_out: int, expected: int
) -> None:
    assert cost_of(price, multiplier, given_in, given_out) == expected


def test_input_and_output_have_prices_of_their_own() -> None:
    price = ModelPrice(1_000, 7_000)
    assert cost_of(price, ONE, 1_000, 0) == 1_000
    assert cost_of(price, ONE, 0, 1_000) == 7_000


def test_no_tokens_cost_nothing() -> None:
    assert cost_of(ModelPrice(10**11, 10**11), Fraction(100), 0, 0) == 0


@given(prices, multipliers, tokens, tokens)
def test_an_estimate_is_never_below_the_cost_and_hardly_above_it(
    price: ModelPrice, multiplier: Fraction, given_in: int, given_out: int
) -> None:
    """At most two micro-USD are added before the multiplier, and less than one after it."""
    exact = Fraction(price.input_micro * given_in + price.output_micro * given_out, 1000)
    told = cost_of(price, multiplier, given_in, given_out)
    assert exact * multiplier <= told < (exact + 2) * multiplier + 1
    assert exact <= cost_of(price, ONE, given_in, given_out) < exact + 2


@given(prices, multipliers, tokens, tokens, st.sampled_from(["in", "out", "price", "margin"]))
def test_more_tokens_a_higher_price_or_margin_never_make_it_cheaper(
    price: ModelPrice, margin: Fraction, given_in: int, given_out: int, what: str
) -> None:
    before = cost_of(price, margin, given_in, given_out)
    after = cost_of(
        replace(price, input_micro=price.input_micro + (what == "price")),
        margin + Fraction(what == "margin", 7),
        given_in + (what == "in"),
        given_out + (what == "out"),
    )
    assert after >= before


def test_a_model_without_price_is_refused_and_the_known_ones_are_told() -> None:
    known = {"b": ModelPrice(1, 1), "a": ModelPrice(1, 1)}
    for model in ("c", "A", "a ", ""):
        with pytest.raises(Invalid) as refused:
            estimate(known, ONE, model=model, input_tokens=1, max_output_tokens=1)
        assert refused.value.code == "unknown_model"
        assert refused.value.details == {"models": ["a", "b"]}


def test_a_price_table_is_read_as_it_stands() -> None:
    text = '{"gpt-4o": {"inputMicroPer1k": 2500, "outputMicroPer1k": 10000, "note": "x"}, "free":'
    text += ' {"inputMicroPer1k": 0, "outputMicroPer1k": 999999999999}}'
    assert read_prices(text) == {
        "gpt-4o": ModelPrice(2_500, 10_000),
        "free": ModelPrice(0, 999_999_999_999),
    }
    assert read_prices("{}") == {}


def test_a_hold_that_could_not_be_estimated_is_refused_but_an_earlier_answer_is_repeated() -> None:
    """Contract 4.1: the price may be gone, the answer stays."""
    book = new_book()
    answer(book, Mint(ACCOUNT, "lot", 100, "deposit"))
    held = Reserve(ACCOUNT, "one", 11, idempotency_key="key", basis="m 1 1")
    first = answer(book, held)
    unpriced = replace(
        held, reservation_id="two", amount_micro=0, refusal=Invalid("?", code="unknown_model")
    )
    assert answer(book, unpriced) == first
    assert refusal(book, replace(unpriced, idempotency_key="other")) == "unknown_model"
    assert refusal(book, replace(unpriced, basis="m 1 2")) == "idempotency_conflict"
    assert balance(book) == (89, 11, 0)


BAD_RATES: list[Any] = [-1, 1.5, 1.0, True, None, "1", [], 10**12]
BAD_TABLES = [
    "", "nonsense", "[]", "null", "5", '"text"',
    '{"m": 5}', '{"m": null}', '{"m": []}', '{"m": {}}',
    '{"m": {"inputMicroPer1k": 1}}', '{"m": {"outputMicroPer1k": 1}}', "{'m': {}}", "[" * 100_000,
    *(table({"inputMicroPer1k": rate, "outputMicroPer1k": 1}) for rate in BAD_RATES),
    *(table({"inputMicroPer1k": 1, "outputMicroPer1k": rate}) for rate in BAD_RATES),
    '{"good": {"inputMicroPer1k": 1, "outputMicroPer1k": 1}, "bad": {"inputMicroPer1k": 1}}',
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_TABLES, ids=lambda text: text[:60])
def test_a_price_table_that_makes_no_sense_is_refused_whole(text: str) -> None:
    with pytest.raises(ValueError):
        read_prices(text)
    with pytest.raises(TermsError, match="model_prices"):
        read_terms({"model_prices": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", ONE),
        ("1.0", ONE),
        ("1.1", TENTH_MORE),
        (" 1.1\n", TENTH_MORE),
        ("1.000001", Fraction(1_000_001, 1_000_000)),
        ("100", Fraction(100)),
        ("100.00", Fraction(100)),
    ],
)
def test_a_multiplier_is_read_exactly(text: str, expected: Fraction) -> None:
    assert read_multiplier(text) == expected
    assert read_terms({"safety_multiplier": text}).safety_multiplier == expected


BAD_MULTIPLIERS = [
    "", "0", "0.99", "-1.1", "100.1", "101", "nan", "inf", "1,1", "1.1x", "1.1.1", "one", "11/10",
    "1/0", "1e1", "1e999999999", "1_1", "+1.1", ".5", "1.", "\u0661", "9" * 5_000,
    "1." + "0" * 5_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_MULTIPLIERS, ids=lambda text: text[:20])
def test_a_multiplier_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_multiplier(text)
    with pytest.raises(TermsError, match="safety_multiplier"):
        read_terms({"safety_multiplier": text})


def test_without_rows_the_margin_is_a_tenth_and_no_model_has_a_price() -> None:
    terms = read_terms({})
    assert terms.safety_multiplier == TENTH_MORE
    assert terms.model_prices == {}
