"""The ledger through its executor, on both databases: mint, hold, settle, read (behaviour 22.A)."""

import pytest

from shared.errors import Conflict, Forbidden, Invalid, NotFound, Refused
from shared.ledger import accounts, queries
from shared.ledger.commands import Finalize, Mint, Release, Reserve
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from tests.harness import make_id, wait_until
from tests.ledger import CAMPAIGN, Ledger

M = 1_000_000


def test_an_entity_has_one_account(ledger: Ledger) -> None:
    """Behaviours 32 and 33, W26."""
    with ledger.database.transaction() as tx:
        first = accounts.create_account(tx, entity_type="agent", entity_id="agent-1")
        again = accounts.create_account(tx, entity_type="agent", entity_id="agent-1")
        assert accounts.account_of(tx, entity_type="agent", entity_id="agent-1") == first[0]
        row = queries.require_account(tx, first[0])
    assert (first[1], again) == (True, (first[0], False))
    assert (row.entity_type, row.entity_id) == ("agent", "agent-1")


def test_an_account_id_or_entity_in_use_is_refused(ledger: Ledger) -> None:
    """Behaviour 32, W26."""
    with ledger.database.transaction() as tx:
        taken, _ = accounts.create_account(tx, entity_type="agent", entity_id="a", account_id="x")
        for entity_id, account_id in [("a", "y"), ("b", "x")]:
            with pytest.raises(Conflict) as refusal:
                accounts.create_account(
                    tx, entity_type="agent", entity_id=entity_id, account_id=account_id
                )
            assert refusal.value.code == "account_exists"
        with pytest.raises(NotFound):
            accounts.account_of(tx, entity_type="agent", entity_id="b")
    assert taken == "x"


def test_the_requested_pool_is_spent_before_general(ledger: Ledger) -> None:
    """Behaviour 34, W17: what general lost through the campaign shows in general."""
    account = ledger.funded(100_000)
    ledger.mint(account, 100_000, expires_at=ledger.clock.now.replace(year=2027))
    campaign = ledger.mint(account, 100_000, pool_id=CAMPAIGN)
    held = ledger.answer(Reserve(account, make_id(), 150_000, CAMPAIGN))
    assert held["allocations"][0]["lotId"] == campaign
    assert [part["reservedMicro"] for part in held["allocations"]] == ["100000", "50000"]
    assert held["balance"]["availableMicro"] == "150000"
    assert ledger.balance(account) == (150_000, 50_000, 0)
    assert ledger.balance(account, CAMPAIGN) == (150_000, 150_000, 0)
    assert ledger.balance(account, "campaign:other") == (150_000, 50_000, 0)
    assert ledger.lots(account) == [
        (100_000, 0, 0), (50_000, 50_000, 0), (0, 100_000, 0),
    ]  # fmt: skip


def test_a_campaign_pool_without_lots_can_be_used_again_and_again(ledger: Ledger) -> None:
    """W17, W20: only general pays, yet the pool has entries and numbers of its own."""
    account = ledger.funded(100)
    for _ in range(3):
        ledger.finalize(ledger.reserve(account, 10, pool_id=CAMPAIGN), 7)
    assert ledger.balance(account) == (79, 0, 0)
    kinds = [entry[:2] for entry in ledger.entries(account, CAMPAIGN)]
    assert kinds == [("reserve", -10), ("release", 10), ("finalize", -7)] * 3
    assert ledger.entries(account) == [("grant", 100, 0, 100)]


def test_ten_holds_share_one_lot(ledger: Ledger) -> None:
    """Behaviour 35."""
    account = ledger.funded(M)
    for _ in range(10):
        ledger.reserve(account, 100_000)
    assert ledger.lots(account) == [(0, M, 0)]
    assert ledger.refusal(Reserve(account, make_id(), 1)) == (Refused, "insufficient_credits")


def test_a_hold_over_two_lots_is_charged_in_part(ledger: Ledger) -> None:
    """Behaviour 36."""
    account = ledger.funded(500_000, 500_000)
    done = ledger.finalize(ledger.reserve(account, 800_000), 600_000)
    assert (done["finalizedMicro"], done["releasedMicro"]) == ("600000", "200000")
    assert ledger.lots(account) == [(0, 0, 500_000), (400_000, 0, 100_000)]


