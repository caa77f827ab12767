"""Holds that are extended, and streams in which lots, holds and debts change in any order."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ledger.commands import (
    Adjust,
    Command,
    ExpireHold,
    Extend,
    Finalize,
    Mint,
    Refund,
    Release,
    Reserve,
)
from shared.ledger.rules import apply
from shared.ledger.state import AccountState, Book
from tests.books import (
    ACCOUNT,
    CAMPAIGN,
    OTHER,
    TERMS,
    Mode,
    answer,
    assert_sound,
    balance,
    do,
    entries,
    later,
    new_book,
    parts,
    refusal,
)


def mint(book: Book, lot_id: str, amount: int, **more: Any) -> dict[str, Any]:
    return answer(book, Mint(ACCOUNT, lot_id, amount, "deposit", **more))


def hold(book: Book, amount: int, mode: Mode = "live", **more: Any) -> dict[str, Any]:
    return answer(book, Reserve(ACCOUNT, "hold", amount, **more), mode)


def extend(book: Book, amount: int, mode: Mode = "live", **more: Any) -> dict[str, Any]:
    name = f"extension-{len(book.entries)}"
    return answer(book, Extend("hold", amount, name, **more), mode)


def allocations(book: Book) -> list[tuple[str, int]]:
    return [(a.lot.id, a.reserved_micro) for a in book.reservations["hold"].allocations]


def test_an_extension_on_the_same_lot_makes_its_part_larger() -> None:
    book = new_book()
    mint(book, "lot", 100)
    first = hold(book, 30)
    told = extend(book, 20)
    assert told == {
        **first,
        "reservedMicro": "50",
        "balance": {
            "availableMicro": "50", "reservedMicro": "50", "debtMicro": "0", "settledMicro": "100",
        },
        "allocations": [{"lotId": "lot", "reservedMicro": "50"}],
    }  # fmt: skip
    assert allocations(book) == [("lot", 50)]
    assert entries(book)[1:] == [("reserve", -30, 100, 70), ("reserve", -20, 70, 50)]
    assert_sound(book)


def test_an_extension_goes_on_with_the_next_lots_and_is_answered_in_redemption_order() -> None:
    book = new_book()
    mint(book, "b", 30)
    hold(book, 20)
    mint(book, "a", 30, expires_at=later(900))
    told = extend(book, 35)
    assert allocations(book) == [("b", 25), ("a", 30)]
    assert told["allocations"] == [
        {"lotId": "a", "reservedMicro": "30"},
        {"lotId": "b", "reservedMicro": "25"},
    ]
    assert_sound(book)
    assert answer(book, Finalize("hold", 40))["releasedMicro"] == "15"
    assert (parts(book, "a"), parts(book, "b")) == ((0, 0, 30), (20, 0, 10))
    assert_sound(book)


@pytest.mark.parametrize("end", ["finalize", "release", "expiry"])
def test_an_extended_hold_ends_as_one(end: str) -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 30)
    extend(book, 20)
    extend(book, 50)
    if end == "finalize":
        done = answer(book, Finalize("hold", 100))
        assert (done["finalizedMicro"], done["unchargedMicro"]) == ("100", "0")
        assert balance(book) == (0, 0, 0)
    elif end == "release":
        assert answer(book, Release("hold"))["releasedMicro"] == "100"
        assert balance(book) == (100, 0, 0)
    else:
        book.now = later(300)
        answer(book, ExpireHold("hold"))
        assert balance(book) == (100, 0, 0)
        assert answer(book, Finalize("hold", 101))["unchargedMicro"] == "1"
    assert_sound(book)


@pytest.mark.parametrize(
    ("ttl", "ends_after"), [(None, 300), (1, 300), (200, 300), (201, 301), (86_400, 86_500)]
)
def test_an_extension_only_ever_makes_a_hold_last_longer(ttl: int | None, ends_after: int) -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 30)
    book.now = later(100)
    extend(book, 1, ttl_seconds=ttl)
    assert book.reservations["hold"].expires_at == later(ends_after)


def test_in_live_an_extension_beyond_the_credits_is_refused_and_changes_nothing() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 60)
    before = copy.deepcopy(book)
    refused = do(book, Extend("hold", 41, "extension", ttl_seconds=86_400)).error
    assert refused is not None
    assert refused.code == "insufficient_credits"
    assert refused.details == {"balance_micro": "40", "required_micro": "41"}
    assert book == before
    assert extend(book, 40)["reservedMicro"] == "100"


def test_in_soft_an_extension_beyond_the_credits_is_overdraft() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 60, "soft")
    told = extend(book, 90)
    assert (told["reservedMicro"], told["billingMode"]) == ("150", "soft")
    assert told["allocations"] == [{"lotId": "lot", "reservedMicro": "100"}]
    assert book.reservations["hold"].overdraft_micro == 50
    assert_sound(book)
    done = answer(book, Finalize("hold", 150))
    assert (done["overrunMicro"], done["debtMicro"]) == ("0", "50")
    assert balance(book) == (-50, 0, 50)
    assert_sound(book)


def test_in_shadow_an_extension_moves_nothing_and_keeps_its_mode() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 60, "shadow")
    told = extend(book, 500, "live")
    assert (told["reservedMicro"], told["billingMode"]) == ("560", "shadow")
    assert told["balance"]["availableMicro"] == "100"
    assert balance(book) == (100, 0, 0)
    assert entries(book)[1:] == [
        ("shadow_reserve", 60, 100, 100),
        ("shadow_reserve", 500, 100, 100),
    ]
    assert answer(book, Finalize("hold", 560))["overrunMicro"] == "0"
    assert_sound(book)


@pytest.mark.parametrize("end", [Finalize("hold", 0), Finalize("hold", 60), Release("hold")])
def test_a_hold_that_has_ended_is_not_extended(end: Command) -> None:
    """Contract 4: 409 not pending."""
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 60)
    answer(book, end)
    before = copy.deepcopy(book)
    assert refusal(book, Extend("hold", 1, "extension")) == "reservation_not_pending"
    assert book == before


def test_a_hold_whose_time_is_over_is_not_extended_even_before_the_sweep() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 60)
    book.now = later(300)
    command = Extend("hold", 1, "extension", ttl_seconds=600)
    assert refusal(book, command) == "reservation_not_pending"
    assert balance(book) == (100, 0, 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"reservation_id": "unknown"}, "reservation_not_found"),
        ({"account_id": OTHER}, "account_mismatch"),
        ({"additional_micro": 0}, "invalid_amount"),
        ({"additional_micro": 1_001}, "amount_above_ceiling"),
        ({"additional_micro": 941}, "amount_above_ceiling"),  # the whole hold counts
    ],
)
def test_a_senseless_extension_changes_nothing(changes: dict[str, Any], code: str) -> None:
    book = new_book()
    mint(book, "lot", 2_000)
    hold(book, 60)
    before = copy.deepcopy(book)
    command = replace(Extend("hold", 10, "extension"), **changes)
    refused = apply(book, command, replace(TERMS["live"], ceiling_micro=1_000)).error
    assert refused is not None
    assert refused.code == code
    assert book == before


def test_an_extension_is_made_once_for_each_key_also_after_the_hold_has_ended() -> None:
    """Contract 4.1."""
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 30)
    first = answer(book, Extend("hold", 20, "one", 600, idempotency_key="key"))
    for moment in ("while it is pending", "after its end"):
        again = do(book, Extend("hold", 20, "two", 600, ACCOUNT, "key"))
        assert (again.answer, again.is_replay) == (first, True), moment
        for other in (Extend("hold", 21, "two", 600), Extend("hold", 20, "two")):
            assert refusal(book, replace(other, idempotency_key="key")) == "idempotency_conflict"
        if moment == "while it is pending":
            answer(book, Release("hold"))
    assert balance(book) == (100, 0, 0)
    assert_sound(book)


def test_an_extension_takes_nothing_from_a_refunded_lot() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, 60)
    answer(book, Refund(ACCOUNT, "lot"))
    assert refusal(book, Extend("hold", 1, "extension")) == "insufficient_credits"
    mint(book, "next", 10)
    extend(book, 10)
    assert allocations(book) == [("lot", 60), ("next", 10)]
    assert_sound(book)


@dataclass(frozen=True)
class Step:
    """One drawn command: what it does, to which earlier lot or hold, and when."""

    kind: str
    amount: int
    back: int
    mode: Mode
    pool_id: str
    seconds: int


KINDS = ("mint", "mint", "reserve", "reserve", "extend", "finalize", "finalize", "release")
streams = st.lists(
    st.builds(
        Step,
        kind=st.sampled_from((*KINDS, "refund", "refund", "add", "take")),
        amount=st.integers(0, 30),
        back=st.integers(1, 9),
        mode=st.sampled_from(["shadow", "soft", "soft", "live", "live"]),
        pool_id=st.sampled_from(["general", "general", CAMPAIGN]),
        seconds=st.sampled_from([0, 0, 0, 1, 60, 300]),
    ),
    min_size=5,
    max_size=40,
)


def command_of(step: Step, place: int) -> Command:
    """Return the command that *step* stands for as number *place* of its stream."""
    earlier, amount, pool = str(place - step.back), step.amount, step.pool_id
    ends = later(60 * step.back) if step.back % 2 else None
    drawn: dict[str, Command] = {
        "mint": Mint(ACCOUNT, str(place), amount, "deposit", pool_id=pool, expires_at=ends),
        "reserve": Reserve(ACCOUNT, str(place), amount, pool, 60 * step.back),
        "extend": Extend(earlier, amount, str(place), step.back * 60),
        "finalize": Finalize(earlier, amount),
        "release": Release(earlier),
        "refund": Refund(ACCOUNT, earlier),
        "add": Adjust(ACCOUNT, str(place), amount, "drawn", pool),
        "take": Adjust(ACCOUNT, str(place), -amount, "drawn", pool),
    }
    return drawn[step.kind]


@given(streams)
def test_whatever_happens_no_credit_appears_or_is_lost(stream: list[Step]) -> None:
    """All that ever came is there, spent, expired, or was taken back (issue 3, behaviour 157)."""
    book, came, seconds = new_book(), 0, 0
    for place, step in enumerate(stream):
        seconds += step.seconds
        book.now = later(seconds)
        command = command_of(step, place)
        before = copy.deepcopy(book)
        outcome = do(book, command, step.mode)
        if outcome.error is not None:
            assert same_after_time(before, book), command
        elif isinstance(command, (Mint, Adjust)) and not outcome.is_replay:
            came += command.amount_micro
        assert_sound(book)
        assert_refunds_add_up(book)
        assert came == told_for(book, book.accounts[ACCOUNT])


def same_after_time(before: Book, after: Book) -> bool:
    """Tell whether a refused command changed nothing but what time alone has done."""
    do(before, Release("no such hold"))
    ignored = {"id", "created_at"}
    for book in (before, after):
        book.entries = [{k: v for k, v in e.items() if k not in ignored} for e in book.entries]
        for debt in book.debts:
            debt.id = ""
    return before == after


def told_for(book: Book, account: AccountState) -> int:
    """Return what is available and held, was charged, expired, or taken back for a refund."""
    there = sum(pool.available_micro + pool.reserved_micro for pool in account.pools.values())
    charged = sum(
        hold.finalized_micro for hold in book.reservations.values() if hold.billing_mode != "shadow"
    )
    lost = sum(lot.expired_micro + lot.clawed_back_micro for lot in book.lots.values())
    owed = sum(debt.original_micro for debt in book.debts if debt.source_lot_id is not None)
    return there + charged + lost + owed


def assert_refunds_add_up(book: Book) -> None:
    """Clawed back, owed and still held of each refunded lot are what it brought and kept."""
    for lot in book.lots.values():
        owed = sum(d.original_micro for d in book.debts if d.source_lot_id == lot.id)
        if lot.refunded_at is None:
            assert (owed, lot.clawed_back_micro) == (0, 0)
        else:
            kept = lot.original_micro - lot.expired_micro
            assert lot.clawed_back_micro + owed + lot.reserved_micro == kept
            assert lot.available_micro == 0
