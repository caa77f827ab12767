"""Accounts, statements and mints by command and API (behaviours 65, 157, 186; W22, W67)."""

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from shared.clock import system_clock, to_wire
from shared.errors import Invalid, NotFound
from shared.ledger import overview, statements
from tests.command import arrakis, told
from tests.harness import unique
from tests.ledger import START, Ledger


def statement(
    ledger: Ledger, account: str, since: float, until: float, **more: int
) -> dict[str, Any]:
    with ledger.database.reading() as tx:
        return statements.statement(
            tx,
            account,
            since=START + timedelta(hours=since),
            until=START + timedelta(hours=until),
            **more,
        )


def a_day_of(ledger: Ledger) -> str:
    """Let an account be funded at hour 0, spend at 1, lose a lot at 5 and owe at 6."""
    account = ledger.funded(1_000)
    ledger.mint(account, 500, expires_at=START + timedelta(hours=4))
    ledger.clock.advance(hours=1)
    ledger.finalize(ledger.reserve(account, 300), 100)
    ledger.clock.advance(hours=4)
    ledger.sweep()
    ledger.clock.advance(hours=1)
    ledger.configure(billing_mode="soft")
    ledger.finalize(ledger.reserve(account, 1_000), 2_500)
    ledger.configure(billing_mode="shadow")
    ledger.finalize(ledger.reserve(account, 70), 70)
    return account


def test_opening_balance_and_entries_are_the_closing_balance(ledger: Ledger) -> None:
    account = a_day_of(ledger)
    whole = statement(ledger, account, 0, 24)
    assert (whole["openingMicro"], whole["closingMicro"]) == ("0", "-1500")
    assert ledger.balance(account) == (-1_500, 0, 1_500)
    moved = [(one["entryType"], int(one["amountMicro"])) for one in whole["entries"]]
    assert sum(amount for _, amount in moved) == -1_500
    assert not [name for name, _ in moved if name.startswith("shadow")]
    assert sum(int(amount) for amount in whole["totalsMicro"].values()) == -1_500
    running = 0
    for one in whole["entries"]:
        running += int(one["amountMicro"])
        assert int(one["balanceMicro"]) == running


def test_periods_that_meet_hand_their_balance_over(ledger: Ledger) -> None:
    account = a_day_of(ledger)
    hours = (0, 0.5, 1, 3, 5, 6, 24)
    parts = [statement(ledger, account, *pair) for pair in pairwise(hours)]
    for before, after in pairwise(parts):
        assert before["closingMicro"] == after["openingMicro"]
    entries = [one["id"] for part in parts for one in part["entries"]]
    assert entries == [one["id"] for one in statement(ledger, account, 0, 24)["entries"]]
    assert len(set(entries)) == len(entries)


def test_a_period_must_be_one_and_an_account_must_exist(ledger: Ledger) -> None:
    account = ledger.funded(1, 1, 1)
    with pytest.raises(Invalid) as refused:
        statement(ledger, account, 1, 1)
    assert refused.value.code == "period_is_empty"
    with pytest.raises(NotFound):
        statement(ledger, "nobody", 0, 1)
    assert len(statement(ledger, account, 0, 1, most=3)["entries"]) == 3
    with pytest.raises(Invalid) as refused:
        statement(ledger, account, 0, 1, most=2)
    assert refused.value.code == "period_too_long"


def test_the_command_prints_a_table_that_adds_up(ledger: Ledger) -> None:
    account, at = a_day_of(ledger), {"DATABASE_URL": ledger.url}
    period = ("--since", "2026-03-15 15:00:00", "--until", "2026-03-16")
    code, output, _ = arrakis("account", "statement", account, *period, **at)
    lines = output.splitlines()
    assert code == 0
    assert lines[2].split()[-4:] == ["opening", "balance", "-", "1500"]
    assert lines[-1].split()[-4:] == ["closing", "balance", "-", "-1500"]
    code, found = told("account", "statement", account, *period, **at)
    assert (found["openingMicro"], found["closingMicro"]) == ("1500", "-1500")
    assert len(found["entries"]) == len(lines) - 4
    assert arrakis("account", "statement", "nobody", **at)[0] == 1
    backwards = ("--since", "2026-03-16", "--until", "2026-03-15")
    assert arrakis("account", "statement", account, *backwards, **at)[0] == 2


def test_the_api_tells_the_same_statement(ledger: Ledger, api_of: Any) -> None:
    account, api = a_day_of(ledger), api_of(ledger.url)
    path = f"/admin/billing/accounts/{account}/statement"
    period = {"since": to_wire(START), "until": to_wire(START + timedelta(hours=24))}
    found = api.get(path, headers=api.admin(), params=period)
    assert found.json() == statement(ledger, account, 0, 24) | {"since": period["since"]}
    assert api.get(path, headers=api.admin()).status_code == 400
    assert api.get(path, headers=api.admin(), params={"since": "2026-03-15"}).status_code == 400
    open_ended = {"since": period["since"]}
    assert api.get(path, headers=api.admin(), params=open_ended).json()["closingMicro"] == "-1500"


def audited(ledger: Ledger) -> list[tuple[str, str]]:
    return [tuple(row) for row in ledger.rows("SELECT action, target_id FROM admin_audit_log")]


