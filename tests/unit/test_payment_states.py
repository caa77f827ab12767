"""The payment state machine: one outcome for every state and every word (behaviour 84)."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.models.payments import PAYMENT_STATUSES
from shared.payments.states import ALLOWED, MONEY_STATUSES, STATUS_WORDS, Move, decide
from tests.payment_table import WORDS, documented, render

ORDER = ("waiting", "confirming", "confirmed", "sending")
STATES = sorted(ALLOWED)


def test_every_state_that_a_payment_can_have_is_decided_about() -> None:
    assert set(ALLOWED) == set(PAYMENT_STATUSES)
    assert set(WORDS) == STATUS_WORDS
    assert set(PAYMENT_STATUSES) - STATUS_WORDS == {"creating", "manual_review"}


@pytest.mark.parametrize(("state", "word"), list(product(STATES, WORDS)))
def test_every_pair_has_one_outcome_and_a_repeat_is_called_one(state: str, word: str) -> None:
    move = decide(state, word)
    assert isinstance(move, Move)
    assert (move is Move.DUPLICATE) == (state == word)
    assert (move is Move.APPLY) == (word in ALLOWED[state])


@given(st.sampled_from(STATES), st.text())
def test_a_word_that_nobody_knows_is_for_a_person_in_every_state(state: str, word: str) -> None:
    """Behaviour 91: the earlier system took it for ``waiting`` (W38)."""
    assert word in STATUS_WORDS or decide(state, word) is Move.REVIEW


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("waiting", "confirming"),
        ("waiting", "finished"),
        ("confirming", "confirmed"),
        ("confirmed", "finished"),
        ("finished", "refunded"),
        # W44: what the machine that was in force could not do.
        ("waiting", "confirmed"),
        ("waiting", "sending"),
        ("confirming", "sending"),
        ("sending", "partially_paid"),
    ],
)
def test_the_ways_forward_are_open(state: str, word: str) -> None:
    """Behaviour 84."""
    assert decide(state, word) is Move.APPLY


@pytest.mark.parametrize(
    ("state", "word", "move"),
    [
        ("finished", "confirming", Move.STALE),
        ("confirmed", "waiting", Move.STALE),
        ("failed", "waiting", Move.STALE),
        ("expired", "confirming", Move.STALE),
        ("refunded", "finished", Move.REVIEW),
    ],
)
def test_the_ways_back_are_closed(state: str, word: str, move: Move) -> None:
    """Behaviour 84; money after a refund is nothing that a rule may decide."""
    assert decide(state, word) is move


def test_what_is_on_the_way_never_goes_back() -> None:
    for position, state in enumerate(ORDER):
        for earlier in ORDER[:position]:
            assert decide(state, earlier) is Move.STALE


def test_news_of_money_is_never_dropped() -> None:
    """Whoever has not been credited in full hears of money, or a person does (W39, W40)."""
    settled = {("finished", "partially_paid")}
    for state, word in product(STATES, sorted(MONEY_STATUSES)):
        assert (decide(state, word) is Move.STALE) == ((state, word) in settled)


def test_a_refund_is_heard_in_every_state() -> None:
    """W44: a refund after finished was skipped, so nothing was ever taken back."""
    for state in STATES:
        wanted = Move.DUPLICATE if state == "refunded" else Move.APPLY
        assert decide(state, "refunded") is wanted


def test_finished_and_refunded_lead_nowhere_else() -> None:
    assert ALLOWED["finished"] == {"refunded"}
    assert ALLOWED["refunded"] == frozenset()


def test_the_document_shows_the_table_as_it_is() -> None:
    """If this fails: ``python -c "from tests.payment_table import render; print(render())"``."""
    assert documented() == render()
