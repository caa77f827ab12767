"""What stands behind the ledger: constraints, triggers, repair by hand, roll-up, history, size."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from shared.errors import Invalid, NotFound, Refused
from shared.ledger import queries, sweeps
from shared.ledger.commands import Finalize, Mint, Reserve
from shared.ledger.integrity import Breach
from shared.ledger.loading import load
from shared.ledger.rules import apply
from shared.ledger.saving import save
from shared.ledger.terms import Terms
from shared.operations.audit import Actor, record
from tests.harness import make_id
from tests.ledger import CAMPAIGN, Ledger

M = 1_000_000
ALL_TYPES = (
    "deposit", "reserve", "finalize", "release", "refund", "grant", "shadow_charge",
    "shadow_reserve", "shadow_finalize", "commons_contribution", "revenue_share",
    "marketplace_sale", "marketplace_purchase", "escrow", "escrow_release",
)  # fmt: skip


def audit(ledger: Ledger) -> None:
    with ledger.database.transaction() as tx:
        record(tx, Actor("admin", "a"), "look", target_type="account", target_id="x")


@pytest.mark.parametrize("table", ["credit_ledger", "admin_audit_log"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET id = 'x'", "DELETE FROM {}", "replace"])
def test_evidence_cannot_be_changed_or_deleted(ledger: Ledger, table: str, verb: str) -> None:
    """Behaviour 158; W21, W69."""
    ledger.funded(5)
    audit(ledger)
    before = ledger.rows(f"SELECT * FROM {table}")
    if verb == "replace":  # each database has a way of its own
        is_sqlite = ledger.database.is_sqlite
        verb = "INSERT OR REPLACE INTO {0} SELECT * FROM {0}" if is_sqlite else "TRUNCATE {}"
    with pytest.raises(DBAPIError, match="append-only"):
        ledger.sql(verb.format(table))
    assert ledger.rows(f"SELECT * FROM {table}") == before
    assert len(before) == 1


LOT: dict[str, Any] = {
    "original": 10, "available": 5, "reserved": 3, "consumed": 2, "source": "deposit",
    "expired": 0, "clawed": 0, "pool": "general", "account": "sys-commons", "from": "unique",
}  # fmt: skip


def insert_lot(ledger: Ledger, **changes: Any) -> None:
    ledger.sql(
        "INSERT INTO credit_lots (id, account_id, pool_id, source_type, source_id, original_micro,"
        " available_micro, reserved_micro, consumed_micro, expired_micro, clawed_back_micro) VALUES"
        " (:id, :account, :pool, :source, :from, :original, :available, :reserved, :consumed,"
        " :expired, :clawed)",
        id=make_id(),
        **{**LOT, **changes},
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"consumed": 3},
        {"available": -1, "consumed": 8},
        {"reserved": -1, "consumed": 6},
        {"consumed": -1, "available": 8},
        {"expired": -1},
        {"clawed": -1},
        {"source": "gift"},
        {"account": "nobody"},
        {"pool": None},
        {"available": "5.5", "consumed": "1.5"},
        {"original": None},
    ],
)
def test_a_lot_that_does_not_add_up_is_refused(ledger: Ledger, changes: dict[str, Any]) -> None:
    """Behaviours 26 and 29, W21: 5 + 3 + 2 of 10 is a lot, these are none."""
    with pytest.raises(DBAPIError):
        insert_lot(ledger, **changes)
    assert ledger.rows("SELECT COUNT(*) FROM credit_lots") == [(0,)]
    insert_lot(ledger)
    with pytest.raises(DBAPIError):
        insert_lot(ledger)  # the same source again
    insert_lot(ledger, source="grant")
    ledger.is_sound_at_end = False  # lots without entries


def test_the_ledger_takes_every_type_of_entry_and_no_other(ledger: Ledger) -> None:
    """Behaviours 27 and 31: also without balances."""
    statement = (
        "INSERT INTO credit_ledger (id, account_id, entry_type, amount_micro)"
        " VALUES (:id, 'sys-commons', :kind, 0)"
    )
    for kind in ALL_TYPES:
        ledger.sql(statement, id=make_id(), kind=kind)
    with pytest.raises(DBAPIError):
        ledger.sql(statement, id=make_id(), kind="gift")
    with pytest.raises(DBAPIError):
        ledger.sql(statement.replace("sys-commons", "nobody"), id=make_id(), kind="grant")
    shown = ledger.history("sys-commons")["entries"]
    assert {entry["entryType"] for entry in shown} == set(ALL_TYPES)
    assert {entry["preBalanceMicro"] for entry in shown} == {None}


def test_a_duplicate_is_taken_back_by_the_runbooks_sql(ledger: Ledger) -> None:
    """Runbook 4: the lot is consumed by hand; it is not spendable, and verify names the rest."""
    account = ledger.funded(100)
    doubled = ledger.mint(account, 40)
    runbook = "UPDATE credit_lots SET available_micro = 0, consumed_micro = original_micro"
    assert ledger.sql(f"{runbook} WHERE id = :id", id=doubled) == 1
    assert ledger.refusal(Reserve(account, make_id(), 101))[0] is Refused
    hold = ledger.reserve(account, 100)
    ledger.finalize(hold, 60)
    assert ledger.lots(account) == [(40, 0, 60), (0, 0, 40)]
    assert ledger.breaches() == [
        Breach("lots_minus_debts_equal_balances", f"{account} general", expected=40, found=80)
    ]
    ledger.is_sound_at_end = False  # the balance is mended by the reconciliation


def test_a_repair_by_hand_is_not_overwritten_by_a_command_that_read_before(ledger: Ledger) -> None:
    """Lots are written as differences. SQLite lets nobody in between a read and a write."""
    account = ledger.funded(100)
    command = Finalize(ledger.reserve(account, 30), 30)
    repair = "UPDATE credit_lots SET available_micro = 50, consumed_micro = 20"
    if ledger.database.is_sqlite:
        ledger.sql(repair)
    with ledger.database.transaction() as tx:
        book = load(tx, [command])
        if not ledger.database.is_sqlite:
            ledger.sql(repair)
        apply(book, command, Terms("live")).unwrap()
        save(tx, book)
    assert ledger.lots(account) == [(50, 0, 50)]
    ledger.is_sound_at_end = False


def test_revenue_is_spendable_once_it_is_rolled_up(ledger: Ledger) -> None:
    """Behaviours 76-79, 156 and 174; W20, W52."""
    account = ledger.funded(10 * M)
    for cost in (M, 3, 0):
        ledger.finalize(ledger.reserve(account, M), cost)
    assert ledger.breaches() == []
    assert ledger.balance("sys-commons") == (0, 0, 0)
    assert sweeps.roll_up_revenue(ledger.database) == 2
    assert sweeps.roll_up_revenue(ledger.database) == 0
    shares = {"sys-commons": 50_000, "sys-community-pool": 700_002, "sys-foundation": 250_001}
    for receiver, amount in shares.items():
        assert ledger.balance(receiver) == (amount, 0, 0)
        posted = ledger.history(receiver)["entries"]
        assert sum(int(entry["amountMicro"]) for entry in posted) == amount
    ledger.finalize(ledger.reserve("sys-commons", 20_000), 20_000)
    ledger.finalize(ledger.reserve(account, M), M)
    assert sweeps.roll_up_revenue(ledger.database) == 2
    # 30,000 were left; 50,000 and a share of the 20,000 came: in the same lot of that day.
    assert ledger.balance("sys-commons") == (81_000, 0, 0)
    assert ledger.lots("sys-commons") == [(81_000, 0, 20_000)]
    ledger.clock.advance(hours=24)
    ledger.finalize(ledger.reserve(account, M), M)
    sweeps.roll_up_revenue(ledger.database)
    assert ledger.lots("sys-commons") == [(81_000, 0, 20_000), (50_000, 0, 0)]


def test_revenue_may_go_to_another_account_and_at_other_rates(ledger: Ledger) -> None:
    """Behaviours 82 and 174, W53: as configured when it was charged, not when rolled up."""
    receiver = ledger.funded(7)
    account = ledger.funded(10 * M)
    ledger.configure(
        commons_account_id=receiver,
        commons_rate_bps="1000", community_rate_bps="6000", foundation_rate_bps="3000",
    )  # fmt: skip
    ledger.finalize(ledger.reserve(account, M), M)
    assert ledger.breaches() == []
    ledger.configure(commons_account_id="sys-commons")
    sweeps.roll_up_revenue(ledger.database)
    names = (receiver, "sys-commons", "sys-community-pool", "sys-foundation")
    assert [ledger.balance(name)[0] for name in names] == [100_007, 0, 600_000, 300_000]
    assert [entry[0] for entry in ledger.entries(receiver)] == ["grant"]


def test_of_ten_thousand_lots_a_hold_reads_only_what_it_needs(ledger: Ledger) -> None:
    """And a hold over hundreds of lots takes them in order (W11)."""
    account, year = ledger.account(), timedelta(days=365)
    for part in range(4):
        more = {"expires_at": ledger.clock.now + year} if part == 0 else {}
        lots = [Mint(account, make_id(), 10, "grant", **more) for _ in range(2_500)]
        ledger.executor.execute_all(lots)
    with ledger.database.transaction() as tx:
        book = load(tx, [Reserve(account, make_id(), 100), Reserve(account, make_id(), 60)])
    assert len(book.lots) == 32  # sixteen that expire, sixteen that last
    held = ledger.answer(Reserve(account, make_id(), 25_005))
    assert len(held["allocations"]) == 2_501
    assert [sum(column) for column in zip(*ledger.lots(account), strict=True)] == [
        74_995,
        25_005,
        0,
    ]
    assert ledger.lots(account)[2_500] == (5, 5, 0)
    ledger.finalize(held["reservationId"], 12_344)
    consumed = [row[2] for row in ledger.lots(account)]
    assert consumed == [10] * 1_234 + [4] + [0] * 8_765
    assert ledger.balance(account) == (87_656, 0, 0)


def test_lots_that_expire_come_before_lasting_ones_however_many(ledger: Ledger) -> None:
    """W11: a hundred small lots that expire, and one large that lasts."""
    account = ledger.account()
    ledger.mint(account, 1_000)
    expires = {"expires_at": ledger.clock.now + timedelta(days=1)}
    small = [Mint(account, make_id(), 1, "grant", **expires) for _ in range(100)]
    ledger.executor.execute_all(small)
    ledger.reserve(account, 150)
    assert ledger.lots(account)[0] == (950, 50, 0)
    ledger.configure(billing_mode="soft")
    ledger.executor.execute_all(
        [Mint(account, make_id(), 1, "grant", **expires) for _ in range(100)]
    )
    settled = make_id()
    reserve, finalize = Reserve(account, settled, 10), Finalize(settled, 150)
    _, done = ledger.executor.execute_all([reserve, finalize])  # in one batch
    assert done.unwrap()["debtMicro"] == "0"
    assert ledger.lots(account)[0] == (900, 50, 50)


def test_history_is_read_newest_first_in_pages(ledger: Ledger) -> None:
    """Behaviours 65-68: by cursor and by offset, without overlap."""
    account = ledger.funded(100, 100)
    ledger.clock.advance(seconds=1)
    ledger.mint(account, 50, "deposit", source_id="nowpay-1")
    ledger.finalize(ledger.reserve(account, 10), 10)
    entries = ledger.history(account)["entries"]
    assert [entry["entryType"] for entry in entries] == [
        "finalize", "release", "reserve", "deposit", "grant", "grant",
    ]  # fmt: skip
    pages, cursor = [], None
    while not pages or cursor:
        page = ledger.history(account, limit=4, cursor=cursor)
        pages.append([entry["id"] for entry in page["entries"]])
        cursor = page["nextCursor"]
    assert [len(page) for page in pages] == [4, 2]
    assert pages[0] + pages[1] == [entry["id"] for entry in entries]
    by_offset = [ledger.history(account, limit=2, offset=start) for start in (0, 2, 4, 6)]
    assert [page["pagination"]["count"] for page in by_offset] == [2, 2, 2, 0]
    found = [entry["id"] for page in by_offset for entry in page["entries"]]
    assert found == [entry["id"] for entry in entries]


def test_history_can_be_filtered(ledger: Ledger) -> None:
    """Behaviour 67."""
    account = ledger.funded(100)
    ledger.mint(account, 50, "deposit", pool_id=CAMPAIGN)
    counts = [
        len(ledger.history(account, **only)["entries"])
        for only in ({"entry_type": "deposit"}, {"entry_type": "reserve"}, {"pool_id": CAMPAIGN})
    ]
    assert counts == [1, 0, 1]
    with pytest.raises(NotFound):
        ledger.history("nobody")


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "2026", "MjAyNi0wMS0wMSAwMDowMDowMHwA", "é"])
def test_a_cursor_of_others_is_refused(ledger: Ledger, cursor: str) -> None:
    """The fifth is a time with a NUL for an id, which PostgreSQL cannot hold in a text."""
    account = ledger.funded(1)
    with pytest.raises(Invalid) as refusal:
        ledger.history(account, cursor=cursor)
    assert refusal.value.code == "invalid_cursor"


def test_a_balance_of_nothing_is_zero_and_of_nobody_unknown(ledger: Ledger) -> None:
    """Behaviours 63 and 64."""
    assert ledger.balance(ledger.account()) == (0, 0, 0)
    assert ledger.balance(ledger.funded(25 * M)) == (25 * M, 0, 0)
    with pytest.raises(NotFound):
        ledger.balance("nobody")


def test_accounts_and_holds_can_be_shown(ledger: Ledger) -> None:
    account = ledger.funded(10, 10)
    hold = ledger.reserve(account, 15)
    ledger.finalize(hold, 12)
    with ledger.database.reading() as tx:
        shown = queries.show_reservation(tx, hold)
        assert queries.show_account(tx, account)["balance"]["availableMicro"] == "8"
        first = queries.list_accounts(tx, limit=3, after=None)
        rest = queries.list_accounts(tx, limit=3, after=first["nextCursor"])
        with pytest.raises(NotFound):
            queries.show_reservation(tx, "unknown")
    assert (shown["status"], shown["finalizedMicro"], shown["debtMicro"]) == (
        "finalized",
        "12",
        "0",
    )
    taken = [(part["reservedMicro"], part["consumedMicro"]) for part in shown["allocations"]]
    assert taken == [("10", "10"), ("5", "2")]
    everybody = [row["accountId"] for row in first["accounts"] + rest["accounts"]]
    assert sorted(everybody) == sorted(
        [account, "sys-commons", "sys-community-pool", "sys-foundation"]
    )
    assert rest["nextCursor"] is None
