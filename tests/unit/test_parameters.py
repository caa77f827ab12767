"""Lists as PostgreSQL reads them: whatever is written is read back as it was."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import CoinAmount
from shared.parameters import array_literal

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
MOMENT = datetime(2026, 11, 22, 9, 8, 7, 654, tzinfo=UTC)


def read(literal: str) -> list[str | None]:
    """Read a literal by the rules of PostgreSQL's manual (8.15.6)."""
    body = literal.removeprefix("{").removesuffix("}")
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|([^",]+)', body, re.DOTALL)
    return [
        None if bare == "NULL" else bare.strip() or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        for quoted, bare in found
    ]


@given(st.lists(TEXT | st.none()))
def test_texts_come_back_as_they_were(texts):
    assert read(array_literal(texts)) == texts


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()))
def test_numbers_come_back_as_they_were(numbers):
    assert read(array_literal(numbers)) == [None if n is None else str(n) for n in numbers]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([True, False, None], ["True", "False", None]),
        ([MOMENT, None], ["2026-11-22 09:08:07.000654+00:00", None]),
        ([CoinAmount("1.0"), CoinAmount("1.00")], ["1.0", "1.00"]),
        (["NULL", "", "a b"], ["NULL", "", "a b"]),
        ([b"", b"\x00\xff", None], ["\\x", "\\x00ff", None]),
    ],
)
def test_other_kinds_are_written_as_postgresql_reads_them(values, texts):
    assert read(array_literal(values)) == texts


@given(st.lists(TEXT, min_size=1), st.integers(1, 5))
def test_texts_that_come_again_come_back_too(texts, times):
    assert read(array_literal(texts * times)) == texts * times


def test_a_text_that_cannot_be_stored_is_not_taken_for_two():
    assert read(array_literal(["a\0b", "c"])) == ["a\0b", "c"], "PostgreSQL refuses it"


def test_what_it_cannot_write_is_refused():
    with pytest.raises(AssertionError):
        array_literal([1.5])
