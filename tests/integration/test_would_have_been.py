"""Whom live mode would have refused, told from histories in shadow that were made by hand."""

from datetime import timedelta
from typing import Any

import pytest

from shared.ledger import shadow_report
from shared.ledger.commands import Extend
from shared.operations import rehearsal
from shared.operations.audit import Actor
from tests.command import arrakis, told
from tests.harness import make_id
from tests.ledger import START, Ledger


@pytest.fixture
def shadow(ledger: Ledger) -> Ledger:
    ledger.configure(billing_mode="shadow")
    return ledger


def summary(ledger: Ledger, **more: Any) -> dict[str, Any]:
    with ledger.database.reading() as tx:
        return shadow_report.shadow_summary(tx, **more)


def refusals(ledger: Ledger, account: str, **more: Any) -> tuple[int, int]:
    """Return how many reserves would have been refused, and the largest shortfall."""
    [one] = summary(ledger, account_id=account, **more)["accounts"]
    return one["wouldRefuse"], int(one["largestShortfallMicro"])


def use(ledger: Ledger, account: str, hold: int, cost: int | None, **more: Any) -> None:
    """Reserve, a second later finalize (or release, without a cost), and a second more."""
    held = ledger.reserve(account, hold, **more)
    ledger.clock.advance(seconds=1)
    if cost is None:
        ledger.release(held)
    else:
        ledger.finalize(held, cost)
    ledger.clock.advance(seconds=1)


def test_charges_are_deducted_in_order_and_a_deposit_helps(shadow: Ledger) -> None:
    account = shadow.funded(1_000)
    use(shadow, account, 600, 500)  # 1000: granted, 500 left
    use(shadow, account, 501, 100)  # one short: refused, so its cost is not charged
    use(shadow, account, 500, 400)  # granted, 100 left
    use(shadow, account, 300, 300)  # 200 short
    shadow.mint(account, 250)
    use(shadow, account, 300, 300)  # 350: granted, 50 left
    use(shadow, account, 51, None)  # one short
    assert refusals(shadow, account) == (3, 200)
    found = summary(shadow, account_id=account)
    assert (found["reserves"], found["finalizes"], found["finalizedMicro"]) == (6, 5, "1600")
    assert shadow.balance(account) == (1_250, 0, 0)


def test_a_charge_is_capped_at_its_hold_and_counts_from_its_finalize(shadow: Ledger) -> None:
    account = shadow.funded(1_000)
    first, second = shadow.reserve(account, 800), shadow.reserve(account, 900)
    shadow.clock.advance(seconds=1)
    shadow.finalize(first, 5_000)  # live charges the 800 that were held
    shadow.finalize(second, 100)
    shadow.clock.advance(seconds=1)
    use(shadow, account, 100, 0)  # 1000 - 800 - 100: just enough
    use(shadow, account, 101, 0)
    assert refusals(shadow, account) == (1, 1)
    found = summary(shadow, account_id=account)
    assert (found["actualMicro"], found["estimatedMicro"]) == ("5100", "1901")


def test_pools_are_charged_apart_and_general_for_all(shadow: Ledger) -> None:
    account = shadow.funded(500)
    shadow.mint(account, 300, pool_id="agent:1")
    use(shadow, account, 800, 300, pool_id="agent:1")  # 800 there
    use(shadow, account, 501, 1, pool_id="agent:1")  # 500 left there
    use(shadow, account, 500, 200)  # general is untouched by the pool's charge
    use(shadow, account, 301, 1, pool_id="agent:1")  # general's charge counts: 300 left
    use(shadow, account, 301, 1)
    assert refusals(shadow, account) == (3, 1)


def test_an_extension_is_a_reserve_and_its_hold_is_charged_once(shadow: Ledger) -> None:
    account = shadow.funded(1_000)
    hold = shadow.reserve(account, 400)
    shadow.clock.advance(seconds=1)
    shadow.answer(Extend(hold, 1_001, make_id()))  # one short
    shadow.clock.advance(seconds=1)
    shadow.finalize(hold, 600)
    shadow.clock.advance(seconds=1)
    use(shadow, account, 400, 0)
    use(shadow, account, 401, 0)
    assert refusals(shadow, account) == (2, 1)


def test_since_begins_with_what_there_really_was(shadow: Ledger) -> None:
    account = shadow.funded(1_000)
    use(shadow, account, 900, 900)
    since = shadow.clock.now
    use(shadow, account, 900, 900)
    use(shadow, account, 900, 900)
    assert refusals(shadow, account) == (2, 800)
    assert refusals(shadow, account, since=since) == (1, 800)
    assert summary(shadow, since=START + timedelta(days=9))["accounts"] == []


def test_lost_holds_are_the_error_rate(shadow: Ledger) -> None:
    account = shadow.funded(1_000)
    use(shadow, account, 10, None)
    use(shadow, account, 10, 5)
    shadow.reserve(account, 10)
    shadow.clock.advance(hours=1)
    shadow.sweep()
    shadow.reserve(account, 10)  # not ended
    found = summary(shadow)
    assert (found["lost"], found["ended"], found["errorRate"]) == (1, 3, "0.3333")
    assert found["actualPerEstimated"] == "0.5000"


def test_accounts_come_in_pages_and_long_histories_in_parts(shadow: Ledger) -> None:
    accounts = sorted(shadow.funded(10) for _ in range(3))
    for account in accounts:
        for _ in range(4):
            use(shadow, account, 4, 4)  # 10, 6, then 2: two refused
    rehearsal.rehearse(shadow.database, shadow.terms, Actor("operator", "ops"), ["shadow"])
    whole = summary(shadow)
    assert [one["accountId"] for one in whole["accounts"]] == accounts
    assert [one["wouldRefuse"] for one in whole["accounts"]] == [2, 2, 2]
    totals = {"accountsRefused": 3, "wouldRefuse": 6, "largestShortfallMicro": "2"}
    assert whole["shown"] == {"accounts": 3, **totals}
    first = summary(shadow, limit=2)
    assert first["shown"]["wouldRefuse"] == 4
    assert first["nextCursor"] == accounts[1]
    rest = summary(shadow, limit=2, after=accounts[1])
    assert first["accounts"] + rest["accounts"] == whole["accounts"]
    assert (rest["nextCursor"], rest["reserves"]) == (None, 12)
    assert summary(shadow, read_at_once=3) == whole


def test_the_command_tells_it_as_a_table(shadow: Ledger) -> None:
    account, at = shadow.funded(10), {"DATABASE_URL": shadow.url}
    use(shadow, account, 15, 12)
    code, output, _ = arrakis("ledger", "shadow", **at)
    assert code == 0
    assert output.splitlines()[0] == (
        "1 reserves and 1 finalizes in shadow; they would have charged $0.00."
    )
    assert output.splitlines()[2] == (
        "Live mode would have refused 1 reserves of 1 of the 1 accounts shown, "
        "at the most 5 micro-USD short."
    )
    assert output.splitlines()[-1].split() == [account, "1", "12", "1", "5"]
    code, found = told("ledger", "shadow", "--account", account, "--since", "2026-03-15", **at)
    assert (code, found["accounts"][0]["largestShortfallMicro"]) == (0, "5")
    assert arrakis("ledger", "shadow", "--account", "nobody", **at)[0] == 1
