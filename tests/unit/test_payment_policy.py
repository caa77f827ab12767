"""What a payment is worth: the table of docs/payments.md as cases, and what holds for all of them.

Contract 6; W36: the earlier system credited the price, whatever had arrived.
"""

import ast
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.payments import packs, policy
from shared.payments.policy import Arrival, CreditPolicy, Worth, needs_rate, read_policy, worth

M = 1_000_000
USUAL = CreditPolicy(usd_coins=frozenset({"usd", "usdttrc20"}))
PAID = Arrival(
    status="finished",
    is_own_price=True,
    price_amount=Decimal(25),
    pay_amount=Decimal("0.3125"),
    actually_paid=Decimal("0.3125"),
    outcome_amount=Decimal("24.875"),
    outcome_currency="usdttrc20",
)
HALF = replace(
    PAID,
    status="partially_paid",
    actually_paid=Decimal("0.15625"),
    outcome_amount=Decimal("12.4375"),
)
OVER = replace(PAID, actually_paid=Decimal("0.46875"), outcome_amount=Decimal("37.3125"))
AGAIN = replace(PAID, is_own_price=False, outcome_amount=Decimal("9.95"))
IN_BTC = {"outcome_amount": Decimal("0.0005"), "outcome_currency": "btc"}
RATE = {**IN_BTC, "usd_rate": Decimal(64000)}  # 32 USD

# What arrives, what it is worth, and on what ground.
CASES: dict[str, tuple[Arrival, Any]] = {
    "finished": (PAID, (25 * M, "price")),
    "finished, a tenth missing": (replace(PAID, outcome_amount=Decimal(20)), (25 * M, "price")),
    "finished, nothing told but that": (
        Arrival("finished", is_own_price=True, price_amount=Decimal(25)),
        (25 * M, "price"),
    ),
    "finished, a pack": (replace(PAID, pack_micro=27_500_000), (27_500_000, "pack")),
    "finished, a pack for less": (replace(PAID, pack_micro=20 * M), (20 * M, "pack")),
    "finished, no price": (replace(PAID, price_amount=None), None),
    "finished, a price of nothing": (replace(PAID, price_amount=Decimal("0E-8")), None),
    "finished, a price below a micro-USD": (replace(PAID, price_amount=Decimal("1E-7")), None),
    "over-paid within the tolerance": (
        replace(PAID, actually_paid=Decimal("0.315625"), outcome_amount=Decimal(26)),
        (25 * M, "price"),
    ),
    "over-paid above the tolerance": (OVER, (37_312_500, "overpaid")),
    "over-paid, a pack": (replace(OVER, pack_micro=27_500_000), (39_812_500, "overpaid")),
    "over-paid, but little of it reached us": (
        replace(OVER, outcome_amount=Decimal("25.25")),
        (25 * M, "price"),
    ),
    "over-paid, reached a little above the tolerance": (
        replace(OVER, outcome_amount=Decimal("25.250001")),
        (25_250_001, "overpaid"),
    ),
    "over-paid, the outcome above what was paid": (
        replace(OVER, outcome_amount=Decimal(1000)),
        (37_500_000, "overpaid"),
    ),
    "over-paid, another coin with a rate": (replace(OVER, **RATE), (32 * M, "overpaid")),
    "over-paid, another coin without a rate": (replace(OVER, **IN_BTC), (25 * M, "price")),
    "over-paid, no outcome": (replace(OVER, outcome_amount=None), (25 * M, "price")),
    "not over-paid, a high outcome": (replace(PAID, outcome_amount=Decimal(99)), (25 * M, "price")),
    "not told what was asked": (replace(OVER, pay_amount=None), (25 * M, "price")),
    "asked for nothing": (replace(OVER, pay_amount=Decimal(0)), (25 * M, "price")),
    "partial": (HALF, (12_437_500, "outcome")),
    "partial, another coin with a rate": (
        replace(HALF, **IN_BTC, usd_rate=Decimal("12800.0033")),
        (6_400_001, "outcome"),
    ),
    "partial, another coin without a rate": (replace(HALF, **IN_BTC), None),
    "partial, the outcome above the price": (
        replace(HALF, outcome_amount=Decimal(26)),
        (25 * M, "outcome"),
    ),
    "partial of a pack that gives more": (
        replace(HALF, pack_micro=27_500_000),
        (12_437_500, "outcome"),
    ),
    "partial of a pack that gives less": (replace(HALF, pack_micro=10 * M), (10 * M, "outcome")),
    "partial, no outcome": (replace(HALF, outcome_amount=None), None),
    "partial, an outcome of nothing": (replace(HALF, outcome_amount=Decimal(0)), None),
    "partial, an outcome below a micro-USD": (
        replace(HALF, outcome_amount=Decimal("9E-7")),
        None,
    ),
    "partial, no currency": (replace(HALF, outcome_currency=None), None),
    "partial, no price": (replace(HALF, price_amount=None), (12_437_500, "outcome")),
    "a repeated deposit": (AGAIN, (9_950_000, "outcome")),
    "a repeated deposit above the price": (
        replace(AGAIN, outcome_amount=Decimal(80)),
        (80 * M, "outcome"),
    ),
    "a repeated deposit, partial": (
        replace(AGAIN, status="partially_paid"),
        (9_950_000, "outcome"),
    ),
    "a wrong asset with a rate": (replace(AGAIN, **RATE), (32 * M, "outcome")),
    "a wrong asset without a rate": (replace(AGAIN, **IN_BTC), None),
    "a repeated deposit, no outcome": (replace(AGAIN, outcome_amount=None), None),
    "a price in euros": (
        replace(AGAIN, price_amount=Decimal(23)),
        (9_950_000, "outcome"),
    ),
    "rounded down": (replace(AGAIN, outcome_amount=Decimal("9.9999999")), (9_999_999, "outcome")),
    "far above 2^53": (
        replace(PAID, price_amount=Decimal("9007199254740993.000001")),
        (9_007_199_254_740_993_000_001, "price"),
    ),
    "no digit is lost to a context": (
        replace(AGAIN, outcome_amount=Decimal("123456789012345678901234567890.1234567")),
        (123_456_789_012_345_678_901_234_567_890_123_456, "outcome"),
    ),
}
RATED = {"overpaid", "outcome"}


