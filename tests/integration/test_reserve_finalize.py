"""Holds and their settlement through the S2S API: what is answered and what is booked."""

from dataclasses import replace
from typing import Any

import pytest

from tests.front_door import balance, breaches, hold, ledger, mint, revenue, rows, settle, snapshot
from tests.harness import Api, unique

BASES = ("/api/internal", "/api/internal/billing", "/api/billing/internal")


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def status_of(client: Api, reservation_id: str) -> str:
    shown = client.get(f"/api/internal/reservations/{reservation_id}")
    assert shown.status_code == 200
    status: str = shown.json()["status"]
    return status


def allocations(client: Api, reservation_id: str) -> list[tuple[Any, ...]]:
    """Return what a hold took from each lot and consumed of it, in the order of the lots' ids."""
    return rows(
        client,
        "SELECT lot_id, reserved_micro, consumed_micro FROM reservation_lots"
        " WHERE reservation_id = :id ORDER BY lot_id",
        id=reservation_id,
    )


def test_a_reserve_answers_with_the_hold_and_the_balance_after_it(client: Api) -> None:
    account = client.funded_account(10_000_000)
    [(lot,)] = rows(client, "SELECT id FROM credit_lots WHERE account_id = :id", id=account)
    held = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "5000000"})
    assert held.status_code == 200
    body = held.json()
    assert len(body.pop("reservationId")) == 36
    assert body.pop("expiresAt").endswith("Z")
    assert body == {
        "accountId": account,
        "poolId": "general",
        "reservedMicro": "5000000",
        "status": "pending",
        "billingMode": "live",
        "balance": {
            "availableMicro": "5000000",
            "reservedMicro": "5000000",
            "debtMicro": "0",
            "settledMicro": "10000000",
        },
        "allocations": [{"lotId": lot, "reservedMicro": "5000000"}],
    }
    assert balance(client, account) == (5_000_000, 5_000_000, 0)


def test_a_finalize_below_the_hold_charges_the_cost_and_gives_the_rest_back(client: Api) -> None:
    account = client.funded_account(10_000_000)
    reservation = hold(client, account, 5_000_000)
    done = settle(client, reservation, 3_000_000)
    assert done.status_code == 200
    body = done.json()
    assert body.pop("finalizedAt").endswith("Z")
    assert body == {
        "reservationId": reservation,
        "accountId": account,
        "finalizedMicro": "3000000",
        "releasedMicro": "2000000",
        "overrunMicro": "0",
        "unchargedMicro": "0",
        "debtMicro": "0",
        "billingMode": "live",
        "late": False,
    }
    assert balance(client, account) == (7_000_000, 0, 0)
    assert ledger(client, account) == [
        ("deposit", 10_000_000, 0, 10_000_000),
        ("reserve", -5_000_000, 10_000_000, 5_000_000),
        ("release", 5_000_000, 5_000_000, 10_000_000),
        ("finalize", -3_000_000, 10_000_000, 7_000_000),
    ]


def test_a_charge_is_shared_5_70_25_with_the_remainder_to_the_foundation(client: Api) -> None:
    account = client.funded_account()
    for cost, commons, community, foundation in (
        (1_000_000, 50_000, 700_000, 250_000),
        (999_999, 49_999, 699_999, 250_001),
    ):
        reservation = hold(client, account, 1_000_000)
        assert settle(client, reservation, cost).status_code == 200
        assert revenue(client, reservation) == [
            ("sys-commons", "commons_contribution", commons),
            ("sys-community-pool", "revenue_share", community),
            ("sys-foundation", "revenue_share", foundation),
        ]


def test_a_cost_of_three_leaves_no_entry_for_the_empty_share(client: Api) -> None:
    reservation = hold(client, client.funded_account(), 10)
    assert settle(client, reservation, 3).json()["finalizedMicro"] == "3"
    assert revenue(client, reservation) == [
        ("sys-community-pool", "revenue_share", 2),
        ("sys-foundation", "revenue_share", 1),
    ]


