"""Cached balances against the database: right by the API's own formula, and never falsely wrong."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared.balance_cache import BalanceCache, value_of
from shared.balance_upkeep import CachedBalances, Held
from shared.clock import add_seconds
from shared.database import CachedBalance, Database
from shared.ledger import queries
from shared.reconciliation import cache, runs, views
from tests.ledger import CAMPAIGN, Ledger
from tests.reconciliation import NO_REDIS, Reconciling

M = 1_000_000


@pytest.fixture
def desk(ledger: Ledger, redis_url: str) -> Iterator[Reconciling]:
    ledger.clock.now = Database(ledger.url).clock()  # a key's life is told in real time
    made = Reconciling(ledger, redis_url)
    yield made
    made.database.dispose()


def drift(desk: Reconciling) -> tuple[int, int, int]:
    """Run the check; return how many accounts were checked and drifted, and were corrected."""
    done = desk.run("cache")
    [check] = done["result"]["checks"]
    corrected = sum(one["facts"]["corrected"] for one in check["findings"])
    assert done["passed"] == (check["counts"]["accountsDrifted"] == 0)
    return check["counts"]["accountsChecked"], check["counts"]["accountsDrifted"], corrected


def text(account: str, available: int, version: int, **more: Any) -> str:
    return value_of(CachedBalance(account, "general", available, 0, 0, version, **more))


def test_a_wrong_balance_is_found_and_overwritten(desk: Reconciling) -> None:
    """Behaviour 117: Redis 5,000,000 against 10,000,000: drift 1, corrected 1."""
    account, right = desk.ledger.funded(10 * M), desk.ledger.funded(7)
    desk.fill(right)
    desk.put(account, text(account, 5 * M, 1))
    assert drift(desk) == (2, 1, 1)
    assert desk.cached(account) == {
        "available_micro": 10 * M, "reserved_micro": 0, "debt_micro": 0,
    }  # fmt: skip
    assert drift(desk) == (2, 0, 0)
    with desk.database.reading() as tx:
        found = views.latest_drift(tx)
    assert found is not None
    assert (found.accounts_checked, found.accounts_drifted) == (2, 0)
    assert found.measured_at == desk.ledger.clock()


@pytest.mark.parametrize("amount", ["reservedMicro", "debtMicro"])
def test_held_credits_and_debts_are_compared_too(desk: Reconciling, amount: str) -> None:
    """W63: the earlier system looked at available only."""
    account = desk.ledger.funded(100)
    desk.fill(account)
    told = desk.text(account)
    assert told is not None
    desk.put(account, told.replace(f'"{amount}": "0"', f'"{amount}": "9"'))
    assert drift(desk) == (1, 1, 1)
    assert desk.text(account) == told


def test_a_campaign_pool_with_an_expired_lot_shows_no_drift(desk: Reconciling) -> None:
    """Behaviour 182 (W63): a pool's view has the general lots and not the expired ones."""
    ledger = desk.ledger
    account = ledger.funded(100)
    ledger.mint(account, 40, pool_id=CAMPAIGN)
    ledger.mint(account, 8, pool_id=CAMPAIGN, expires_at=add_seconds(ledger.clock(), 30))
    ledger.reserve(account, 5, pool_id=CAMPAIGN, ttl_seconds=50)
    for seconds, available, reserved in ((0, 143, 5), (31, 140, 5), (20, 140, 0)):
        ledger.clock.advance(seconds=seconds)
        assert ledger.balance(account, CAMPAIGN)[:2] == (available, reserved), seconds
        desk.fill(account, "general", CAMPAIGN)
        assert drift(desk) == (1, 0, 0)
    ledger.sweep()
    desk.fill(account, "general", CAMPAIGN)
    assert drift(desk) == (1, 0, 0)


def test_without_redis_nothing_is_checked_and_that_is_told(ledger: Ledger) -> None:
    """Behaviour 118: 0 checked; the run goes on and does not fail."""
    ledger.funded(10)
    desk = Reconciling(ledger, NO_REDIS)
    done = desk.run("cache")
    [check] = done["result"]["checks"]
    assert (done["passed"], check["passed"], done["accountsChecked"]) == (True, None, None)
    assert check["counts"] == {
        "accountsChecked": 0, "balancesChecked": 0, "accountsDrifted": 0,
    }  # fmt: skip
    assert "Redis does not answer" in check["details"]
    with desk.database.reading() as tx:
        assert views.latest_drift(tx) is None
    assert desk.run()["passed"] is True
    desk.database.dispose()


