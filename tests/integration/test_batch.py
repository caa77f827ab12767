"""Many operations in one request: each is answered in its place, and none stops another."""

from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.front_door import balance, breaches, hold, ledger, rows, settle, snapshot
from tests.harness import Api, unique

M = 1_000_000
Results = list[dict[str, Any]]


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def send(client: Api, operations: Any) -> requests.Response:
    return client.internal("batch", {"operations": operations})


def batch(client: Api, *operations: Any) -> Results:
    """Send *operations*, which must be taken as a whole, and return a result each."""
    answer = send(client, operations)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["results"]
    results: Results = answer.json()["results"]
    assert len(results) == len(operations)
    assert all(list(result) == ["status", "body"] for result in results)
    return results


def reserve(account_id: str, amount_micro: int, **fields: Any) -> dict[str, Any]:
    amount = str(amount_micro)
    return {"op": "reserve", "accountId": account_id, "estimatedCostMicro": amount, **fields}


def finalize(reservation_id: str, cost_micro: int, **fields: Any) -> dict[str, Any]:
    cost = str(cost_micro)
    return {"op": "finalize", "reservationId": reservation_id, "actualCostMicro": cost, **fields}


def release(reservation_id: str, **fields: Any) -> dict[str, Any]:
    return {"op": "release", "reservationId": reservation_id, **fields}


def codes(results: Results) -> list[tuple[int, str | None]]:
    return [(result["status"], result["body"].get("code")) for result in results]


def test_one_operation_is_answered_as_by_its_own_route(client: Api) -> None:
    account, key = client.funded_account(M), unique("key")
    [held] = batch(client, reserve(account, 300_000, idempotencyKey=key))
    assert held["status"] == 200
    wanted = {"accountId": account, "estimatedCostMicro": "300000"}
    alone = client.internal("reserve", wanted, key)
    assert (alone.json(), alone.headers["Idempotent-Replay"]) == (held["body"], "true")
    reservation = held["body"]["reservationId"]
    [done] = batch(client, finalize(reservation, 200_000))
    assert settle(client, reservation, 200_000).json() == done["body"]
    assert balance(client, account) == (800_000, 0, 0)


def test_five_hundred_operations_on_one_account_are_carried_out(client: Api) -> None:
    account = client.funded_account(M)
    held = batch(client, *(reserve(account, 1_000 + n) for n in range(500)))
    assert [result["status"] for result in held] == [200] * 500
    assert [result["body"]["reservedMicro"] for result in held] == [
        str(1_000 + n) for n in range(500)
    ]
    ids = [result["body"]["reservationId"] for result in held]
    assert len(set(ids)) == 500
    total = sum(1_000 + n for n in range(500))
    assert balance(client, account) == (M - total, total, 0)
    ended = batch(
        client, *(finalize(name, n) if n % 2 else release(name) for n, name in enumerate(ids))
    )
    assert [result["status"] for result in ended] == [200] * 500
    assert balance(client, account) == (M - sum(range(1, 500, 2)), 0, 0)
    assert len(ledger(client, account)) == 1 + 500 + 500 + 250


@pytest.mark.parametrize("size", [0, 501], ids=["none", "501"])
def test_no_operation_and_more_than_500_are_refused_as_a_whole(client: Api, size: int) -> None:
    account = client.funded_account(M)
    before = snapshot(client, account)
    answer = send(client, [reserve(account, 1)] * size)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
    assert [fault["field"] for fault in answer.json()["details"]] == ["operations"]
    assert snapshot(client, account) == before


@pytest.mark.parametrize("operations", [None, {}, "reserve", 5, True])
def test_operations_that_are_no_list_are_refused(client: Api, operations: Any) -> None:
    answer = send(client, operations)
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")


def test_500_reserves_with_all_the_metadata_allowed_fit_into_one_request(client: Api) -> None:
    account = client.funded_account(M)
    metadata = {"trace": "x" * 4_000}
    held = batch(client, *(reserve(account, 1, metadata=metadata) for _ in range(500)))
    assert [result["status"] for result in held] == [200] * 500
    assert balance(client, account) == (M - 500, 500, 0)


