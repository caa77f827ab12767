"""The rules of the ledger: what is refused, what is repeated, and what holds for any stream."""

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ArrakisError, Conflict, Forbidden, Invalid, NotFound, Refused
from shared.ledger.commands import (
    Command,
    ExpireHold,
    ExpireLot,
    Finalize,
    Mint,
    Outcome,
    Release,
    Reserve,
)
from shared.ledger.postings import split_revenue
from shared.ledger.rules import apply
from shared.ledger.state import Book, LotState
from shared.ledger.terms import Terms
from tests.books import (
    ACCOUNT,
    CAMPAIGN,
    OTHER,
    TERMS,
    Step,
    answer,
    assert_sound,
    balance,
    command_of,
    do,
    entries,
    later,
    new_book,
    steps,
)


def busy_book() -> Book:
    """Return a book with a hold in every state, a debt and remembered keys."""
    book = new_book()
    for number, amount in enumerate([50, 50]):
        answer(book, Mint(ACCOUNT, f"lot-{number}", amount, "deposit", f"source-{number}"))
    answer(book, Reserve(ACCOUNT, "released", 1))
    answer(book, Release("released"))
    answer(book, Reserve(ACCOUNT, "expired", 1, ttl_seconds=1))
    book.now = later(3600 + 1)
    do(book, ExpireHold("expired"))
    answer(book, Reserve(ACCOUNT, "finalized", 5, idempotency_key="used"))
    answer(book, Finalize("finalized", 9, idempotency_key="used"))
    answer(book, Reserve(OTHER, "owed", 5), "soft")
    answer(book, Finalize("owed", 5))
    answer(book, Reserve(ACCOUNT, "pending", 5))
    assert_sound(book)
    return book


REFUSED: list[tuple[Command, type[ArrakisError], str]] = [
    (Mint("nobody", "new", 5, "grant"), NotFound, "account_not_found"),
    (Mint(ACCOUNT, "new", 0, "grant"), Invalid, "invalid_amount"),
    (Mint(ACCOUNT, "new", 10**11 + 1, "grant"), Invalid, "amount_above_ceiling"),
    (Mint(ACCOUNT, "new", 10**30, "grant"), Invalid, "amount_above_ceiling"),
    (Mint(ACCOUNT, "lot-0", 5, "grant", idempotency_key="k"), Conflict, "id_in_use"),
    (
        Mint(ACCOUNT, "new", 50, "deposit", "source-0", idempotency_key="k"),
        Conflict,
        "already_credited",
    ),
    (Mint(OTHER, "new", 50, "deposit", "source-0"), Conflict, "already_credited"),
    (Mint(ACCOUNT, "new", 51, "deposit", "source-0"), Conflict, "idempotency_conflict"),
    (Mint(ACCOUNT, "new", 50, "grant", "source-0"), Conflict, "idempotency_conflict"),
    (Reserve("nobody", "new", 5), NotFound, "account_not_found"),
    (Reserve(ACCOUNT, "new", 0), Invalid, "invalid_amount"),
    (Reserve(ACCOUNT, "new", -1), Invalid, "invalid_amount"),
    (Reserve(ACCOUNT, "new", 10**11 + 1), Invalid, "amount_above_ceiling"),
    (Reserve(ACCOUNT, "new", 91), Refused, "insufficient_credits"),
    (Reserve(ACCOUNT, "new", 91, CAMPAIGN), Refused, "insufficient_credits"),
    (Reserve(OTHER, "new", 1), Refused, "insufficient_credits"),
    (Reserve(ACCOUNT, "pending", 5, idempotency_key="k"), Conflict, "id_in_use"),
    (Reserve(ACCOUNT, "new", 6, idempotency_key="used"), Conflict, "idempotency_conflict"),
    (
        Reserve(ACCOUNT, "new", 5, CAMPAIGN, idempotency_key="used"),
        Conflict,
        "idempotency_conflict",
    ),
    (Reserve(ACCOUNT, "new", 5, "general", 9, "used"), Conflict, "idempotency_conflict"),
    (Reserve(ACCOUNT, "new", 5, refusal=Invalid("Unknown.", code="model")), Invalid, "model"),
    (Finalize("nothing", 5), NotFound, "reservation_not_found"),
    (Finalize("pending", 5, OTHER), Forbidden, "account_mismatch"),
    (Finalize("pending", -1), Invalid, "invalid_amount"),
    (Finalize("pending", 10**11 + 1), Invalid, "amount_above_ceiling"),
    (Finalize("pending", 5, None, "used"), Conflict, "idempotency_conflict"),
    (Finalize("finalized", 5), Conflict, "idempotency_conflict"),
    (Finalize("finalized", 10), Conflict, "idempotency_conflict"),
    (Finalize("released", 1), Invalid, "reservation_released"),
    (Finalize("expired", 1), NotFound, "reservation_expired"),
    (Release("nothing"), NotFound, "reservation_not_found"),
    (Release("pending", OTHER), Forbidden, "account_mismatch"),
    (Release("finalized"), Conflict, "reservation_finalized"),
    (ExpireHold("nothing"), NotFound, "reservation_not_found"),
]