def test_what_a_hold_did_not_cost_comes_back(ledger: Ledger) -> None:
    """Behaviours 37, 61 and 62."""
    account = ledger.funded(M)
    hold = ledger.reserve(account, 500_000)
    assert ledger.balance(account) == (500_000, 500_000, 0)
    done = ledger.finalize(hold, 200_000)
    assert (done["releasedMicro"], done["overrunMicro"], done["late"]) == ("300000", "0", False)
    assert ledger.balance(account) == (800_000, 0, 0)


def test_shadow_moves_nothing(ledger: Ledger) -> None:
    """Behaviours 38, 141 and 156; W3, W20: two holds, so numbers go on without any balance."""
    ledger.configure(billing_mode="shadow")
    account = ledger.account()
    for _ in range(2):
        done = ledger.finalize(ledger.reserve(account, 100_000), 200_000)
        assert (done["finalizedMicro"], done["overrunMicro"]) == ("100000", "100000")
    ledger.mint(account, 10 * M)
    ledger.finalize(ledger.reserve(account, 100_000), 0)
    assert ledger.balance(account) == (10 * M, 0, 0)
    ledger.configure(billing_mode="live")
    ledger.reserve(account, 4 * M)
    shadow = [("shadow_reserve", 100_000, 0, 0), ("shadow_finalize", 100_000, 0, 0)]
    assert ledger.entries(account) == [
        *shadow,
        *shadow,
        ("grant", 10 * M, 0, 10 * M),
        ("shadow_reserve", 100_000, 10 * M, 10 * M),
        ("shadow_finalize", 0, 10 * M, 10 * M),
        ("reserve", -4 * M, 10 * M, 6 * M),
    ]


def test_a_soft_overrun_becomes_a_debt_that_the_next_deposit_pays(ledger: Ledger) -> None:
    """Behaviours 39, 60, 144 and 161; W5, W30."""
    ledger.configure(billing_mode="soft")
    account = ledger.funded(M)
    done = ledger.finalize(ledger.reserve(account, M), 3 * M)
    assert (done["finalizedMicro"], done["overrunMicro"], done["debtMicro"]) == (
        "3000000", "2000000", "2000000",
    )  # fmt: skip
    assert ledger.balance(account) == (-2 * M, 0, 2 * M)
    assert ledger.entries(account)[-1] == ("finalize", -3 * M, M, -2 * M)
    ledger.clock.advance(seconds=1)
    deposit = Mint(account, make_id(), 5 * M, "deposit", "nowpay-1")
    assert ledger.answer(deposit)["debtPaidMicro"] == "2000000"
    assert ledger.balance(account) == (3 * M, 0, 0)
    assert ledger.lots(account) == [(0, 0, M), (3 * M, 0, 2 * M)]
    owed = "SELECT debt_micro, original_micro, resolved_at IS NULL FROM credit_debts"
    assert ledger.rows(owed) == [(2 * M, 2 * M, False)]
    assert ledger.rows("SELECT paid_micro, lot_id FROM credit_debt_payments") == [
        (2 * M, deposit.lot_id)
    ]


def test_a_soft_hold_without_any_credits_is_granted_again_and_again(ledger: Ledger) -> None:
    """Contract 4.2, W2: recorded and owed, never served for nothing."""
    ledger.configure(billing_mode="soft")
    account = ledger.account()
    for _ in range(2):
        ledger.finalize(ledger.reserve(account, 10), 6)
    assert ledger.balance(account) == (-12, 0, 12)
    ledger.mint(account, 8)
    assert ledger.rows("SELECT debt_micro, original_micro FROM credit_debts ORDER BY id") == [
        (6, 6), (4, 6),
    ]  # fmt: skip


def test_a_live_overrun_is_capped_and_answered_the_same_for_ever(ledger: Ledger) -> None:
    """Behaviours 40, 143 and 145; W4, W6, W7."""
    account = ledger.funded(5 * M)
    hold = ledger.reserve(account, M)
    first = ledger.finalize(hold, 3 * M)
    assert (first["finalizedMicro"], first["unchargedMicro"]) == ("1000000", "2000000")
    before = ledger.everything()
    ledger.clock.advance(hours=25)
    again = ledger.outcome(Finalize(hold, 3 * M))
    assert (again.answer, again.is_replay) == (first, True)
    assert ledger.refusal(Finalize(hold, M)) == (Conflict, "idempotency_conflict")
    assert ledger.everything() == before
    assert ledger.balance(account) == (4 * M, 0, 0)


