"""The admin API: accounts, and mints that credit once, within limits, and are always audited."""

import json
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.front_door import (
    balance,
    breaches,
    hold,
    insert_payment,
    ledger,
    mint,
    rows,
    settle,
    snapshot,
)
from tests.harness import Api, set_config, unique

ACCOUNTS = "/admin/billing/accounts"


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def create(client: Api, **fields: str) -> requests.Response:
    return client.post(ACCOUNTS, fields, headers=client.admin())


def give(client: Api, account_id: str, key: str | None = None, **body: Any) -> requests.Response:
    """Mint as this test's admin."""
    headers = client.admin() | ({"Idempotency-Key": key} if key else {})
    return client.post(f"{ACCOUNTS}/{account_id}/mint", body, headers=headers)


def look(client: Api, path: str, **query: Any) -> dict[str, Any]:
    answer = client.get(f"{ACCOUNTS}{path}", headers=client.admin(), params=query)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def audit(client: Api, target_id: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the audit rows about an account: actor, action, details."""
    return [
        (actor, action, json.loads(details))
        for actor, action, details in rows(
            client,
            "SELECT actor_id, action, details FROM admin_audit_log"
            " WHERE target_type = 'account' AND target_id = :id ORDER BY created_at, id",
            id=target_id,
        )
    ]


def actions(client: Api, target_id: str) -> list[str]:
    return [action for _, action, _ in audit(client, target_id)]


def test_an_account_is_made_once_for_an_entity(client: Api) -> None:
    name = unique("agent")
    made = create(client, entityType="agent", entityId=name)
    again = create(client, entityType="agent", entityId=name)
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.json() == again.json()
    account = made.json()["accountId"]
    assert made.json() == {
        "accountId": account,
        "entityType": "agent",
        "entityId": name,
        "createdAt": made.json()["createdAt"],
        "balance": {
            "accountId": account,
            "poolId": "general",
            "availableMicro": "0",
            "reservedMicro": "0",
            "debtMicro": "0",
            "settledMicro": "0",
        },
    }
    assert made.json().items() <= look(client, f"/{account}").items()
    [(actor, action, _)] = audit(client, account)
    assert (actor, action) == (client.subject, "account_create")


def test_an_account_can_be_given_its_id(client: Api) -> None:
    wanted, name = unique("account"), unique("person")
    fields = {"entityType": "person", "entityId": name, "accountId": wanted}
    made, again = create(client, **fields), create(client, **fields)
    assert (made.status_code, made.json()["accountId"]) == (201, wanted)
    assert (again.status_code, again.json()["accountId"]) == (200, wanted)


def test_an_id_that_contradicts_what_exists_is_a_conflict_and_audited(client: Api) -> None:
    wanted, name = unique("account"), unique("person")
    create(client, entityType="person", entityId=name, accountId=wanted)
    for fields in (
        {"entityType": "person", "entityId": name, "accountId": unique("other")},
        {"entityType": "person", "entityId": unique("other"), "accountId": wanted},
        {"entityType": "agent", "entityId": name, "accountId": wanted},
    ):
        refused = create(client, **fields)
        assert (refused.status_code, refused.json()["code"]) == (409, "account_exists")
        assert refused.json()["details"] == {"accountId": wanted}
    assert actions(client, wanted) == ["account_create", *["account_create_refused"] * 3]
    assert look(client, f"/{wanted}")["entityId"] == name


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"entityId": "x"}, "entityType"),
        ({"entityType": "agent"}, "entityId"),
        ({"entityType": "alien", "entityId": "x"}, "entityType"),
        ({"entityType": "agent", "entityId": ""}, "entityId"),
        ({"entityType": "agent", "entityId": "a\u0000"}, "entityId"),
        ({"entityType": "agent", "entityId": "x", "accountId": "a b"}, "accountId"),
        ({"entityType": "agent", "entityId": "x", "accountId": "a/b"}, "accountId"),
    ],
)
def test_a_malformed_account_is_refused_with_the_field(
    client: Api, fields: dict[str, str], named: str
) -> None:
    refused = create(client, **fields)
    assert (refused.status_code, refused.json()["code"]) == (400, "validation_error")
    assert [fault["field"] for fault in refused.json()["details"]] == [named]


def test_the_list_of_accounts_is_paged_by_cursor_without_overlap(client: Api) -> None:
    made = {client.funded_account(0) for _ in range(5)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        headers = client.admin(sub=unique("admin"))
        page = client.get(ACCOUNTS, headers=headers, params={"limit": 100, **cursor}).json()
        seen += [account["accountId"] for account in page["accounts"]]
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert len(seen) == len(set(seen))
    assert made <= set(seen)
    assert {"sys-foundation", "sys-commons", "sys-community-pool"} <= set(seen)
    small = look(client, "", limit=2)
    assert [account["accountId"] for account in small["accounts"]] == seen[:2]
    assert small["nextCursor"] == seen[1]


def test_the_balance_is_shown_for_each_pool(client: Api) -> None:
    account = client.funded_account(25_000_000)
    mint(client, account, 100, poolId="campaign:x", sourceType="grant")
    hold(client, account, 1_000_000)
    assert look(client, f"/{account}/balance") == {
        "accountId": account,
        "poolId": "general",
        "availableMicro": "24000000",
        "reservedMicro": "1000000",
        "debtMicro": "0",
        "settledMicro": "25000000",
    }
    in_campaign = look(client, f"/{account}/balance", poolId="campaign:x")
    assert in_campaign["availableMicro"] == "24000100"


def test_what_does_not_exist_is_not_found(client: Api) -> None:
    nobody = unique("nobody")
    for path in (f"/{nobody}", f"/{nobody}/balance", f"/{nobody}/history"):
        missing = client.get(ACCOUNTS + path, headers=client.admin())
        assert (missing.status_code, missing.json()["code"]) == (404, "account_not_found")


def test_the_history_is_newest_first_and_can_be_filtered(client: Api) -> None:
    account = client.funded_account(10_000_000)
    mint(client, account, 500, sourceType="grant", description="a gift")
    settle(client, hold(client, account, 5_000_000), 3_000_000)
    entries = look(client, f"/{account}/history")["entries"]
    assert [(e["entryType"], e["amountMicro"]) for e in entries] == [
        ("finalize", "-3000000"),
        ("release", "5000000"),
        ("reserve", "-5000000"),
        ("grant", "500"),
        ("deposit", "10000000"),
    ]
    assert [e["preBalanceMicro"] for e in entries[:2]] == ["10000500", "5000500"]
    assert [e["postBalanceMicro"] for e in entries[:2]] == ["7000500", "10000500"]
    grants = look(client, f"/{account}/history", entryType="grant")["entries"]
    assert [(e["amountMicro"], e["description"]) for e in grants] == [("500", "a gift")]
    assert look(client, f"/{account}/history", poolId="campaign:x")["entries"] == []


@pytest.mark.parametrize("way", ["cursor", "offset"])
def test_the_history_is_paged_without_overlap(client: Api, way: str) -> None:
    account = client.funded_account(0)
    for amount in range(1, 6):
        mint(client, account, amount)
    pages: list[list[str]] = []
    query: dict[str, Any] = {}
    while True:
        page = look(client, f"/{account}/history", limit=2, **query)
        pages.append([entry["amountMicro"] for entry in page["entries"]])
        assert page["pagination"]["count"] == len(page["entries"])
        if page["nextCursor"] is None:
            break
        mint(client, account, 100)  # what comes while someone turns pages disturbs no cursor
        query = {"cursor": page["nextCursor"]} if way == "cursor" else {"offset": 3 * len(pages)}
    assert pages == [["5", "4"], ["3", "2"], ["1"]]


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded"])
def test_the_mint_of_the_runbook_works_as_printed(client: Api, content_type: str | None) -> None:
    """Behaviour 125: 201."""
    account = client.funded_account(0)
    printed = (
        '{"amountMicro": "5000000", "sourceType": "deposit",'
        ' "description": "Manual NOWPayments recovery"}'
    )
    headers = client.admin() | ({"Content-Type": content_type} if content_type else {})
    minted = client.post(f"{ACCOUNTS}/{account}/mint", data=printed.encode(), headers=headers)
    assert minted.status_code == 201
    body = minted.json()
    assert (body["accountId"], body["amountMicro"], body["poolId"]) == (
        account,
        "5000000",
        "general",
    )
    assert ledger(client, account) == [("deposit", 5_000_000, 0, 5_000_000)]
    lots = "SELECT id, source_type, available_micro FROM credit_lots WHERE account_id = :id"
    assert rows(client, lots, id=account) == [(body["lotId"], "deposit", 5_000_000)]


def test_a_mint_is_a_grant_in_general_unless_told_otherwise(client: Api) -> None:
    """Behaviour 111."""
    account = client.funded_account(0)
    assert give(client, account, amountMicro="3000000").status_code == 201
    assert ledger(client, account) == [("grant", 3_000_000, 0, 3_000_000)]
    assert give(client, account, amountMicro="5", poolId="campaign:x").json()["poolId"] == (
        "campaign:x"
    )
    assert balance(client, account) == (3_000_000, 0, 0)


def test_a_mint_repeated_by_its_key_credits_once_and_is_audited_once(client: Api) -> None:
    account, key = client.funded_account(0), unique("key")
    first = give(client, account, key, amountMicro="1000")
    again = give(client, account, key, amountMicro="1000")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Idempotent-Replay"] == "true"
    other = give(client, account, key, amountMicro="1001")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert balance(client, account) == (1_000, 0, 0)
    assert actions(client, account) == ["account_create", "admin_mint", "admin_mint_refused"]


def test_a_mint_for_a_payment_credits_it_once(client: Api) -> None:
    account, other, payment = client.funded_account(0), client.funded_account(0), unique("np")
    wanted = {"amountMicro": "1000", "sourceType": "deposit", "paymentId": payment}
    first = give(client, account, **wanted)
    again = give(client, account, **wanted)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    with_a_key = give(client, account, unique("key"), **wanted)
    elsewhere = give(client, other, **wanted)
    for refused in (with_a_key, elsewhere):
        assert (refused.status_code, refused.json()["code"]) == (409, "already_credited")
        assert refused.json()["details"] == {
            "lotId": first.json()["lotId"],
            "amountMicro": "1000",
        }
    assert balance(client, account) == (1_000, 0, 0)
    assert balance(client, other) == (0, 0, 0)


def test_a_mint_for_a_payment_of_ours_is_noted_on_it_under_either_id(client: Api) -> None:
    account, theirs = client.funded_account(0), unique("np")
    ours = insert_payment(client, account, provider_payment_id=theirs)
    first = give(client, account, amountMicro="1000", sourceType="deposit", paymentId=ours)
    again = give(client, account, amountMicro="1000", sourceType="deposit", paymentId=theirs)
    assert (first.status_code, again.content) == (201, first.content)
    known = "SELECT lot_id, amount_usd_micro FROM crypto_payments WHERE id = :id"
    assert rows(client, known, id=ours) == [(first.json()["lotId"], 1_000)]
    assert balance(client, account) == (1_000, 0, 0)


def test_a_mint_for_a_payment_that_the_provider_has_not_named_is_refused(client: Api) -> None:
    account = client.funded_account(0)
    ours = insert_payment(client, account, provider_payment_id=None, status="creating")
    before = snapshot(client, account)
    for _ in range(2):
        refused = give(client, account, amountMicro="1000", sourceType="deposit", paymentId=ours)
        assert (refused.status_code, refused.json()["code"]) == (409, "payment_not_confirmed")
    assert snapshot(client, account) == before
    assert actions(client, account)[1:] == ["admin_mint_refused"] * 2


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"amountMicro": "0"}, 400, "validation_error"),
        ({"amountMicro": "007"}, 400, "validation_error"),
        ({"amountMicro": "-1"}, 400, "validation_error"),
        ({"amountMicro": 5}, 400, "validation_error"),
        ({}, 400, "validation_error"),
        ({"amountMicro": "1", "sourceType": "purchase"}, 400, "validation_error"),
        ({"amountMicro": "1", "sourceType": "refund"}, 400, "validation_error"),
        ({"amountMicro": "1", "description": "x" * 501}, 400, "validation_error"),
        ({"amountMicro": "1", "poolId": "unknown"}, 400, "validation_error"),
        ({"amountMicro": "1", "paymentId": "a b"}, 400, "validation_error"),
        ({"amountMicro": "1", "paymentId": ""}, 400, "validation_error"),
        ({"amountMicro": "100000000001"}, 400, "amount_above_ceiling"),
        ({"amountMicro": "9999999999999999"}, 400, "amount_above_ceiling"),
    ],
)
def test_a_mint_that_may_not_be_is_refused_and_changes_nothing(
    client: Api, body: dict[str, Any], status: int, code: str
) -> None:
    """Behaviours 111 and 136."""
    account = client.funded_account(1_000)
    before = snapshot(client, account)
    refused = give(client, account, **body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert snapshot(client, account) == before


def test_a_mint_of_just_the_threshold_needs_one_admin(client: Api) -> None:
    account = client.funded_account(0)
    assert give(client, account, amountMicro="1000000000").status_code == 201
    assert balance(client, account) == (1_000_000_000, 0, 0)


def test_a_mint_is_repeated_also_after_the_threshold_was_lowered(client: Api) -> None:
    account, key = client.funded_account(0), unique("key")
    first = give(client, account, key, amountMicro="5000")
    try:
        set_config(client.database, four_eyes_threshold_micro="4000")
        assert give(client, account, key, amountMicro="5000").content == first.content
        assert give(client, account, amountMicro="5000").status_code == 202
        set_config(client.database, four_eyes_threshold_micro="a lot")
        unclear = give(client, account, amountMicro="1")
        assert (unclear.status_code, unclear.json()["code"]) == (503, "config_invalid")
    finally:
        set_config(client.database, four_eyes_threshold_micro="1000000000")
    assert balance(client, account) == (5_000, 0, 0)


def test_a_mint_for_an_unknown_account_is_not_found_and_audited(client: Api) -> None:
    """Behaviour 183 (W68)."""
    nobody = unique("nobody")
    refused = give(client, nobody, amountMicro="1000")
    assert (refused.status_code, refused.json()["code"]) == (404, "account_not_found")
    [(actor, action, details)] = audit(client, nobody)
    assert (actor, action) == (client.subject, "admin_mint_refused")
    assert details["refusedBecause"] == "account_not_found"


def test_an_audit_row_tells_who_did_what_from_where(client: Api) -> None:
    account = client.funded_account(0)
    headers = {**client.admin(), "X-Correlation-Id": "trace-7", "User-Agent": "test/1"}
    body = {"amountMicro": "1000", "sourceType": "deposit", "paymentId": unique("np")}
    minted = client.post(f"{ACCOUNTS}/{account}/mint", body, headers=headers)
    refused = give(client, account, amountMicro="100000000001")
    assert (minted.status_code, refused.status_code) == (201, 400)
    (actor, action, details), (_, refusal, why) = audit(client, account)[1:]
    assert (actor, action) == (client.subject, "admin_mint")
    assert details == {
        "amountMicro": "1000",
        "sourceType": "deposit",
        "paymentId": body["paymentId"],
        "lotId": minted.json()["lotId"],
        "ip": "127.0.0.1",
        "userAgent": "test/1",
        "correlationId": "trace-7",
    }
    assert (refusal, why["refusedBecause"]) == ("admin_mint_refused", "amount_above_ceiling")


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
