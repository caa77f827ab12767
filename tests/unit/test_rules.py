"""The rules of the ledger, without a database: who gets, who pays, who is refused."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from shared.ledger.commands import ExpireHold, ExpireLot, Finalize, Mint, Release, Reserve
from shared.ledger.postings import cost_rule, overrun_pct, split_revenue, take
from shared.ledger.rules import apply
from shared.ledger.state import AccountState, Book, DebtState
from shared.ledger.terms import Terms
from tests.books import (
    ACCOUNT,
    CAMPAIGN,
    OTHER,
    START,
    TERMS,
    Mode,
    answer,
    assert_sound,
    balance,
    entries,
    later,
    new_book,
    parts,
    refusal,
)


def mint(book: Book, lot_id: str, amount: int, **more: Any) -> dict[str, Any]:
    return answer(book, Mint(ACCOUNT, lot_id, amount, more.pop("kind", "grant"), **more))


def hold(book: Book, hold_id: str, amount: int, mode: Mode = "live", **more: Any) -> dict[str, Any]:
    return answer(book, Reserve(ACCOUNT, hold_id, amount, **more), mode)


@pytest.mark.parametrize(
    ("mode", "reserved", "actual", "expected"),
    [
        *((mode, 10, 0, (0, 0, 0)) for mode in TERMS),
        *((mode, 10, 9, (9, 0, 0)) for mode in TERMS),
        *((mode, 10, 10, (10, 0, 0)) for mode in TERMS),
        ("shadow", 10, 25, (10, 15, 0)),
        ("soft", 10, 25, (25, 15, 0)),
        ("live", 10, 25, (10, 0, 15)),
    ],
)
def test_the_mode_decides_what_an_overrun_costs(
    mode: str, reserved: int, actual: int, expected: tuple[int, int, int]
) -> None:
    """Behaviours 5.4.4, 38-40: charged, overrun, uncharged."""
    assert cost_rule(mode, reserved_micro=reserved, actual_micro=actual) == expected


@pytest.mark.parametrize(
    ("reserved", "excess", "percent"),
    [(100, 5, 5), (100, 6, 6), (1000, 59, 5), (3, 1, 33), (1, 9, 900)],
)
def test_an_overrun_is_told_in_whole_percent_of_its_hold(
    reserved: int, excess: int, percent: int
) -> None:
    """Behaviour 6.4: floored."""
    assert overrun_pct(reserved_micro=reserved, excess_micro=excess) == percent


def test_what_the_caller_measured_stands_on_the_entry_beside_our_figures() -> None:
    """Behaviour 74."""
    book = new_book()
    answer(book, Reserve(ACCOUNT, "hold", 100), "shadow")
    told = '{"model":"m","overrunMicro":"7"}'
    answer(book, Finalize("hold", 150, details=told), "shadow")
    assert json.loads(book.entries[-1]["metadata"]) == {"model": "m", "overrunMicro": "50"}


@pytest.mark.parametrize(
    ("charged", "shares"),
    [
        (1_000_000, (50_000, 700_000, 250_000)),
        (3, (0, 2, 1)),
        (1, (0, 0, 1)),
        (0, (0, 0, 0)),
        (999_999, (49_999, 699_999, 250_001)),
        (7_777_777, (388_888, 5_444_443, 1_944_446)),
        (123_456_789, (6_172_839, 86_419_752, 30_864_198)),
    ],
)
def test_revenue_is_split_by_the_rates_and_the_foundation_takes_the_rest(
    charged: int, shares: tuple[int, int, int]
) -> None:
    """Behaviours 76, 77, 79, 81."""
    assert split_revenue(charged, Terms()) == shares


def test_a_charge_posts_three_shares_in_order_without_sequence_or_balance() -> None:
    """Behaviours 78 and 82: the rates and receivers in force when it is finalized."""
    book, terms = new_book(), Terms("live", commons_rate_bps=1000, community_rate_bps=6000)
    terms = replace(terms, foundation_rate_bps=3000, community_account_id=OTHER)
    mint(book, "lot", 1_000_000)
    hold(book, "hold", 1_000_000)
    apply(book, Finalize("hold", 1_000_000), terms).unwrap()
    posted = [e for e in book.entries if e["entry_seq"] is None]
    assert [(e["account_id"], e["entry_type"], e["amount_micro"]) for e in posted] == [
        ("sys-commons", "commons_contribution", 100_000),
        (OTHER, "revenue_share", 600_000),
        ("sys-foundation", "revenue_share", 300_000),
    ]
    assert {(e["reservation_id"], e["pre_balance_micro"]) for e in posted} == {("hold", None)}
    assert not book.reservations["hold"].is_revenue_posted


def test_a_share_of_nothing_is_not_posted() -> None:
    """Behaviours 77 and 79."""
    book = new_book()
    mint(book, "lot", 10)
    for cost in (0, 3):
        hold(book, f"hold-{cost}", 3)
        answer(book, Finalize(f"hold-{cost}", cost))
    shares = [(e["account_id"], e["amount_micro"]) for e in book.entries if e["entry_seq"] is None]
    assert shares == [("sys-community-pool", 2), ("sys-foundation", 1)]
    assert book.reservations["hold-0"].is_revenue_posted


def test_lots_are_taken_greedily_and_no_further_than_they_reach() -> None:
    book = new_book()
    lots = [book.lots[mint(book, f"lot-{n}", 10)["lotId"]] for n in range(3)]
    assert take(lots, 15) == [(lots[0], 10), (lots[1], 5)]
    assert take(lots, 20) == [(lots[0], 10), (lots[1], 10)]
    assert take(lots, 50) == [(lot, 10) for lot in lots]
    assert take(lots, 0) == []


def test_a_part_of_a_hold_is_charged_and_the_rest_comes_back() -> None:
    """Behaviours 58, 61 and W22: the entries sum to the balance."""
    book = new_book()
    mint(book, "lot", 10)
    hold(book, "hold", 5)
    done = answer(book, Finalize("hold", 3))
    assert [done[k] for k in ("finalizedMicro", "releasedMicro", "overrunMicro")] == ["3", "2", "0"]
    assert entries(book) == [
        ("grant", 10, 0, 10),
        ("reserve", -5, 10, 5),
        ("release", 5, 5, 10),
        ("finalize", -3, 10, 7),
    ]
    assert balance(book) == (7, 0, 0)
    assert_sound(book)


def test_a_soft_overrun_is_charged_to_other_lots_then_owed() -> None:
    """Behaviours 39, 60, 144 and W5."""
    book = new_book()
    mint(book, "first", 5)
    mint(book, "second", 4)
    hold(book, "hold", 5, "soft")
    done = answer(book, Finalize("hold", 12), "soft")
    assert (done["finalizedMicro"], done["overrunMicro"], done["debtMicro"]) == ("12", "7", "3")
    assert (parts(book, "first"), parts(book, "second")) == ((0, 0, 5), (0, 0, 4))
    assert balance(book) == (-3, 0, 3)
    settled = next(e for e in book.entries if e["entry_type"] == "finalize")
    assert json.loads(settled["metadata"]) == {"overrunMicro": "7", "debtMicro": "3"}
    assert mint(book, "third", 5)["debtPaidMicro"] == "3"
    assert balance(book) == (2, 0, 0)
    assert_sound(book)


def test_a_soft_hold_is_granted_without_credits_and_owed_when_settled() -> None:
    """Contract 4.2: what no lot covers is overdraft, and a debt only at finalize."""
    book = new_book()
    mint(book, "lot", 4)
    held = hold(book, "hold", 10, "soft")
    assert held["allocations"] == [{"lotId": "lot", "reservedMicro": "4"}]
    assert balance(book) == (0, 4, 0)
    assert answer(book, Finalize("hold", 9), "live")["debtMicro"] == "5"
    assert balance(book) == (-5, 0, 5)
    assert_sound(book)


def test_a_live_overrun_is_capped_and_the_rest_is_written_down() -> None:
    """Behaviours 40, 143 and W4."""
    book = new_book()
    mint(book, "lot", 10)
    hold(book, "hold", 1)
    done = answer(book, Finalize("hold", 3))
    assert (done["finalizedMicro"], done["unchargedMicro"], done["overrunMicro"]) == ("1", "2", "0")
    settled = next(e for e in book.entries if e["entry_type"] == "finalize")
    assert json.loads(settled["metadata"]) == {"unchargedMicro": "2"}
    assert balance(book) == (9, 0, 0)


def test_shadow_holds_and_charges_nothing_but_answers_as_if() -> None:
    """Behaviours 38, 141 and W3."""
    book = new_book()
    mint(book, "lot", 10)
    held = hold(book, "hold", 4, "shadow")
    assert (held["reservedMicro"], held["billingMode"]) == ("4", "shadow")
    assert held["allocations"] == [{"lotId": "lot", "reservedMicro": "4"}]
    done = answer(book, Finalize("hold", 9), "live")
    assert (done["finalizedMicro"], done["overrunMicro"]) == ("4", "5")
    assert (balance(book), parts(book, "lot")) == ((10, 0, 0), (10, 0, 0))
    assert entries(book)[1:] == [("shadow_reserve", 4, 10, 10), ("shadow_finalize", 4, 10, 10)]
    assert_sound(book)


def test_a_deposit_pays_the_oldest_debts_first() -> None:
    """Behaviour 161, W30."""
    book = new_book()
    for number, cost in enumerate([3, 5, 4]):
        book.now = later(number)
        hold(book, f"hold-{number}", 1, "soft")
        answer(book, Finalize(f"hold-{number}", cost), "soft")
    assert mint(book, "lot", 6)["debtPaidMicro"] == "6"
    debts = book.accounts[ACCOUNT].debts
    assert [(d.debt_micro, d.original_micro, d.resolved_at is None) for d in debts] == [
        (3, 3, False), (2, 5, True), (4, 4, True),
    ]  # fmt: skip
    assert [(p["debt_id"], p["paid_micro"]) for p in book.debt_payments] == [
        (debts[0].id, 3), (debts[1].id, 3),
    ]  # fmt: skip
    assert (parts(book, "lot"), balance(book)) == ((0, 0, 6), (-6, 0, 6))
    assert mint(book, "rest", 10)["debtPaidMicro"] == "6"
    assert (balance(book), [d.resolved_at is None for d in debts]) == ((4, 0, 0), [False] * 3)
    assert_sound(book)


def test_a_debt_that_was_loaded_is_paid_and_saved_once() -> None:
    book = new_book()
    debt = DebtState("debt", ACCOUNT, debt_micro=4, original_micro=9, created_at=START)
    account = book.accounts[ACCOUNT]
    account.debts.append(debt)
    account.pool("general").available_micro, account.pool("general").debt_micro = -4, 4
    assert [mint(book, f"lot-{n}", 3)["debtPaidMicro"] for n in range(3)] == ["3", "1", "0"]
    assert (book.debts, debt.is_changed, debt.is_new) == ([debt], True, False)
    assert (debt.debt_micro, debt.resolved_at, balance(book)) == (1, START, (5, 0, 0))


def test_credits_that_are_owed_cannot_be_held() -> None:
    """Contract 4.3: available is lots less debts."""
    book = new_book()
    book.accounts[ACCOUNT].pool("general").available_micro = -6
    book.accounts[ACCOUNT].pool("general").debt_micro = 6
    answer(book, Mint(ACCOUNT, "lot", 10, "grant"))  # its debts were not loaded: 6 stay owed
    assert refusal(book, Reserve(ACCOUNT, "hold", 5)) == "insufficient_credits"
    hold(book, "hold", 4)
    assert balance(book) == (0, 4, 6)


def test_time_ends_holds_and_lots_and_writes_entries() -> None:
    """Behaviours 47, 55, 152 and W14."""
    book = new_book()
    mint(book, "brief", 6, expires_at=later(60))
    mint(book, "lasting", 6)
    hold(book, "hold", 8, ttl_seconds=30)
    book.now = later(30)
    assert answer(book, ExpireHold("hold")) == {"reservationId": "hold", "status": "expired"}
    assert balance(book) == (12, 0, 0)
    book.now = later(60)
    assert answer(book, ExpireLot(ACCOUNT, "brief")) == {"lotId": "brief"}
    assert entries(book)[2:] == [
        ("reserve", -8, 12, 4),
        ("release", 8, 4, 12),
        ("expire", -6, 12, 6),
    ]
    assert (parts(book, "brief"), book.lots["brief"].expired_micro) == ((0, 0, 6), 6)
    assert_sound(book)


def test_the_last_micro_of_a_lot_expires_too() -> None:
    book = new_book()
    mint(book, "brief", 1, expires_at=later(60))
    book.now = later(60)
    answer(book, ExpireLot(ACCOUNT, "brief"))
    assert entries(book)[-1] == ("expire", -1, 1, 0)
    assert_sound(book)


def test_a_hold_pins_its_lots_past_their_expiry() -> None:
    """Contract 4.5: consumed while held; what comes back goes at once."""
    book = new_book()
    mint(book, "brief", 6, expires_at=later(10))
    hold(book, "used", 3, ttl_seconds=60)
    hold(book, "unused", 2, ttl_seconds=60)
    book.now = later(20)
    assert answer(book, Finalize("used", 1))["finalizedMicro"] == "1"
    assert (parts(book, "brief"), book.lots["brief"].expired_micro) == ((0, 2, 4), 3)
    answer(book, Release("unused"))
    assert (parts(book, "brief"), book.lots["brief"].expired_micro) == ((0, 0, 6), 5)
    assert_sound(book)


def test_a_lot_that_comes_too_late_is_gone_at_once_and_pays_nothing() -> None:
    """Behaviour 153, W15."""
    book = new_book()
    hold(book, "hold", 2, "soft")
    answer(book, Finalize("hold", 2), "soft")
    told = mint(book, "late", 5, expires_at=START)
    assert (told["debtPaidMicro"], told["balance"]["availableMicro"]) == ("0", "-2")
    assert (parts(book, "late"), book.lots["late"].expired_micro) == ((0, 0, 5), 5)
    assert_sound(book)


def test_a_late_finalize_is_settled_from_lots_and_then_owed_within_the_grace() -> None:
    """Contract 4.4: meanwhile the credits were held by another."""
    book = new_book()
    mint(book, "lot", 5)
    hold(book, "first", 3, ttl_seconds=300)
    hold(book, "second", 2, ttl_seconds=300)
    book.now = later(300)
    hold(book, "other", 4, ttl_seconds=86_400)
    book.now = later(300 + 3599)
    assert [answer(book, Finalize("first", 3))[k] for k in ("late", "debtMicro")] == [True, "2"]
    assert [answer(book, Finalize("second", 2))[k] for k in ("late", "debtMicro")] == [True, "2"]
    assert answer(book, Finalize("other", 4))["late"] is False
    assert (parts(book, "lot"), balance(book)) == ((0, 0, 5), (-4, 0, 4))
    assert_sound(book)


def test_after_the_grace_a_hold_cannot_be_settled() -> None:
    """Contract 4.4."""
    book = new_book()
    mint(book, "lot", 5)
    hold(book, "hold", 4, ttl_seconds=300)
    book.now = later(300 + 3600)
    assert refusal(book, Finalize("hold", 4)) == "reservation_expired"
    assert (balance(book), book.reservations["hold"].status) == ((5, 0, 0), "expired")


def test_a_campaign_pool_is_spent_before_general_and_never_through_it() -> None:
    """Behaviours 34, 5.3.3 and W17."""
    book = new_book()
    mint(book, "general", 10, expires_at=later(60))
    mint(book, "campaign", 10, pool_id=CAMPAIGN)
    held = hold(book, "hold", 15, pool_id=CAMPAIGN)
    assert [part["lotId"] for part in held["allocations"]] == ["campaign", "general"]
    assert (balance(book), balance(book, pool_id=CAMPAIGN)) == ((5, 5, 0), (5, 15, 0))
    answer(book, Release("hold"))
    assert refusal(book, Reserve(ACCOUNT, "more", 11)) == "insufficient_credits"
    assert_sound(book)


def test_money_that_has_arrived_is_credited_above_the_ceiling() -> None:
    """Contract 6: a payment is a fact; the ceiling is for what is asked for."""
    book, amount = new_book(), 100_000_000_001
    assert refusal(book, Mint(ACCOUNT, "lot", amount, "deposit")) == "amount_above_ceiling"
    mint(book, "lot", amount, kind="deposit", is_received=True)
    assert balance(book) == (amount, 0, 0)


def test_a_hold_whose_lot_was_changed_by_hand_is_left_alone() -> None:
    """Runbook 4: a repair may have undone it; it stops nobody else and loses nothing more."""
    book = new_book()
    mint(book, "1 repaired", 5)
    mint(book, "2 other", 5)
    hold(book, "undone", 4)
    hold(book, "sound", 3)
    book.lots["1 repaired"].reserved_micro -= 2
    before = copy.deepcopy(book)
    for command in (Finalize("undone", 4), Release("undone")):
        assert refusal(book, command) == "hold_inconsistent"
    assert book == before
    book.now = later(3600)
    assert answer(book, ExpireHold("undone"))["status"] == "pending"
    assert answer(book, Finalize("sound", 3))["finalizedMicro"] == "3"


def test_an_account_without_pools_has_nothing() -> None:
    """Behaviour 63; asking does not make a pool."""
    account = AccountState("new")
    assert (account.view(CAMPAIGN), account.balance("general")["settledMicro"]) == (0, "0")
    assert account.pools == {}