def test_refusals_stand_in_their_places_and_stop_no_other(client: Api) -> None:
    """Issue 3: a poison command in a batch refuses itself alone."""
    account, stranger = client.funded_account(M), client.funded_account(M)
    ended, gone = hold(client, account, 10), hold(client, account, 20)
    settle(client, ended, 10)
    client.internal("release", {"reservationId": gone})
    cases: list[tuple[Any, int, str | None]] = [
        (reserve(account, 100), 200, None),
        (reserve(unique("nobody"), 1), 404, "account_not_found"),
        (reserve(account, 1, metadata={"a": "x" * 4_096}), 400, "validation_error"),
        (reserve(account, 0), 400, "validation_error"),
        (reserve(account, 1, poolId="unknown"), 400, "validation_error"),
        (reserve(account, 1, description="a\u0000b"), 400, "validation_error"),
        (reserve(account, 1, idempotencyKey=""), 400, "validation_error"),
        (reserve(account, 1, idempotencyKey=5), 400, "validation_error"),
        (reserve(account, 1, model="gpt-4o"), 400, "validation_error"),
        (reserve(account, 100_000_000_001), 400, "amount_above_ceiling"),
        (reserve(account, 10 * M), 402, "insufficient_credits"),
        (reserve(stranger, 200), 200, None),
        ({"op": "extend", "reservationId": ended}, 400, "unknown_operation"),
        ({"op": "RESERVE"}, 400, "unknown_operation"),
        ({"op": 5}, 400, "unknown_operation"),
        ({"op": None}, 400, "unknown_operation"),
        ({"op": []}, 400, "unknown_operation"),
        ({}, 400, "unknown_operation"),
        ({"op": "reserve"}, 400, "validation_error"),
        ({"op": "finalize"}, 400, "validation_error"),
        (finalize(unique("none"), 1), 404, "reservation_not_found"),
        (finalize(ended, 9), 409, "idempotency_conflict"),
        (finalize(ended, 10), 200, None),
        (finalize(ended, 10, accountId=stranger), 403, "account_mismatch"),
        (finalize(gone, 5), 422, "reservation_released"),
        (release(ended), 409, "reservation_finalized"),
        (release(gone), 200, None),
        (release(gone, reason="x" * 501), 400, "validation_error"),
        (reserve(account, 300), 200, None),
    ]
    results = batch(client, *(operation for operation, *_ in cases))
    assert codes(results) == [(status, code) for _, status, code in cases]
    assert balance(client, account) == (M - 10 - 400, 400, 0)
    assert balance(client, stranger) == (M - 200, 200, 0)
    short = results[10]["body"]
    assert (short["error"], short["balance_micro"], short["required_micro"]) == (
        "insufficient_credits", str(M - 110), str(10 * M),
    )  # fmt: skip
    assert results[3]["body"]["details"][0]["field"] == "estimatedCostMicro"
    assert results[6]["body"]["details"][0]["field"] == "idempotencyKey"


@pytest.mark.parametrize("poison", [None, 5, 1.5, True, "reserve", [], [{"op": "reserve"}]])
def test_what_is_not_even_an_object_refuses_itself_alone(client: Api, poison: Any) -> None:
    account = client.funded_account(M)
    results = batch(client, reserve(account, 1), poison, reserve(account, 2))
    assert codes(results) == [(200, None), (400, "validation_error"), (200, None)]
    assert results[1]["body"]["error"] == "Validation Error"
    assert balance(client, account) == (M - 3, 3, 0)


def test_a_batch_of_nothing_but_poison_changes_nothing(client: Api) -> None:
    account = client.funded_account(M)
    before = snapshot(client, account)
    results = batch(client, {}, reserve(account, 2 * M), reserve(account, -1), None)
    assert [result["status"] for result in results] == [400, 402, 400, 400]
    assert snapshot(client, account) == before