def test_entries_show_each_balance_before_and_after(ledger: Ledger) -> None:
    """Behaviours 41, 56-59; W16, W22."""
    account = ledger.funded(5 * M, 5 * M)
    ledger.finalize(ledger.reserve(account, 5 * M), 3 * M)
    ledger.release(ledger.reserve(account, 4 * M))
    assert ledger.entries(account) == [
        ("grant", 5 * M, 0, 5 * M),
        ("grant", 5 * M, 5 * M, 10 * M),
        ("reserve", -5 * M, 10 * M, 5 * M),
        ("release", 5 * M, 5 * M, 10 * M),
        ("finalize", -3 * M, 10 * M, 7 * M),
        ("reserve", -4 * M, 7 * M, 3 * M),
        ("release", 4 * M, 3 * M, 7 * M),
    ]


def test_a_reserve_is_repeated_by_its_key(ledger: Ledger) -> None:
    """Behaviours 42, 146 and 147; W8, W9: for ever, and never with other content."""
    account, other = ledger.funded(M), ledger.funded(M)
    first = ledger.answer(Reserve(account, make_id(), 300_000, idempotency_key="reserve-test-1"))
    ledger.clock.advance(hours=25)
    again = ledger.outcome(Reserve(account, make_id(), 300_000, idempotency_key="reserve-test-1"))
    assert (again.answer, again.is_replay) == (first, True)
    before = ledger.everything()
    for command in (
        Reserve(account, make_id(), 300_001, idempotency_key="reserve-test-1"),
        Reserve(account, make_id(), 300_000, CAMPAIGN, idempotency_key="reserve-test-1"),
    ):
        assert ledger.refusal(command) == (Conflict, "idempotency_conflict")
    assert ledger.everything() == before
    foreign = ledger.answer(Reserve(other, make_id(), 300_000, idempotency_key="reserve-test-1"))
    assert (foreign["accountId"], foreign["reservationId"]) != (account, first["reservationId"])


def test_a_finalize_is_counted_once_and_refused_at_another_cost(ledger: Ledger) -> None:
    """Behaviours 43, 44 and 52."""
    account = ledger.funded(M)
    hold = ledger.reserve(account, 500_000)
    first = ledger.finalize(hold, 300_000, idempotency_key="key")
    assert ledger.finalize(hold, 300_000, idempotency_key="key") == first
    before = ledger.everything()
    for cost in (400_000, 300_001):
        command = Finalize(hold, cost, idempotency_key="key")
        assert ledger.refusal(command) == (Conflict, "idempotency_conflict")
    assert (ledger.everything(), ledger.balance(account)) == (before, (700_000, 0, 0))


def test_a_key_of_another_hold_is_refused_and_serves_other_operations(ledger: Ledger) -> None:
    """Behaviours 147 and 148; W9, W10."""
    account = ledger.account()
    ledger.mint(account, M, idempotency_key="key")
    first, second = (ledger.reserve(account, 10, idempotency_key=k) for k in ("key", "other"))
    ledger.finalize(first, 5, idempotency_key="key")
    assert ledger.refusal(Finalize(second, 5, idempotency_key="key")) == (
        Conflict, "idempotency_conflict",
    )  # fmt: skip
    assert ledger.finalize(second, 5, idempotency_key="fresh")["finalizedMicro"] == "5"


def test_balances_equal_lots_after_holds_over_several(ledger: Ledger) -> None:
    """Behaviours 45 and 46; the fixture checks that lots, balances and entries agree."""
    account = ledger.funded(M, 500_000)
    ledger.finalize(ledger.reserve(account, 800_000), 600_000)
    ledger.release(ledger.reserve(account, 300_000))
    assert ledger.lots(account) == [(400_000, 0, 600_000), (500_000, 0, 0)]
    assert ledger.balance(account) == (900_000, 0, 0)


def test_too_little_is_refused_and_nothing_changes(ledger: Ledger) -> None:
    """Behaviours 48 and 139; W1, W2: also for an account that never had anything."""
    for account in (ledger.funded(100_000), ledger.account()):
        before = ledger.everything()
        error = ledger.outcome(Reserve(account, make_id(), 200_000)).error
        assert isinstance(error, Refused)
        assert error.details["required_micro"] == "200000"
        assert ledger.everything() == before