def test_absent_keys_are_skipped_and_every_account_is_looked_at(
    desk: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W64: the earlier system looked at a hundred of them, in no order."""
    monkeypatch.setattr(cache, "_ACCOUNTS_AT_ONCE", 2)
    monkeypatch.setattr(cache, "_ACCOUNTS", cache._ACCOUNTS.limit(2))
    accounts = [desk.ledger.funded(5) for _ in range(7)]
    for account in accounts[:5]:
        desk.fill(account)
    desk.put(accounts[4], text(accounts[4], 6, 1))
    assert drift(desk) == (5, 1, 1)


def test_a_value_that_is_none_of_ours_is_replaced(desk: Reconciling) -> None:
    account = desk.ledger.funded(5)
    desk.put(account, "5000000")
    assert drift(desk) == (1, 1, 1)
    assert desk.cached(account) is not None


def test_a_balance_from_before_a_restore_is_replaced(desk: Reconciling) -> None:
    """Nothing in the cache can be newer than the database, unless that was restored."""
    account = desk.ledger.funded(5)
    desk.put(account, text(account, 99, 1_000))
    assert drift(desk) == (1, 1, 1)


class Traffic(CachedBalances):
    """The cache while others use it: *then* happens after each look."""

    def __init__(self, redis_url: str, *then: Any) -> None:
        super().__init__(redis_url)
        self.then = list(then)

    def look(self, wanted: Any) -> dict[tuple[str, str], Held]:
        found = super().look(wanted)
        if self.then:
            self.then.pop(0)()
        return found


def test_a_change_on_its_way_is_no_drift(desk: Reconciling) -> None:
    """The account is charged between our looks at the cache and at the database, each time."""
    account = desk.ledger.funded(100)
    teller = BalanceCache(desk.redis_url)

    def change() -> None:
        desk.ledger.mint(account, 1)  # committed, and not told yet

    def arrive_and_change() -> None:
        change()

    desk.fill(account)

    def settle(seconds: float) -> None:
        with desk.database.reading() as tx:
            teller.write([queries.current_balance(tx, account, "general")])

    traffic = Traffic(desk.redis_url, change, arrive_and_change)
    desk.desk = replace(desk.desk, cached=traffic, pause=settle)
    assert drift(desk) == (1, 0, 0)
    assert traffic.then == []


def test_a_write_that_was_lost_is_drift_even_under_traffic(desk: Reconciling) -> None:
    account = desk.ledger.funded(100)
    desk.fill(account)
    before = desk.text(account)
    desk.ledger.mint(account, 1)  # by a process that could not reach Redis
    lost = Traffic(desk.redis_url, lambda: None, lambda: desk.ledger.mint(account, 2))
    desk.desk = replace(desk.desk, cached=lost)
    assert drift(desk) == (1, 1, 1)
    assert desk.text(account) != before
    assert desk.cached(account) == {"available_micro": 103, "reserved_micro": 0, "debt_micro": 0}


def test_what_has_been_written_since_is_not_overwritten(desk: Reconciling) -> None:
    account = desk.ledger.funded(100)
    desk.put(account, text(account, 5, 1))

    def someone_else() -> None:
        desk.fill(account)

    desk.desk = replace(desk.desk, cached=Traffic(desk.redis_url, lambda: None, someone_else))
    assert drift(desk) == (1, 1, 0)
    assert desk.cached(account) == {"available_micro": 100, "reserved_micro": 0, "debt_micro": 0}


def test_it_waits_once_a_batch_and_only_if_something_differs(desk: Reconciling) -> None:
    account = desk.ledger.funded(100)
    desk.fill(account)
    drift(desk)
    assert desk.pauses == []
    desk.put(account, text(account, 5, 1))
    drift(desk)
    assert desk.pauses == [1.0]
    assert [check.name for check in runs.CHECKS["cache"]] == ["balance_cache"]