def test_an_account_is_made_once_shown_and_audited(ledger: Ledger) -> None:
    at, entity = {"DATABASE_URL": ledger.url}, unique("guild")
    code, made = told("account", "create", "community", entity, "--id", "acct-guild", **at)
    assert (code, made["accountId"], made["entityType"]) == (0, "acct-guild", "community")
    again = arrakis("account", "create", "community", entity, **at)
    assert again == (0, "There is already acct-guild.\n", "")
    code, _, complaint = arrakis("account", "create", "community", entity, "--id", "other", **at)
    assert (code, "account_exists" in complaint) == (1, True)
    assert arrakis("account", "create", "planet", "x", **at)[0] == 2
    assert sorted(audited(ledger)) == [
        ("account_create", "acct-guild"),
        ("account_create_refused", "acct-guild"),
    ]
    assert arrakis("account", "show", "nobody", **at)[0] == 1
    ledger.mint("acct-guild", 2_000_000)
    code, shown = told("account", "show", "acct-guild", **at)
    assert (shown["balance"]["availableMicro"], len(shown["lots"])) == ("2000000", 1)
    assert "2000000 ($2.00" in arrakis("account", "show", "acct-guild", **at)[1]


def lived_in(ledger: Ledger) -> tuple[str, str]:
    """Let an account own credits in two pools, hold some, and owe; return it and its hold."""
    ledger.configure(billing_mode="soft")
    account = ledger.account()
    ledger.finalize(ledger.reserve(account, 10), 250)
    ledger.configure(billing_mode="live")
    ledger.mint(account, 100)
    ledger.mint(account, 5_000, pool_id="campaign:spring")
    ledger.mint(account, 700, pool_id="agent:7", expires_at=START + timedelta(hours=1))
    hold = ledger.reserve(account, 400, pool_id="agent:7")
    return account, hold


def test_an_account_is_shown_with_all_that_is_open(ledger: Ledger) -> None:
    account, hold = lived_in(ledger)
    with ledger.database.reading() as tx:
        shown = overview.show(tx, account)
    assert shown["balance"]["availableMicro"] == "0"
    own = {
        one["poolId"]: tuple(int(one[f"{n}Micro"]) for n in ("available", "reserved", "debt"))
        for one in shown["pools"]
    }
    assert own == {
        "agent:7": (300, 400, 0), "campaign:spring": (4_850, 0, 0), "general": (0, 0, 0),
    }  # fmt: skip
    assert [one["poolId"] for one in shown["lots"]] == ["campaign:spring", "agent:7"]
    [held] = shown["holds"]
    assert (held["reservationId"], held["reservedMicro"]) == (hold, "400")
    assert shown["debts"] == []
    assert shown["entries"][0]["entryType"] == "reserve"
    assert len(shown["entries"]) == 6
    ledger.clock.advance(hours=2)  # hold and lot are over, swept or not
    with ledger.database.reading() as tx:
        later = overview.show(tx, account)
    assert (later["holds"], len(later["lots"])) == ([], 1)
    assert sum(int(one["availableMicro"]) for one in later["pools"]) == 4_850


def test_command_and_api_show_the_same_account(ledger: Ledger, api_of: Any) -> None:
    account, _ = lived_in(ledger)
    ledger.clock.now = system_clock()
    at, api = {"DATABASE_URL": ledger.url}, api_of(ledger.url)
    code, shown = told("account", "show", account, **at)
    assert code == 0
    by_api = api.get(f"/admin/billing/accounts/{account}", headers=api.admin())
    assert by_api.json() == shown
    output = arrakis("account", "show", account, **at)[1]
    assert "campaign:spring" in output
    assert ["finalize", "general"] in [line.split()[1:3] for line in output.splitlines()]


def test_a_mint_by_command_is_made_once_for_its_key(ledger: Ledger, redis_url: str) -> None:
    account, at = ledger.account(), {"DATABASE_URL": ledger.url, "REDIS_URL": redis_url}
    order = ("mint", account, "5000000", "--yes", "--description", "gift", "--key", unique("t"))
    code, first = told(*order, **at)
    assert code == 0
    code, again = told(*order, **at)
    assert (code, again["lotId"]) == (0, first["lotId"])
    assert "nothing was added" in arrakis(*order, **at)[1]
    assert ledger.balance(account)[0] == 5_000_000
    [(action, actor, details)] = ledger.rows(
        "SELECT action, actor_type, details FROM admin_audit_log"
    )
    assert (action, actor, json.loads(details)["amountMicro"]) == (
        "admin_mint",
        "operator",
        "5000000",
    )


def test_a_mint_for_a_payment_is_made_once_whoever_asks(ledger: Ledger, api_of: Any) -> None:
    """Behaviour 186: the same payment id credits once, by command and API alike."""
    account, at = ledger.account(), {"DATABASE_URL": ledger.url}
    order = ("mint", account, "7000000", "--payment-id", "5745459419", "--yes")
    assert arrakis(*order, **at)[0] == 0
    api = api_of(ledger.url)
    by_api = api.post(
        f"/admin/billing/accounts/{account}/mint",
        {"amountMicro": "7000000", "sourceType": "deposit", "paymentId": "5745459419"},
        headers=api.admin(),
    )
    assert by_api.status_code == 201
    assert by_api.headers["Idempotent-Replay"] == "true"
    assert ledger.balance(account)[0] == 7_000_000


def test_an_amount_must_be_one_and_an_account_must_exist(ledger: Ledger) -> None:
    account, at = ledger.account(), {"DATABASE_URL": ledger.url}
    for wrong in ("0", "-5", "1.5", "five", "99999999999999999"):
        assert arrakis("mint", account, "--", wrong, **at)[0] == 2
    assert arrakis("mint", "nobody", "5", "--yes", **at)[0] == 1
    assert arrakis("mint", account, "5", **at)[0] == 2  # nobody can be asked
    assert audited(ledger) == [("admin_mint_refused", "nobody")]
    assert ledger.balance(account) == (0, 0, 0)