def test_a_cost_of_zero_gives_the_whole_hold_back(client: Api) -> None:
    """Behaviour 131."""
    account = client.funded_account(1_000_000)
    reservation = hold(client, account, 400_000)
    done = settle(client, reservation, 0).json()
    assert (done["finalizedMicro"], done["releasedMicro"]) == ("0", "400000")
    assert balance(client, account) == (1_000_000, 0, 0)
    assert revenue(client, reservation) == []


def test_live_caps_an_overrun_at_the_hold_and_tells_what_was_not_charged(client: Api) -> None:
    account = client.funded_account(10_000_000)
    reservation = hold(client, account, 1_000_000)
    done = settle(client, reservation, 3_000_000).json()
    assert (done["finalizedMicro"], done["unchargedMicro"]) == ("1000000", "2000000")
    assert (done["releasedMicro"], done["overrunMicro"], done["debtMicro"]) == ("0", "0", "0")
    assert balance(client, account) == (9_000_000, 0, 0)
    [(details,)] = rows(
        client,
        "SELECT metadata FROM credit_ledger WHERE reservation_id = :id AND entry_type = 'finalize'",
        id=reservation,
    )
    assert details == '{"unchargedMicro":"2000000"}'


def overruns(client: Api) -> tuple[float, float]:
    """Return what the metrics count: finalizes above their hold in live, and micro not charged."""
    told = client.get("/metrics", headers={}).text
    found = dict(line.rsplit(" ", 1) for line in told.splitlines() if not line.startswith("#"))
    return (
        float(found.get('arrakis_overruns_total{mode="live"}', 0)),
        float(found["arrakis_uncharged_micro_total"]),
    )


def test_an_overrun_is_counted_once_however_often_it_is_repeated(client: Api) -> None:
    reservation = hold(client, client.funded_account(), 1_000_000)
    calls, uncharged = overruns(client)
    for _ in range(3):
        settle(client, reservation, 3_000_000)
    assert overruns(client) == (calls + 1, uncharged + 2_000_000)


def test_a_release_gives_the_hold_back(client: Api) -> None:
    account = client.funded_account(10_000_000)
    reservation = hold(client, account, 4_000_000)
    body = {"reservationId": reservation, "reason": "the model was not run"}
    released = client.internal("release", body)
    assert released.status_code == 200
    assert released.json() == {"reservationId": reservation, "releasedMicro": "4000000"}
    assert status_of(client, reservation) == "released"
    assert balance(client, account) == (10_000_000, 0, 0)
    assert ledger(client, account)[-1] == ("release", 4_000_000, 6_000_000, 10_000_000)


def test_a_finalized_hold_cannot_be_released(client: Api) -> None:
    account = client.funded_account()
    reservation = hold(client, account, 1_000_000)
    settle(client, reservation, 600_000)
    before = snapshot(client, account)
    refused = client.internal("release", {"reservationId": reservation})
    assert (refused.status_code, refused.json()["code"]) == (409, "reservation_finalized")
    assert snapshot(client, account) == before


def test_a_released_hold_cannot_be_finalized(client: Api) -> None:
    """Behaviour 183 (W68)."""
    account = client.funded_account()
    reservation = hold(client, account, 1_000_000)
    client.internal("release", {"reservationId": reservation})
    before = snapshot(client, account)
    refused = settle(client, reservation, 600_000)
    assert (refused.status_code, refused.json()["code"]) == (422, "reservation_released")
    assert snapshot(client, account) == before


@pytest.mark.parametrize("operation", ["finalize", "release"])
def test_a_hold_of_another_account_is_refused_and_stays_pending(
    client: Api, operation: str
) -> None:
    """Behaviour 130."""
    account, other = client.funded_account(), client.funded_account(0)
    reservation = hold(client, account, 1_000_000)
    before = snapshot(client, account)
    body = {"reservationId": reservation, "actualCostMicro": "1", "accountId": other}
    refused = client.internal(operation, body)
    assert (refused.status_code, refused.json()["code"]) == (403, "account_mismatch")
    assert status_of(client, reservation) == "pending"
    assert snapshot(client, account) == before


@pytest.mark.parametrize("operation", ["finalize", "release"])
def test_an_unknown_reservation_is_not_found(client: Api, operation: str) -> None:
    """Behaviour 125."""
    body = {"reservationId": unique("none"), "actualCostMicro": "1"}
    refused = client.internal(operation, body)
    assert (refused.status_code, refused.json()["code"]) == (404, "reservation_not_found")
    assert "not found" in refused.json()["error"]


