"""Refunds and adjustments on books in memory: who loses what, and that nothing leaks."""

import copy
from typing import Any

import pytest

from shared.ledger.commands import (
    Adjust,
    ExpireHold,
    ExpireLot,
    Finalize,
    Mint,
    Refund,
    Release,
    Reserve,
)
from shared.ledger.state import Book
from tests.books import (
    ACCOUNT,
    CAMPAIGN,
    OTHER,
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

CEILING = 100_000_000_000


def mint(book: Book, lot_id: str, amount: int, **more: Any) -> dict[str, Any]:
    return answer(book, Mint(ACCOUNT, lot_id, amount, "deposit", **more))


def hold(book: Book, hold_id: str, amount: int, mode: Mode = "live", **more: Any) -> dict[str, Any]:
    return answer(book, Reserve(ACCOUNT, hold_id, amount, **more), mode)


def spend(book: Book, amount: int, mode: Mode = "live") -> None:
    """Hold *amount* and finalize it in full."""
    name = f"spent-{len(book.reservations)}"
    hold(book, name, amount, mode)
    answer(book, Finalize(name, amount))


def refund(book: Book, lot_id: str = "lot", **more: Any) -> tuple[int, int, int]:
    """Refund a lot; return what was clawed back, what became debt, and what is still held."""
    told = answer(book, Refund(ACCOUNT, lot_id, **more))
    return int(told["clawedBackMicro"]), int(told["debtMicro"]), int(told["heldMicro"])


def taken_back(book: Book, lot_id: str = "lot") -> tuple[int, int, int]:
    """Return what a refunded lot has lost by now, what is owed for it, what holds still have.

    The three always sum to what the lot brought, less what had expired.
    """
    lot = book.lots[lot_id]
    owed = sum(debt.original_micro for debt in book.debts if debt.source_lot_id == lot_id)
    assert lot.available_micro == 0
    assert lot.clawed_back_micro + owed + lot.reserved_micro == (
        lot.original_micro - lot.expired_micro
    )
    assert_sound(book)
    return lot.clawed_back_micro, owed, lot.reserved_micro


def test_a_refund_of_an_untouched_lot_takes_all_of_it() -> None:
    book = new_book()
    mint(book, "lot", 100)
    told = answer(book, Refund(ACCOUNT, "lot", "payment-1", "The provider sent it back."))
    assert told == {
        "lotId": "lot",
        "accountId": ACCOUNT,
        "clawedBackMicro": "100",
        "debtMicro": "0",
        "heldMicro": "0",
        "balance": {
            "availableMicro": "0", "reservedMicro": "0", "debtMicro": "0", "settledMicro": "0",
        },
    }  # fmt: skip
    assert entries(book) == [("deposit", 100, 0, 100), ("refund", -100, 100, 0)]
    last = book.entries[-1]
    assert (last["lot_id"], last["description"]) == ("lot", "The provider sent it back.")
    assert last["metadata"] == '{"clawedBackMicro":"100","debtMicro":"0"}'
    assert parts(book, "lot") == (0, 0, 100)
    assert taken_back(book) == (100, 0, 0)
    assert book.debts == []


def test_what_was_spent_of_a_refunded_lot_becomes_a_debt_that_names_it() -> None:
    """Contract 6: refunded -> clawback, the consumed part becomes debt."""
    book = new_book()
    mint(book, "lot", 100)
    spend(book, 60)
    assert refund(book, payment_id="payment-1") == (40, 60, 0)
    assert taken_back(book) == (40, 60, 0)
    assert balance(book) == (-60, 0, 60)
    [debt] = book.debts
    assert (debt.source_lot_id, debt.source_payment_id) == ("lot", "payment-1")
    assert (debt.debt_micro, debt.source_reservation_id, debt.resolved_at) == (60, None, None)
    assert entries(book)[-1] == ("refund", -100, 40, -60)


def test_the_next_deposit_pays_the_debt_of_a_refund() -> None:
    """Behaviour 161."""
    book = new_book()
    mint(book, "lot", 100)
    spend(book, 100)
    refund(book)
    assert mint(book, "next", 150)["debtPaidMicro"] == "100"
    assert balance(book) == (50, 0, 0)
    assert book.debts[0].resolved_at == book.now
    assert taken_back(book) == (0, 100, 0)


def test_a_lot_is_refunded_once_and_a_repeat_gets_the_same_answer() -> None:
    """Behaviour 160 (W27): the earlier system doubled the debt."""
    book = new_book()
    mint(book, "lot", 100)
    spend(book, 60)
    first = do(book, Refund(ACCOUNT, "lot", "payment-1"))
    mint(book, "next", 10)
    before = copy.deepcopy(book)
    again = do(book, Refund(ACCOUNT, "lot", "payment-1"))
    assert (first.is_replay, again.is_replay) == (False, True)
    assert again.answer == first.answer
    assert book == before
    assert taken_back(book) == (40, 60, 0)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (Refund(ACCOUNT, "unknown"), "lot_not_found"),
        (Refund(OTHER, "lot"), "lot_not_found"),
        (Refund("nobody", "lot"), "account_not_found"),
    ],
)
def test_a_refund_must_name_a_lot_of_the_account(command: Refund, code: str) -> None:
    book = new_book()
    mint(book, "lot", 100)
    before = copy.deepcopy(book)
    assert refusal(book, command) == code
    assert book == before