@pytest.mark.parametrize("case", CASES)
def test_a_payment_is_worth_what_the_table_says(case: str) -> None:
    arrival, expected = CASES[case]
    found = worth(arrival, USUAL)
    assert (found and (found.amount_micro, found.basis)) == expected
    if found is not None:
        is_usd = arrival.outcome_currency in USUAL.usd_coins
        rate = Decimal(1) if is_usd else arrival.usd_rate
        assert found.rate == (rate if found.basis in RATED else None)


def test_partial_payments_wait_for_a_person_where_operators_want_that() -> None:
    careful = replace(USUAL, credits_partial=False)
    for case, (arrival, _) in CASES.items():
        is_partial = arrival.status == "partially_paid"
        wanted = None if is_partial else worth(arrival, USUAL)
        assert worth(arrival, careful) == wanted, case


@pytest.mark.parametrize(
    ("tolerance", "amount"), [(0, 25_000_001), (1, 25 * M), (5_000, 25 * M), (10_000, 25 * M)]
)
def test_the_tolerance_is_in_basis_points_of_the_price(tolerance: int, amount: int) -> None:
    a_little = replace(
        PAID, actually_paid=Decimal("0.3125000125"), outcome_amount=Decimal("25.000001")
    )
    found = worth(a_little, replace(USUAL, overpaid_tolerance_bps=tolerance))
    assert found is not None
    assert found.amount_micro == amount


@pytest.mark.parametrize(
    ("arrival", "is_needed"),
    [
        (PAID, False),
        (OVER, False),
        (HALF, False),
        (AGAIN, False),
        (replace(PAID, **IN_BTC), False),
        (replace(OVER, **IN_BTC), True),
        (replace(HALF, **IN_BTC), True),
        (replace(AGAIN, **IN_BTC), True),
        (replace(AGAIN, outcome_currency="btc", outcome_amount=None), False),
        (replace(AGAIN, outcome_currency="btc", outcome_amount=Decimal(0)), False),
        (replace(AGAIN, outcome_currency=None), False),
    ],
)
def test_the_provider_is_asked_only_where_nobody_else_knows(
    arrival: Arrival, *, is_needed: bool
) -> None:
    assert needs_rate(arrival, USUAL) is is_needed


AMOUNTS = st.none() | st.decimals(0, 10**12, places=8)
ARRIVALS = st.builds(
    Arrival,
    status=st.sampled_from(["finished", "partially_paid"]),
    is_own_price=st.booleans(),
    price_amount=AMOUNTS,
    pack_micro=st.none() | st.integers(1_000, 10**18),
    pay_amount=AMOUNTS,
    actually_paid=AMOUNTS,
    outcome_amount=AMOUNTS,
    outcome_currency=st.sampled_from([None, "usd", "usdttrc20", "btc"]),
    usd_rate=st.none() | st.decimals(0, 10**6, places=20),
)
POLICIES = st.builds(
    CreditPolicy,
    credits_partial=st.booleans(),
    overpaid_tolerance_bps=st.integers(0, 10_000),
    usd_coins=st.just(USUAL.usd_coins),
)