def test_a_reserve_above_the_credits_is_refused_with_both_amounts(client: Api) -> None:
    account = client.funded_account(100_000)
    before = snapshot(client, account)
    refused = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "200000"})
    assert refused.status_code == 402
    body = refused.json()
    assert body.pop("requestId")
    assert body.pop("message")
    assert body == {
        "error": "insufficient_credits",
        "code": "insufficient_credits",
        "balance_micro": "100000",
        "required_micro": "200000",
    }
    assert snapshot(client, account) == before


def test_an_account_without_credits_is_refused_in_live(client: Api) -> None:
    """Behaviour 125."""
    account = client.funded_account(0)
    refused = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "1"})
    assert (refused.status_code, refused.json()["balance_micro"]) == (402, "0")
    assert balance(client, account) == (0, 0, 0)


def test_a_reserve_on_an_unknown_account_is_not_found(client: Api) -> None:
    for named in ({"accountId": unique("none")}, {"entityType": "agent", "entityId": unique("no")}):
        refused = client.internal("reserve", {**named, "estimatedCostMicro": "1"})
        assert (refused.status_code, refused.json()["code"]) == (404, "account_not_found")


@pytest.mark.parametrize("base", BASES)
def test_each_of_the_three_bases_serves_every_operation(client: Api, base: str) -> None:
    account = client.funded_account()
    wanted = {"accountId": account, "estimatedCostMicro": "1000"}
    first = client.post(f"{base}/reserve", wanted).json()["reservationId"]
    second = client.post(f"{base}/reserve", wanted).json()["reservationId"]
    cost = {"reservationId": first, "actualCostMicro": "400"}
    assert client.post(f"{base}/finalize", cost).json()["finalizedMicro"] == "400"
    given = client.post(f"{base}/release", {"reservationId": second})
    assert given.json()["releasedMicro"] == "1000"
    assert client.get(f"{base}/reservations/{first}").json()["status"] == "finalized"
    assert client.get(f"{base}/accounts/{account}/balance").json()["availableMicro"] == "9999600"
    assert len(client.get(f"{base}/accounts/{account}/history").json()["entries"]) == 6
    assert client.get(f"{base}/health", headers={}).json()["status"] == "ok"


@pytest.mark.parametrize("version", ["6.0.0", "8.3.0", "8.99.99999"])
def test_a_protocol_version_from_6_to_below_9_passes(client: Api, version: str) -> None:
    account = client.funded_account()
    body = {"accountId": account, "estimatedCostMicro": "1"}
    headers = {**client.s2s(), "X-Protocol-Version": version}
    assert client.post("/api/internal/reserve", body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "version", ["5.9.9", "9.0.0", "10.0.0", "8", "8.3", "v8.3.0", "8.-1.0", ""]
)
def test_any_other_protocol_version_is_refused(client: Api, version: str) -> None:
    account = client.funded_account()
    before = snapshot(client, account)
    body = {"accountId": account, "estimatedCostMicro": "1"}
    headers = {**client.s2s(), "X-Protocol-Version": version}
    refused = client.post("/api/internal/reserve", body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "unsupported_protocol_version")
    shown = client.get(f"/api/internal/accounts/{account}/balance", headers=headers)
    assert shown.status_code == 422
    assert snapshot(client, account) == before


def test_a_bad_body_is_told_before_a_bad_version(client: Api) -> None:
    headers = {**client.s2s(), "X-Protocol-Version": "5.0.0"}
    refused = client.post("/api/internal/finalize", {"actualCostMicro": "1"}, headers=headers)
    assert refused.status_code == 400


def test_fields_that_are_not_ours_are_ignored(client: Api) -> None:
    account = client.funded_account()
    body = {"accountId": account, "estimatedCostMicro": "1000", "traceId": "t", "x": {"y": [1]}}
    held = client.internal("reserve", body)
    assert held.status_code == 200
    cost = {"reservationId": held.json()["reservationId"], "actualCostMicro": "1000"}
    assert client.internal("finalize", {**cost, "traceId": "t"}).status_code == 200