@pytest.mark.parametrize("end", ["release", "expiry", "finalize of nothing"])
def test_the_held_part_of_a_refunded_lot_is_clawed_back_when_its_hold_gives_it_back(
    end: str,
) -> None:
    """Behaviour 160 (W28): the earlier system made it spendable again."""
    book = new_book()
    mint(book, "lot", 100)
    hold(book, "hold", 70)
    assert refund(book) == (30, 0, 70)
    assert taken_back(book) == (30, 0, 70)
    assert balance(book) == (0, 70, 0)
    if end == "release":
        answer(book, Release("hold"))
    elif end == "expiry":
        book.now = later(300)
        answer(book, ExpireHold("hold"))
    else:
        answer(book, Finalize("hold", 0))
    assert taken_back(book) == (100, 0, 0)
    assert balance(book) == (0, 0, 0)
    given_back = [e for e in entries(book) if e[0] != "finalize"][-2:]
    assert given_back == [("release", 70, 0, 70), ("refund", -70, 70, 0)]


@pytest.mark.parametrize(("cost", "clawed_back"), [(70, 30), (45, 55), (1, 99)])
def test_what_a_hold_spends_of_a_refunded_lot_becomes_a_debt(cost: int, clawed_back: int) -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, "hold", 70)
    refund(book)
    done = answer(book, Finalize("hold", cost))
    assert (done["finalizedMicro"], done["debtMicro"]) == (str(cost), "0")
    assert taken_back(book) == (clawed_back, cost, 0)
    assert balance(book) == (-cost, 0, cost)
    assert entries(book)[-2:] == [
        ("finalize", -cost, 70, 70 - cost),
        ("refund", -70, 70 - cost, -cost),
    ]
    assert answer(book, Finalize("hold", cost)) == done
    assert taken_back(book) == (clawed_back, cost, 0)


def test_of_two_holds_on_a_refunded_lot_each_is_settled_for_itself() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, "first", 50)
    hold(book, "second", 30)
    refund(book)
    answer(book, Finalize("first", 20))
    assert taken_back(book) == (50, 20, 30)
    answer(book, Release("second"))
    assert taken_back(book) == (80, 20, 0)
    assert balance(book) == (-20, 0, 20)


def test_a_hold_over_a_refunded_and_another_lot_returns_only_the_other() -> None:
    book = new_book()
    mint(book, "lot", 50)
    mint(book, "other", 50)
    hold(book, "hold", 80)
    refund(book)
    answer(book, Release("hold"))
    assert taken_back(book) == (50, 0, 0)
    assert balance(book) == (50, 0, 0)
    assert parts(book, "other") == (50, 0, 0)


