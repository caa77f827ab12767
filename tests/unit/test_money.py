"""Money: reading amounts, dollars and coins, writing them, and taking shares (behaviours 1-14)."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Invalid
from shared.money import (
    BPS_WHOLE,
    MAX_AMOUNT_MICRO,
    bps_share,
    coin_to_micro,
    format_usd,
    parse_amount,
    parse_coin,
    parse_usd,
    usd_text,
)

amounts = st.integers(0, MAX_AMOUNT_MICRO)


@pytest.mark.parametrize(
    ("dollars", "micro"),
    [
        ("1", 1_000_000),
        ("100", 100_000_000),
        ("1.50", 1_500_000),
        ("0.01", 10_000),
        ("0.001", 1_000),
        ("0", 0),
        ("25.00", 25_000_000),
        ("0.000001", 1),
        ("9999999999.999999", MAX_AMOUNT_MICRO),
    ],
)
def test_dollars_are_read_exactly(dollars: str, micro: int) -> None:
    """Behaviour 1."""
    assert parse_usd(dollars) == micro


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "inf",
        "10000000000",
        "9999999999999",
        "1.0000001",
        "-1",
        "+1",
        "01",
        "1.",
        ".5",
        "1,5",
        "1e3",
        "",
        " 1",
        "1 ",
        "1\n",
        chr(0x661),
        "1_000",
        1,
        1.5,
        True,
        None,
        b"1",
    ],
)
def test_what_is_not_dollars_is_refused(text: object) -> None:
    """Behaviours 2 and 3: not a number, without end, or too large."""
    with pytest.raises(Invalid) as refusal:
        parse_usd(text)
    assert refusal.value.code == "invalid_amount"


@pytest.mark.parametrize(
    ("micro", "shown"),
    [
        (1_000_000, "$1.00"),
        (1_500_000, "$1.50"),
        (10_000, "$0.01"),
        (0, "$0.00"),
        (-1_500_000, "-$1.50"),
        (1_005_000, "$1.01"),
        (1_004_999, "$1.00"),
        (10**12, "$1000000.00"),
        (-5_000, "-$0.01"),
        (-4_999, "$0.00"),
    ],
)
def test_people_see_dollars_rounded_half_up_to_cents(micro: int, shown: str) -> None:
    """Behaviour 4; nobody is shown a negative zero."""
    assert format_usd(micro) == shown


@given(st.integers(-(10**16) + 10_000, 10**16 - 10_000))
def test_what_people_see_is_never_more_than_half_a_cent_off(micro: int) -> None:
    shown = format_usd(micro)
    assert abs(parse_usd(shown.lstrip("-$")) - abs(micro)) <= 5_000
    assert shown.startswith("-") == (micro <= -5_000)


@given(amounts)
def test_an_amount_survives_the_wire(amount: int) -> None:
    """Behaviours 7 and 8: money travels as text, so nothing is lost above 2**53."""
    assert parse_amount(json.loads(json.dumps(str(amount)))) == amount


def test_an_amount_beyond_the_safe_integers_of_javascript_is_exact() -> None:
    """Behaviours 6, 7 and W23."""
    assert parse_amount("99999999999") == 99_999_999_999
    assert parse_amount("9100000000000000") == 9_100_000_000_000_000
    assert parse_amount("9007199254740993") == 9_007_199_254_740_993


@pytest.mark.parametrize("text", ["0", "1", "100", "5000000", "1000000000000000", "9" * 16])
def test_strict_amounts_are_accepted(text: str) -> None:
    """Behaviours 5, 8 and 14."""
    assert parse_amount(text) == int(text)


@pytest.mark.parametrize(
    "text",
    [
        "0100",
        "00",
        " 100",
        "100 ",
        "+100",
        "-100",
        "-1",
        "100.5",
        "",
        "abc",
        "1e6",
        "0x10",
        "1_000",
        "9" * 17,
        "1" * 51,
        "१२",
        "1\xa0",
        "\u2003",
        chr(0xFF11),
        "1\t",
        "\n1",
        "1\n",
        "1\r",
        "1\x0c",
        "1\x0b",
        "\x00",
        "1\x07",
        "1\x1b",
        "1\x7f",
        2**53,
        5000000,
        0,
        1.0,
        True,
        False,
        None,
        b"1",
        ["1"],
        {"a": "1"},
    ],
)
def test_anything_but_strict_amounts_is_refused(text: object) -> None:
    """Behaviours 8, 13 and 14: numbers, signs, spaces, other digits, control signs, length."""
    with pytest.raises(Invalid) as refusal:
        parse_amount(text)
    assert refusal.value.code == "invalid_amount"


@given(st.text(max_size=20))
def test_only_what_an_amount_is_written_as_is_read(text: str) -> None:
    try:
        amount = parse_amount(text)
    except Invalid:
        return
    assert str(amount) == text


@given(amounts)
def test_exact_dollars_survive_writing_and_reading(amount: int) -> None:
    written = usd_text(amount)
    assert parse_usd(written) == amount
    assert 2 <= len(written.partition(".")[2]) <= 6


@pytest.mark.parametrize(
    ("micro", "written"),
    [(25_000_000, "25.00"), (0, "0.00"), (1, "0.000001"), (1_230_000, "1.23"), (100, "0.0001")],
)
def test_exact_dollars_have_at_least_two_decimals(micro: int, written: str) -> None:
    assert usd_text(micro) == written


@pytest.mark.parametrize(
    ("amount", "rate", "share"),
    [
        (1000000, 2500, 250000),
        (1000000, 0, 0),
        (1000000, 10000, 1000000),
        (3, 7000, 2),
        (3, 500, 0),
        (1, 9999, 0),
        (7, 5000, 3),
    ],
)
def test_a_share_is_rounded_down(amount: int, rate: int, share: int) -> None:
    """Behaviours 9 and 11."""
    assert bps_share(amount, rate) == share


@given(amounts, st.integers(0, BPS_WHOLE), st.integers(0, BPS_WHOLE))
def test_shares_never_take_more_than_there_is(amount: int, first: int, second: int) -> None:
    """Behaviour 10: two parts and the rest of a whole of 10,000 sum to the amount."""
    second = min(second, BPS_WHOLE - first)
    parts = bps_share(amount, first), bps_share(amount, second)
    rest = amount - sum(parts)
    exact = amount * (BPS_WHOLE - first - second)
    assert rest >= 0
    assert 0 <= rest * BPS_WHOLE - exact < 2 * BPS_WHOLE


@pytest.mark.parametrize(
    ("spelled", "amount"),
    [
        ("0.00012345", "0.00012345"),
        ("1E-8", "0.00000001"),
        ("0012.50", "12.50"),
        (7, "7"),
        ("0e0", "0"),
        ("123456789012345678901234567890.5", "123456789012345678901234567890.5"),
    ],
)
def test_a_coin_is_read_exactly(spelled: object, amount: str) -> None:
    assert parse_coin(spelled) == Decimal(amount)


@pytest.mark.parametrize(
    "spelled",
    [
        "-1",
        "+1",
        "",
        " 1",
        "NaN",
        "Infinity",
        "1e999",
        "1e-999",
        "1e61",
        "1e1000",
        "1.",
        ".1",
        "1" * 41,
        "0x1",
        "1,0",
        chr(0x661),
        True,
        False,
        None,
        1.5,
        -1,
        b"1",
    ],
)
def test_what_is_not_a_coin_amount_is_refused(spelled: object) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_coin(spelled)
    assert refusal.value.code == "invalid_amount"


def test_dollars_of_a_provider_are_never_rounded_up() -> None:
    assert coin_to_micro(Decimal("25.00")) == 25_000_000
    assert coin_to_micro(Decimal("0.0000019")) == 1
    # More digits than a Decimal product keeps.
    assert coin_to_micro(Decimal("0." + "9" * 40)) == 999_999


@given(st.integers(0, 10**40 - 1), st.integers(0, 40))
def test_a_coin_is_worth_the_floor_of_its_micro_dollars(digits: int, places: int) -> None:
    value = parse_coin(f"{digits // 10**places}.{digits % 10**places:0{places or 1}d}")
    assert coin_to_micro(value) == math.floor(digits * 10**6 // 10**places)
