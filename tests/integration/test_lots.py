"""GET /lots: what a member has, in the order in which it will be spent, and nobody else's."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from shared.clock import system_clock, to_wire
from shared.ledger.book import post
from shared.ledger.commands import Command, Mint, Refund
from shared.ledger.terms import Terms
from tests.front_door import balance, hold, mint, rows, settle
from tests.harness import Api, make_id, unique, wait_until

CAMPAIGN = "campaign:spring"


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def ask(client: Api, account: str, **query: str) -> requests.Response:
    return client.get("/api/billing/lots", headers=client.member(account), params=query)


def lots(client: Api, account: str, **query: str) -> list[dict[str, Any]]:
    """Return the lots that the member is told."""
    answer = ask(client, account, **query)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["accountId"], answer.json()["poolId"]) == (
        account,
        query.get("poolId", "general"),
    )
    told: list[dict[str, Any]] = answer.json()["lots"]
    return told


def ids(told: list[dict[str, Any]]) -> list[str]:
    return [lot["lotId"] for lot in told]


def book(client: Api, *commands: Command) -> None:
    """Carry out *commands* as the workers do."""
    with client.database.transaction() as tx:
        for outcome in post(tx, commands, Terms(mode="live")):
            outcome.unwrap()


def test_a_lot_is_told_with_all_that_a_member_may_know(client: Api) -> None:
    account, source = client.funded_account(0), unique("nowpay")
    ends = system_clock() + timedelta(days=30)
    lot = Mint(account, make_id(), 1_000, "deposit", source, expires_at=ends)
    book(client, lot)
    settle(client, hold(client, account, 100), 100)
    hold(client, account, 250)
    [told] = lots(client, account)
    made = datetime.fromisoformat(told.pop("createdAt"))
    assert timedelta() <= system_clock() - made < timedelta(seconds=30)
    assert told == {
        "lotId": lot.lot_id,
        "poolId": "general",
        "sourceType": "deposit",
        "sourceId": source,
        "originalMicro": "1000",
        "availableMicro": "650",
        "reservedMicro": "250",
        "consumedMicro": "100",
        "expiresAt": to_wire(ends),
    }


def test_a_lot_that_lasts_names_no_end(client: Api) -> None:
    account = client.funded_account(0)
    mint(client, account, 5, sourceType="grant")
    [told] = lots(client, account)
    assert (told["expiresAt"], told["sourceType"]) == (None, "grant")


def test_lots_come_in_the_order_in_which_they_will_be_spent(client: Api) -> None:
    """Behaviour 5.3.4: the pool that is asked for, then the first to end, then the oldest."""
    account, now = client.funded_account(0), system_clock()
    a_day, a_month = now + timedelta(days=1), now + timedelta(days=30)
    names = [make_id() for _ in range(7)]
    commands = [
        Mint(account, names[0], 10, "grant", expires_at=a_month),
        Mint(account, names[1], 10, "grant"),
        Mint(account, names[2], 10, "grant", pool_id=CAMPAIGN),
        Mint(account, names[3], 10, "grant", expires_at=a_day),
        Mint(account, names[4], 10, "grant", pool_id=CAMPAIGN, expires_at=a_month),
        Mint(account, names[5], 10, "grant", pool_id="campaign:other"),
        Mint(account, names[6], 10, "grant"),
    ]
    for command in commands:  # one after another, so that each has a time of its own
        book(client, command)
    assert ids(lots(client, account)) == [names[n] for n in (3, 0, 1, 6)]
    assert ids(lots(client, account, poolId=CAMPAIGN)) == [names[n] for n in (4, 2, 3, 0, 1, 6)]
    assert ids(lots(client, account, poolId="campaign:none")) == [names[n] for n in (3, 0, 1, 6)]
    body = {"accountId": account, "estimatedCostMicro": "60", "poolId": CAMPAIGN}
    held = client.internal("reserve", body).json()
    assert ids(held["allocations"]) == [names[n] for n in (4, 2, 3, 0, 1, 6)]


def test_of_lots_of_one_instant_the_lower_id_comes_first(client: Api) -> None:
    account = client.funded_account(0)
    names = sorted(make_id() for _ in range(5))
    book(client, *(Mint(account, name, 10, "grant") for name in reversed(names)))
    assert ids(lots(client, account)) == names


def test_what_is_spent_ended_or_refunded_is_not_shown_and_what_is_held_is(client: Api) -> None:
    account, now = client.funded_account(0), system_clock()
    spent, ended, refunded, held, kept = (make_id() for _ in range(5))
    book(client, Mint(account, spent, 10, "grant"))
    settle(client, hold(client, account, 10), 10)
    book(
        client,
        Mint(account, refunded, 10, "deposit"),
        Refund(account, refunded),
        Mint(account, ended, 10, "grant", expires_at=now + timedelta(seconds=1)),
        Mint(account, held, 10, "grant", expires_at=now + timedelta(days=1)),
        Mint(account, kept, 10, "grant"),
    )
    wait_until("the end of the lot", lambda: system_clock() > now + timedelta(seconds=1))
    hold(client, account, 10)
    told = lots(client, account)
    assert [(lot["lotId"], lot["availableMicro"], lot["reservedMicro"]) for lot in told] == [
        (held, "0", "10"),
        (kept, "10", "0"),
    ]
    assert sum(int(lot["availableMicro"]) for lot in told) == balance(client, account)[0]


def test_a_member_sees_no_lots_of_another(client: Api) -> None:
    mine, theirs, third = (client.funded_account(n) for n in (100, 200, 0))
    mint(client, third, 300, poolId=CAMPAIGN, sourceType="grant")
    told = {name: {lot["lotId"] for lot in lots(client, name)} for name in (mine, theirs, third)}
    owned = "SELECT id FROM credit_lots WHERE account_id = :id"
    for name in (mine, theirs):
        assert told[name] == {lot for (lot,) in rows(client, owned, id=name)}
    assert told[third] == set()
    asked = ask(client, mine, accountId=theirs, sub=theirs)
    assert {lot["lotId"] for lot in asked.json()["lots"]} == told[mine]


def test_only_the_first_500_lots_are_told(client: Api) -> None:
    account = client.funded_account(0)
    names = sorted(make_id() for _ in range(501))
    book(client, *(Mint(account, name, 1, "grant") for name in names))
    assert ids(lots(client, account)) == names[:500]


def test_who_may_ask_and_what(client: Api) -> None:
    account = client.funded_account(5)
    nobody = ask(client, unique("nobody"))
    assert (nobody.status_code, nobody.json()["code"]) == (404, "account_not_found")
    for pool in ("", "General", "campaign:", "x"):
        refused = ask(client, account, poolId=pool)
        assert (refused.status_code, refused.json()["details"][0]["field"]) == (400, "poolId")
    for headers in ({}, client.s2s(sub=account), client.admin(sub=account)):
        assert client.get("/api/billing/lots", headers=headers).status_code == 401
    far = datetime(2099, 1, 1, tzinfo=UTC)
    book(client, Mint(account, make_id(), 5, "grant", expires_at=far))
    assert lots(client, account)[0]["expiresAt"] == "2099-01-01T00:00:00.000Z"