def test_a_late_finalize_after_a_refund_takes_what_else_is_there_and_owes_the_rest() -> None:
    """Contract 4.4: what the hold had was clawed back when it expired, so it is not taken twice."""
    book = new_book()
    mint(book, "lot", 100)
    mint(book, "other", 10)
    hold(book, "hold", 70)
    book.now = later(300)
    refund(book)
    done = answer(book, Finalize("hold", 70))
    assert (done["late"], done["finalizedMicro"], done["debtMicro"]) == (True, "70", "60")
    assert taken_back(book) == (100, 0, 0)
    assert balance(book) == (-60, 0, 60)
    assert [debt.source_reservation_id for debt in book.debts] == ["hold"]


def test_a_refunded_lot_is_spent_by_nobody_even_through_a_soft_overrun() -> None:
    book = new_book()
    mint(book, "lot", 100)
    hold(book, "hold", 60, "soft")
    refund(book)
    assert hold(book, "more", 5, "soft")["allocations"] == []
    done = answer(book, Finalize("hold", 90))
    assert (done["finalizedMicro"], done["debtMicro"]) == ("90", "30")
    assert taken_back(book) == (40, 60, 0)
    assert balance(book) == (-90, 0, 90)


def test_a_refund_of_a_lot_that_paid_debts_brings_them_back() -> None:
    book = new_book()
    spend(book, 80, "soft")
    assert mint(book, "lot", 100)["debtPaidMicro"] == "80"
    spend(book, 15)
    assert refund(book) == (5, 95, 0)
    assert taken_back(book) == (5, 95, 0)
    assert balance(book) == (-95, 0, 95)
    assert [(d.original_micro, d.resolved_at is None) for d in book.debts] == [
        (80, False),
        (95, True),
    ]


def test_what_had_expired_is_neither_clawed_back_nor_owed() -> None:
    book = new_book()
    mint(book, "lot", 100, expires_at=later(600))
    spend(book, 30)
    hold(book, "hold", 20, ttl_seconds=3_600)
    book.now = later(600)
    answer(book, ExpireLot(ACCOUNT, "lot"))
    assert refund(book) == (0, 30, 20)
    assert taken_back(book) == (0, 30, 20)
    answer(book, Finalize("hold", 5))
    assert taken_back(book) == (15, 35, 0)
    assert book.lots["lot"].expired_micro == 50


def test_a_refund_of_an_empty_lot_moves_nothing_and_is_remembered() -> None:
    book = new_book()
    mint(book, "lot", 100, expires_at=later(0))
    assert refund(book) == (0, 0, 0)
    assert taken_back(book) == (0, 0, 0)
    assert do(book, Refund(ACCOUNT, "lot")).is_replay


def test_a_refund_in_a_campaign_pool_leaves_the_debt_in_general() -> None:
    book = new_book()
    mint(book, "lot", 100, pool_id=CAMPAIGN)
    mint(book, "other", 50)
    hold(book, "hold", 60, pool_id=CAMPAIGN)
    answer(book, Finalize("hold", 60))
    assert refund(book) == (40, 60, 0)
    assert taken_back(book) == (40, 60, 0)
    assert balance(book) == (-10, 0, 60)
    assert balance(book, pool_id=CAMPAIGN) == (-10, 0, 60)
    assert book.entries[-1]["pool_id"] == CAMPAIGN


def test_credits_are_added_by_a_lot_of_the_adjustments_own() -> None:
    book = new_book()
    told = answer(book, Adjust(ACCOUNT, "fix", 40, "A lost deposit.", CAMPAIGN, "key"))
    assert told == {
        "adjustmentId": "fix",
        "accountId": ACCOUNT,
        "amountMicro": "40",
        "debtMicro": "0",
        "lotId": "fix",
        "balance": {
            "availableMicro": "40", "reservedMicro": "0", "debtMicro": "0", "settledMicro": "40",
        },
    }  # fmt: skip
    assert parts(book, "fix") == (40, 0, 0)
    assert balance(book) == (0, 0, 0)
    assert entries(book) == [("adjust", 40, 0, 40)]
    last = book.entries[-1]
    assert (last["lot_id"], last["description"], last["idempotency_key"]) == (
        "fix", "A lost deposit.", "key",
    )  # fmt: skip
    assert_sound(book)