@pytest.mark.parametrize(("command", "kind", "code"), REFUSED)
def test_a_refusal_is_typed_and_changes_nothing(
    command: Command, kind: type[ArrakisError], code: str
) -> None:
    """Behaviours 5, 44, 48-52, 139, 143, 146, 148, 159; W1, W8, W10, W25."""
    book = busy_book()
    before = copy.deepcopy(book)
    outcome = apply(book, command, TERMS["live"])
    assert (type(outcome.error), outcome.error and outcome.error.code) == (kind, code)
    assert (outcome.answer, outcome.is_replay) == (None, False)
    with pytest.raises(kind):
        outcome.unwrap()
    assert book == before


def test_a_refusal_says_what_is_there_and_what_was_asked() -> None:
    error = do(busy_book(), Reserve(ACCOUNT, "new", 91)).error
    assert error is not None
    assert error.details == {"balance_micro": "90", "required_micro": "91"}


REPEATED: list[Command] = [
    Mint(ACCOUNT, "another id", 50, "deposit", "source-1"),
    Reserve(ACCOUNT, "another id", 5, idempotency_key="used"),
    Finalize("finalized", 9, ACCOUNT, "used"),
    Finalize("finalized", 9),
    Release("released", ACCOUNT, "again"),
    Release("expired"),
]


@pytest.mark.parametrize("command", REPEATED)
def test_a_repeat_is_answered_the_same_and_changes_nothing(command: Command) -> None:
    """Behaviours 42, 43, 143, 145; W6, W7, W9: also when the ceiling has fallen since."""
    book = busy_book()
    first = do(book, command)
    before = copy.deepcopy(book)
    again = apply(book, command, Terms("shadow", ceiling_micro=1))
    assert (again.answer, again.error, again.is_replay) == (first.answer, None, True)
    assert book == before


def test_one_key_serves_two_operations_and_two_accounts() -> None:
    """Behaviour 147, W9."""
    book = new_book()
    for account in (ACCOUNT, OTHER):
        answer(book, Mint(account, f"lot {account}", 5, "grant", idempotency_key="key"))
        answer(book, Reserve(account, f"hold {account}", 5, idempotency_key="key"))
        answer(book, Finalize(f"hold {account}", 5, idempotency_key="key"))
    assert len(book.new_answers) == 6
    assert_sound(book)


def test_sweeping_what_is_not_due_does_nothing() -> None:
    book = busy_book()
    before = copy.deepcopy(book)
    assert answer(book, ExpireHold("pending"))["status"] == "pending"
    answer(book, ExpireLot(ACCOUNT, "lot-0"))
    assert book == before


def play(
    drawn: list[Step], check: Callable[[Book, Command, Outcome, Book], None] | None = None
) -> Book:
    """Carry out a drawn stream; *check* sees the book before and after each command."""
    book = new_book()
    for place, step in enumerate(drawn):
        book.now = later((book.now - later(0)).total_seconds() + step.seconds)
        command = command_of(step, place)
        do(book, ExpireHold("nothing"))  # time passes here, so that the command's part is seen
        before = copy.deepcopy(book) if check else book
        outcome = apply(book, command, TERMS[step.mode])
        if check:
            check(before, command, outcome, book)
    return book


@settings(max_examples=300, deadline=None)
@given(steps())
def test_any_stream_conserves_credits_and_the_ledger_adds_up(drawn: list[Step]) -> None:
    """Behaviours 35, 45, 46, 53, 157; W5, W14, W16, W17, W22: after every single command."""

    def check(_before: Book, _command: Command, _outcome: Outcome, after: Book) -> None:
        assert_sound(after)

    play(drawn, check)