def test_what_has_ended_does_not_end_otherwise(ledger: Ledger) -> None:
    """Behaviours 49, 50 and 51."""
    account = ledger.funded(M)
    settled, given_back = ledger.reserve(account, 10), ledger.reserve(account, 10)
    ledger.finalize(settled, 10)
    first = ledger.release(given_back)
    assert first == {"reservationId": given_back, "releasedMicro": "10"}
    before = ledger.everything()
    assert ledger.refusal(Release(settled)) == (Conflict, "reservation_finalized")
    assert ledger.refusal(Finalize(given_back, 10)) == (Invalid, "reservation_released")
    assert ledger.outcome(Release(given_back)).answer == first
    assert ledger.refusal(Finalize("unknown", 10)) == (NotFound, "reservation_not_found")
    assert ledger.refusal(Release("unknown")) == (NotFound, "reservation_not_found")
    assert ledger.refusal(Release(settled, account_id="other"))[0] is Forbidden
    assert ledger.everything() == before


def test_an_amount_of_nothing_and_an_unknown_account_are_refused(ledger: Ledger) -> None:
    """Behaviour 159, W25."""
    account = ledger.account()
    assert ledger.refusal(Mint(account, make_id(), 0, "grant")) == (Invalid, "invalid_amount")
    assert ledger.refusal(Reserve(account, make_id(), 0)) == (Invalid, "invalid_amount")
    for command in (Mint("nobody", make_id(), 1, "grant"), Reserve("nobody", make_id(), 1)):
        assert ledger.refusal(command) == (NotFound, "account_not_found")


def test_a_mint_is_repeated_by_its_key_and_its_source_counts_once(ledger: Ledger) -> None:
    """Behaviour 69; W8, W9, W31."""
    account, other = ledger.account(), ledger.account()
    first = ledger.answer(Mint(account, make_id(), M, "deposit", "nowpay-1", idempotency_key="k"))
    ledger.clock.advance(hours=25)
    again = ledger.outcome(Mint(account, make_id(), M, "deposit", "nowpay-1", idempotency_key="k"))
    assert (again.answer, again.is_replay) == (first, True)
    refused = Mint(account, make_id(), M, "deposit", "nowpay-2", idempotency_key="k")
    assert ledger.refusal(refused) == (Conflict, "idempotency_conflict")
    for who in (account, other):
        error = ledger.outcome(Mint(who, make_id(), M, "deposit", "nowpay-1", CAMPAIGN)).error
        assert isinstance(error, Conflict)
        assert (error.code, error.details) == (
            "already_credited",
            {"lotId": first["lotId"], "amountMicro": "1000000"},
        )
    assert (ledger.balance(account), ledger.balance(other)) == ((M, 0, 0), (0, 0, 0))
    ledger.mint(other, 7, source_id="nowpay-1")  # a grant's sources are others


def test_the_ceiling_can_be_raised_to_sixteen_digits(ledger: Ledger) -> None:
    """Behaviours 5 and 6, W23: exact beyond 2**53."""
    account, amount = ledger.account(), 9_100_000_000_000_000
    above = Mint(account, make_id(), 100_000_000_001, "grant")
    assert ledger.refusal(above) == (Invalid, "amount_above_ceiling")
    ledger.configure(ceiling_micro="9999999999999999")
    ledger.mint(account, amount)
    assert ledger.balance(account) == (amount, 0, 0)
    hold = ledger.reserve(account, amount)
    assert ledger.balance(account) == (0, amount, 0)
    assert ledger.finalize(hold, amount)["finalizedMicro"] == str(amount)
    lowered = Executor(ledger.database, TermsCache(ledger.database, ceiling_micro=5))
    assert lowered.execute(Mint(account, make_id(), 6, "grant")).error


def test_a_change_of_mode_by_sql_takes_effect_by_itself(ledger: Ledger) -> None:
    """Behaviour 142."""
    account = ledger.account()
    ledger.refusal(Reserve(account, make_id(), 5))
    ledger.sql("UPDATE billing_config SET value = 'soft' WHERE key = 'billing_mode'")
    wait_until("a soft hold", lambda: not ledger.outcome(Reserve(account, make_id(), 5)).error)