def test_added_credits_pay_debts_first() -> None:
    book = new_book()
    spend(book, 30, "soft")
    told = answer(book, Adjust(ACCOUNT, "fix", 40, "Goodwill."))
    assert (told["debtMicro"], told["balance"]["availableMicro"]) == ("0", "10")
    assert parts(book, "fix") == (10, 0, 30)
    assert [p["paid_micro"] for p in book.debt_payments] == [30]
    assert entries(book)[-1] == ("adjust", 40, -30, 10)
    assert_sound(book)


def test_credits_are_taken_in_redemption_order_and_what_lacks_is_owed() -> None:
    book = new_book()
    mint(book, "lasting", 50)
    mint(book, "ending", 20, expires_at=later(60))
    hold(book, "hold", 10)
    assert answer(book, Adjust(ACCOUNT, "one", -25, "Credited twice."))["debtMicro"] == "0"
    assert (parts(book, "ending"), parts(book, "lasting")) == ((0, 10, 10), (35, 0, 15))
    told = answer(book, Adjust(ACCOUNT, "two", -45, "Credited twice."))
    assert (told["lotId"], told["amountMicro"], told["debtMicro"]) == (None, "-45", "10")
    assert balance(book) == (-10, 10, 10)
    assert entries(book)[-2:] == [("adjust", -25, 60, 35), ("adjust", -45, 35, -10)]
    assert book.entries[-1]["metadata"] == '{"debtMicro":"10"}'
    assert_sound(book)


def test_taking_in_general_leaves_campaign_credits_alone() -> None:
    book = new_book()
    mint(book, "lot", 10)
    mint(book, "grant", 90, pool_id=CAMPAIGN)
    assert answer(book, Adjust(ACCOUNT, "fix", -15, "x"))["debtMicro"] == "5"
    assert (balance(book), parts(book, "grant")) == ((-5, 0, 5), (90, 0, 0))
    assert answer(book, Adjust(ACCOUNT, "fix-2", -95, "x", CAMPAIGN))["debtMicro"] == "5"
    assert (balance(book), parts(book, "grant")) == ((-10, 0, 10), (0, 0, 90))
    assert_sound(book)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"amount_micro": 0}, "invalid_amount"),
        ({"amount_micro": CEILING + 1}, "amount_above_ceiling"),
        ({"amount_micro": -CEILING - 1}, "amount_above_ceiling"),
        ({"reason": ""}, "reason_required"),
        ({"reason": " \n"}, "reason_required"),
        ({"account_id": "nobody"}, "account_not_found"),
        ({"adjustment_id": "lot"}, "id_in_use"),
    ],
)
def test_a_senseless_adjustment_changes_nothing(changes: dict[str, Any], code: str) -> None:
    book = new_book()
    mint(book, "lot", 10)
    before = copy.deepcopy(book)
    wanted = {"account_id": ACCOUNT, "adjustment_id": "fix", "amount_micro": 5, "reason": "x"}
    assert refusal(book, Adjust(**{**wanted, **changes})) == code
    assert book == before


def test_an_adjustment_is_made_once_and_its_key_is_kept_to_its_content() -> None:
    book = new_book()
    first = answer(book, Adjust(ACCOUNT, "fix", -5, "x", idempotency_key="key"))
    again = do(book, Adjust(ACCOUNT, "another", -5, "x", idempotency_key="key"))
    assert (again.answer, again.is_replay) == (first, True)
    for other in (
        Adjust(ACCOUNT, "fix", 5, "x", idempotency_key="key"),
        Adjust(ACCOUNT, "fix", -5, "y", idempotency_key="key"),
        Adjust(ACCOUNT, "fix", -5, "x", CAMPAIGN, "key"),
    ):
        assert refusal(book, other) == "idempotency_conflict"
    assert balance(book) == (-5, 0, 5)