def micro_of(found: Worth | None) -> int:
    return found.amount_micro if found is not None else 0


@given(ARRIVALS, POLICIES)
def test_a_worth_is_a_whole_number_above_nothing(arrival: Arrival, rules: CreditPolicy) -> None:
    found = worth(arrival, rules)
    if found is not None:
        assert type(found.amount_micro) is int
        assert found.amount_micro > 0
        assert found.rate is None or isinstance(found.rate, Decimal)


@given(ARRIVALS, POLICIES)
def test_what_is_finished_at_our_price_is_never_worth_less_than_it(
    arrival: Arrival, rules: CreditPolicy
) -> None:
    arrival = replace(arrival, status="finished", is_own_price=True)
    price_micro = policy._price_micro(arrival)
    due = (arrival.pack_micro or price_micro) if price_micro else 0
    assert micro_of(worth(arrival, rules)) >= due


@given(ARRIVALS, POLICIES)
def test_a_part_is_never_worth_more_than_the_price_nor_than_the_whole(
    arrival: Arrival, rules: CreditPolicy
) -> None:
    part = replace(arrival, status="partially_paid", is_own_price=True)
    price_micro = policy._price_micro(part)
    if not price_micro:
        return  # a payment without a price has nothing to be a part of
    assert micro_of(worth(part, rules)) <= price_micro
    whole = replace(part, status="finished")
    assert micro_of(worth(part, rules)) <= micro_of(worth(whole, rules))


@given(ARRIVALS, POLICIES, st.decimals(0, 10**6, places=8))
def test_more_that_reaches_us_is_never_worth_less(
    arrival: Arrival, rules: CreditPolicy, more: Decimal
) -> None:
    reached = arrival.outcome_amount or Decimal(0)
    richer = replace(arrival, outcome_amount=reached + more)
    assert micro_of(worth(richer, rules)) >= micro_of(worth(arrival, rules))


@given(ARRIVALS, POLICIES)
def test_nothing_is_rounded_up(arrival: Arrival, rules: CreditPolicy) -> None:
    found = worth(arrival, rules)
    if found is not None and found.basis == "outcome":
        exact = Fraction(arrival.outcome_amount) * Fraction(found.rate)
        assert found.amount_micro <= exact * M


@given(ARRIVALS, POLICIES)
def test_where_no_rate_is_needed_none_changes_the_worth(
    arrival: Arrival, rules: CreditPolicy
) -> None:
    if arrival.outcome_currency is not None and not needs_rate(arrival, rules):
        with_rate = worth(replace(arrival, usd_rate=Decimal(5)), rules)
        assert micro_of(with_rate) == micro_of(worth(replace(arrival, usd_rate=None), rules))


@pytest.mark.parametrize("module", [policy, packs], ids=["policy", "packs"])
def test_there_is_no_float_anywhere(module: Any) -> None:
    """W73."""
    tree = ast.parse(Path(module.__file__).read_text())
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round"})


ROWS = {
    "partial_payment_policy": "credit",
    "overpaid_tolerance_bps": "100",
    "usd_coins": "usd,usdttrc20",
    "credit_packs": '{"starter": {"priceMicro": 5000000}}',
    "credit_pack_markup": "1",
}


def test_good_rows_are_read() -> None:
    read = read_policy(ROWS)
    assert (read.credits_partial, read.overpaid_tolerance_bps) == (True, 100)
    assert read.usd_coins == {"usd", "usdttrc20"}
    assert read.packs["starter"].credit_micro == 5 * M
    assert read_policy(ROWS | {"partial_payment_policy": "review"}).credits_partial is False


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("partial_payment_policy", ["", "Credit", "credit ", "no"]),
        ("overpaid_tolerance_bps", ["", "-1", "+1", "1.5", "1e2", "10001", "१", "9" * 5000]),
        ("usd_coins", ["", "usd,", "USD", "usd, usdc", "usd;usdc", "$", "u", "u" * 21]),
        ("credit_packs", ["", "[]", "{", '{"a": {"priceMicro": 1.5}}', '{"a": 5}', "[" * 500]),
        ("credit_pack_markup", ["", "0.99", "11", "NaN", "inf", "-1"]),
    ],
)
def test_a_bad_row_is_named(key: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=key):
            read_policy(ROWS | {key: value})