def test_an_account_can_be_named_by_its_entity(client: Api) -> None:
    name = unique("wallet")
    made = client.post(
        "/admin/billing/accounts",
        {"entityType": "agent", "entityId": name},
        headers=client.admin(),
    )
    account = made.json()["accountId"]
    mint(client, account, 1_000)
    body = {"entityType": "agent", "entityId": name, "estimatedCostMicro": "400"}
    held = client.internal("reserve", body)
    assert (held.status_code, held.json()["accountId"]) == (200, account)
    assert balance(client, account) == (600, 400, 0)


def test_a_hold_on_a_campaign_pool_takes_that_pool_first_and_general_after(client: Api) -> None:
    account = client.funded_account(100_000)
    lot = mint(client, account, 100_000, poolId="campaign:test", sourceType="grant").json()
    body = {"accountId": account, "estimatedCostMicro": "150000", "poolId": "campaign:test"}
    held = client.internal("reserve", body).json()
    [first, second] = held["allocations"]
    assert first == {"lotId": lot["lotId"], "reservedMicro": "100000"}
    assert second["reservedMicro"] == "50000"
    assert held["balance"]["availableMicro"] == "50000"
    assert balance(client, account, "campaign:test") == (50_000, 150_000, 0)
    assert balance(client, account) == (50_000, 50_000, 0)
    settle(client, held["reservationId"], 120_000)
    assert balance(client, account) == (80_000, 0, 0)
    assert balance(client, account, "campaign:test") == (80_000, 0, 0)


def test_a_hold_on_general_never_touches_a_campaign_pool(client: Api) -> None:
    account = client.funded_account(100_000)
    mint(client, account, 900_000, poolId="campaign:test", sourceType="grant")
    before = snapshot(client, account)
    refused = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "100001"})
    assert (refused.status_code, refused.json()["balance_micro"]) == (402, "100000")
    assert snapshot(client, account) == before


def test_a_partial_finalize_consumes_the_oldest_lot_first(client: Api) -> None:
    account = client.funded_account(500_000)
    mint(client, account, 500_000)
    reservation = hold(client, account, 800_000)
    [(old, *_), (new, *_)] = allocations(client, reservation)
    done = settle(client, reservation, 600_000).json()
    assert (done["finalizedMicro"], done["releasedMicro"]) == ("600000", "200000")
    assert allocations(client, reservation) == [(old, 500_000, 500_000), (new, 300_000, 100_000)]
    assert balance(client, account) == (400_000, 0, 0)


def test_ten_holds_can_take_exactly_everything(client: Api) -> None:
    account = client.funded_account(1_000_000)
    for _ in range(10):
        hold(client, account, 100_000)
    assert balance(client, account) == (0, 1_000_000, 0)
    refused = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "1"})
    assert refused.status_code == 402


def test_an_amount_above_the_ceiling_is_refused_everywhere(client: Api) -> None:
    """Behaviour 183 (W68)."""
    account = client.funded_account()
    reservation = hold(client, account, 1_000_000)
    before = snapshot(client, account)
    for operation, body in (
        ("reserve", {"accountId": account, "estimatedCostMicro": "100000000001"}),
        ("finalize", {"reservationId": reservation, "actualCostMicro": "100000000001"}),
        ("reserve", {"accountId": account, "estimatedCostMicro": "9999999999999999"}),
    ):
        refused = client.internal(operation, body)
        assert (refused.status_code, refused.json()["code"]) == (400, "amount_above_ceiling")
        assert refused.json()["details"] == {"ceilingMicro": "100000000000"}
    at_the_ceiling = {"accountId": account, "estimatedCostMicro": "100000000000"}
    assert client.internal("reserve", at_the_ceiling).status_code == 402
    assert snapshot(client, account) == before


def test_entries_are_numbered_without_a_gap_in_each_pool(client: Api) -> None:
    account = client.funded_account()
    for cost in (1_000, 2_000):
        settle(client, hold(client, account, 5_000), cost)
    numbers = "SELECT entry_seq FROM credit_ledger WHERE account_id = :id ORDER BY entry_seq"
    assert rows(client, numbers, id=account) == [(n,) for n in range(1, 8)]


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