@settings(max_examples=150, deadline=None)
@given(steps())
def test_in_any_stream_a_refusal_or_a_repeat_changes_nothing(drawn: list[Step]) -> None:
    def check(before: Book, _command: Command, outcome: Outcome, after: Book) -> None:
        if outcome.error is not None or outcome.is_replay:
            assert after == before

    play(drawn, check)


@settings(max_examples=150, deadline=None)
@given(steps())
def test_in_any_stream_what_was_done_can_be_repeated_at_once(drawn: list[Step]) -> None:
    def check(_before: Book, command: Command, outcome: Outcome, after: Book) -> None:
        is_keyed = isinstance(command, (Mint, Reserve, Finalize, Release))
        if outcome.error is None and is_keyed:
            again = apply(after, command, TERMS["soft"])
            assert (again.answer, again.is_replay) == (outcome.answer, True)

    play(drawn, check)


@settings(max_examples=150, deadline=None)
@given(steps(pools=("general",)))
def test_in_one_pool_each_entry_begins_where_the_last_ended(drawn: list[Step]) -> None:
    """Behaviours 41, 56-59; W16."""
    book = play(drawn)
    for account in (ACCOUNT, OTHER):
        view = 0
        for _, _, before, after in entries(book, account):
            assert before == view
            view = after
        assert balance(book, account)[0] == view


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**16), st.lists(st.integers(0, 10_000), min_size=2, max_size=2).map(sorted))
def test_shares_are_exact_floors_and_sum_to_the_charge(charged: int, cuts: list[int]) -> None:
    """Behaviours 80 and 81."""
    rates = (cuts[0], cuts[1] - cuts[0], 10_000 - cuts[1])
    terms = Terms(
        commons_rate_bps=rates[0], community_rate_bps=rates[1], foundation_rate_bps=rates[2]
    )
    commons, community, foundation = split_revenue(charged, terms)
    assert commons == charged * rates[0] // 10_000
    assert community == charged * rates[1] // 10_000
    assert commons + community + foundation == charged
    assert 0 <= foundation * 10_000 - charged * rates[2] < 20_000


def in_order(lots: list[LotState], pool_id: str) -> list[str]:
    """Sort as behaviour 5.3.4 says, least important first: id, age, expiry, pool."""
    lots = sorted(lots, key=lambda lot: lot.id)
    lots.sort(key=lambda lot: lot.created_at)
    expiring = sorted(
        (lot for lot in lots if lot.expires_at), key=lambda lot: lot.expires_at or later(0)
    )
    lots = expiring + [lot for lot in lots if not lot.expires_at]
    own = [lot.id for lot in lots if lot.pool_id == pool_id]
    return own + [lot.id for lot in lots if lot.pool_id == "general" and lot.id not in own]


@pytest.mark.parametrize("seed", range(200))
def test_lots_are_held_and_consumed_in_redemption_order(seed: int) -> None:
    """Behaviours 34, 54, 149 and W11: 200 random sets, with ties in age and in expiry."""
    chance = random.Random(seed)
    book = new_book()
    pool_id = chance.choice(["general", CAMPAIGN])
    lots = []
    for _ in range(chance.randint(2, 12)):
        book.now = later(chance.choice([0, 0, 1, 2]))
        more: dict[str, Any] = {"pool_id": chance.choice(["general", CAMPAIGN, "campaign:other"])}
        expires = chance.choice([None, None, later(500), later(500), later(900)])
        lot_id = f"lot-{chance.getrandbits(40):x}"
        answer(book, Mint(ACCOUNT, lot_id, 10, "grant", expires_at=expires, **more))
        lots.append(book.lots[lot_id])
    book.now = later(5)
    order = in_order(lots, pool_id)
    held = chance.randint(0, 10 * len(order) - 1) + 1 if order else 0
    cost = chance.randint(0, held)
    if held:
        told = answer(book, Reserve(ACCOUNT, "hold", held, pool_id))
        assert [part["lotId"] for part in told["allocations"]] == order[: -(-held // 10)]
        chance.shuffle(book.reservations["hold"].allocations)  # as a database may return them
        answer(book, Finalize("hold", cost))
    consumed = [min(10, max(0, cost - 10 * place)) for place in range(len(order))]
    assert [book.lots[lot_id].consumed_micro for lot_id in order] == consumed
    assert_sound(book)