def test_operations_are_carried_out_in_their_order(client: Api) -> None:
    account = client.funded_account(100)
    first = hold(client, account, 100)
    results = batch(
        client,
        reserve(account, 60),
        finalize(first, 30),
        reserve(account, 60),
        reserve(account, 60),
        reserve(account, 10),
    )
    assert [result["status"] for result in results] == [402, 200, 200, 402, 200]
    assert [r["body"]["balance"]["availableMicro"] for r in (results[2], results[4])] == ["10", "0"]
    assert balance(client, account) == (0, 70, 0)


@pytest.mark.parametrize("name", ["idempotencyKey", "requestId"])
def test_the_same_key_twice_in_one_batch_holds_once(client: Api, name: str) -> None:
    account, key = client.funded_account(M), {name: unique("key")}
    first, again, other, without = batch(
        client,
        reserve(account, 100, **key),
        reserve(account, 100, **key),
        reserve(account, 101, **key),
        reserve(account, 100),
    )
    assert (first["status"], again) == (200, first)
    assert (other["status"], other["body"]["code"]) == (409, "idempotency_conflict")
    assert without["body"]["reservationId"] != first["body"]["reservationId"]
    assert balance(client, account) == (M - 200, 200, 0)


def test_one_key_serves_each_operation_and_account_by_itself(client: Api) -> None:
    """Behaviours 146-148."""
    mine, theirs, key = client.funded_account(M), client.funded_account(M), unique("key")
    held = batch(
        client,
        reserve(mine, 10, idempotencyKey=key),
        reserve(theirs, 20, idempotencyKey=key),
    )
    assert [(r["status"], r["body"]["accountId"]) for r in held] == [(200, mine), (200, theirs)]
    first, second = (result["body"]["reservationId"] for result in held)
    other = hold(client, mine, 10)
    results = batch(
        client,
        finalize(first, 10, idempotencyKey=key),
        finalize(second, 20, idempotencyKey=key),
        finalize(other, 10, idempotencyKey=key),
        finalize(first, 10, idempotencyKey=key),
    )
    assert codes(results) == [
        (200, None), (200, None), (409, "idempotency_conflict"), (200, None),
    ]  # fmt: skip
    assert results[3] == results[0]


def test_a_whole_batch_that_is_sent_again_is_answered_again_item_by_item(client: Api) -> None:
    account, keys = client.funded_account(M), [unique("key") for _ in range(3)]
    earlier, spare = hold(client, account, 500), hold(client, account, 70)
    operations = [
        reserve(account, 100, idempotencyKey=keys[0]),
        finalize(earlier, 400),
        reserve(account, 2 * M, idempotencyKey=keys[1]),
        release(spare, reason="unused"),
        {"op": "nonsense"},
        reserve(account, 200, idempotencyKey=keys[2], ttlSeconds=60, metadata={"a": 1}),
    ]
    first = send(client, operations)
    assert [r["status"] for r in first.json()["results"]] == [200, 200, 402, 200, 400, 200]
    before = snapshot(client, account)
    again = send(client, operations)
    told, repeated = first.json()["results"], again.json()["results"]
    assert [repeated[n] for n in (0, 1, 3, 4, 5)] == [told[n] for n in (0, 1, 3, 4, 5)]
    assert repeated[2]["status"] == 402  # a refusal changed nothing, so it is decided again
    assert snapshot(client, account) == before
    assert balance(client, account) == (M - 400 - 300, 300, 0)


def test_accounts_may_be_named_by_their_entity(client: Api) -> None:
    entity = unique("person")
    made = client.post(
        "/admin/billing/accounts",
        {"entityType": "person", "entityId": entity},
        headers=client.admin(),
    )
    account = made.json()["accountId"]
    named = {"op": "reserve", "entityType": "person", "estimatedCostMicro": "1"}
    results = batch(client, {**named, "entityId": entity}, {**named, "entityId": unique("nobody")})
    assert codes(results) == [(402, "insufficient_credits"), (404, "account_not_found")]
    assert rows(client, "SELECT id FROM credit_reservations WHERE account_id = :a", a=account) == []


def test_a_batch_counts_as_one_request(client: Api) -> None:
    account = client.funded_account(M)
    answer = send(client, [reserve(account, 1)] * 100)
    assert answer.headers["RateLimit-Remaining"] == "199"


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
