"""JSON as it is answered, remembered and compared: one text, also of what callers make up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.compact import compact

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(VALUES)
def test_the_text_is_that_of_the_standard_library(value):
    """So a repeat is recognised by fingerprints that were stored before orjson came."""
    assert compact(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("value", [2**63, -(2**80), {"number": 10**40, "text": "ü"}])
def test_numbers_of_any_size_are_told(value):
    assert json.loads(compact(value)) == value


def test_what_json_does_not_know_is_a_mistake_of_ours():
    with pytest.raises(TypeError):
        compact({"a": object()})
