"""The same request gives the same answer for ever; the same key with other content is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.front_door import balance, breaches, hold, mint, rows, settle, snapshot
from tests.harness import Api, unique


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def assert_replayed(again: requests.Response, first: requests.Response) -> None:
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["Idempotent-Replay"] == "true"
    assert "Idempotent-Replay" not in first.headers


def assert_conflict(answer: requests.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert answer.json().keys() <= {"error", "code", "message", "details", "requestId"}


def test_a_reserve_repeated_by_its_key_is_answered_byte_for_byte(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    body = {"accountId": account, "estimatedCostMicro": "1000000", "metadata": {"b": 1, "a": "ü"}}
    first = client.internal("reserve", body, key)
    before = snapshot(client, account)
    assert_replayed(client.internal("reserve", body, key), first)
    assert_replayed(
        client.internal("reserve", {**body, "metadata": {"a": "ü", "b": 1}}, key), first
    )
    assert_replayed(client.internal("reserve", {**body, "traceId": unique("trace")}, key), first)
    assert snapshot(client, account) == before
    assert balance(client, account) == (9_000_000, 1_000_000, 0)


def test_a_reserve_repeated_by_its_request_id_is_answered_byte_for_byte(client: Api) -> None:
    account = client.funded_account()
    body = {"accountId": account, "estimatedCostMicro": "1000000", "requestId": unique("request")}
    first = client.internal("reserve", body)
    before = snapshot(client, account)
    assert_replayed(client.internal("reserve", body), first)
    assert_replayed(client.internal("reserve", body, body["requestId"]), first)
    assert snapshot(client, account) == before


def test_a_reserve_without_a_key_is_a_new_hold_each_time(client: Api) -> None:
    account = client.funded_account()
    assert hold(client, account, 1_000_000) != hold(client, account, 1_000_000)
    assert balance(client, account) == (8_000_000, 2_000_000, 0)


def test_a_reserve_is_replayed_as_it_was_also_after_its_hold_has_ended(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    body = {"accountId": account, "estimatedCostMicro": "1000000"}
    first = client.internal("reserve", body, key)
    settle(client, first.json()["reservationId"], 700_000)
    before = snapshot(client, account)
    assert_replayed(client.internal("reserve", body, key), first)
    assert snapshot(client, account) == before


@pytest.mark.parametrize(
    "change",
    [
        {"estimatedCostMicro": "1000001"},
        {"poolId": "campaign:other"},
        {"ttlSeconds": 60},
        {"description": "another"},
        {"metadata": {"a": 2}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_with_other_content_is_a_conflict(client: Api, change: dict[str, Any]) -> None:
    account, key = client.funded_account(), unique("key")
    body = {"accountId": account, "estimatedCostMicro": "1000000", "metadata": {"a": 1}}
    client.internal("reserve", body, key)
    before = snapshot(client, account)
    assert_conflict(client.internal("reserve", {**body, **change}, key))
    assert snapshot(client, account) == before


def test_one_key_serves_two_accounts_apart(client: Api) -> None:
    key = unique("key")
    holds = set()
    for account in (client.funded_account(), client.funded_account()):
        body = {"accountId": account, "estimatedCostMicro": "1000000"}
        answer = client.internal("reserve", body, key)
        assert (answer.status_code, answer.json()["accountId"]) == (200, account)
        assert "Idempotent-Replay" not in answer.headers
        holds.add(answer.json()["reservationId"])
        assert balance(client, account) == (9_000_000, 1_000_000, 0)
    assert len(holds) == 2


def test_one_key_serves_mint_reserve_and_finalize_of_one_account(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    minted = client.post(
        f"/admin/billing/accounts/{account}/mint",
        {"amountMicro": "500"},
        headers={**client.admin(), "Idempotency-Key": key},
    )
    held = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "400"}, key)
    done = settle(client, held.json()["reservationId"], 300, key)
    assert [minted.status_code, held.status_code, done.status_code] == [201, 200, 200]
    assert balance(client, account) == (10_000_200, 0, 0)


def test_a_refused_reserve_is_not_remembered_and_succeeds_after_a_deposit(client: Api) -> None:
    account, key = client.funded_account(0), unique("key")
    body = {"accountId": account, "estimatedCostMicro": "1000"}
    assert client.internal("reserve", body, key).status_code == 402
    mint(client, account, 1_000)
    assert client.internal("reserve", body, key).status_code == 200
    assert balance(client, account) == (0, 1_000, 0)


def test_a_finalize_repeated_at_the_same_cost_is_answered_byte_for_byte(client: Api) -> None:
    account = client.funded_account(1_000_000)
    reservation = hold(client, account, 500_000)
    first = settle(client, reservation, 300_000)
    assert first.json()["releasedMicro"] == "200000"
    before = snapshot(client, account)
    assert_replayed(settle(client, reservation, 300_000), first)
    assert_replayed(settle(client, reservation, 300_000, accountId=account), first)
    assert snapshot(client, account) == before
    assert_replayed(settle(client, reservation, 300_000, unique("key")), first)
    assert balance(client, account) == (700_000, 0, 0)


def test_a_finalize_at_another_cost_is_a_conflict(client: Api) -> None:
    account = client.funded_account(1_000_000)
    reservation = hold(client, account, 500_000)
    settle(client, reservation, 300_000)
    before = snapshot(client, account)
    for cost in (300_001, 400_000, 0):
        assert_conflict(settle(client, reservation, cost))
    assert snapshot(client, account) == before


def test_a_capped_finalize_is_compared_by_the_cost_that_was_asked_for(client: Api) -> None:
    account = client.funded_account(10_000_000)
    reservation = hold(client, account, 1_000_000)
    first = settle(client, reservation, 3_000_000, unique("key"))
    assert first.json()["unchargedMicro"] == "2000000"
    assert_replayed(settle(client, reservation, 3_000_000), first)
    assert_conflict(settle(client, reservation, 1_000_000))
    assert balance(client, account) == (9_000_000, 0, 0)


def test_a_finalize_key_of_another_hold_is_a_conflict(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    settle(client, hold(client, account, 1_000_000), 600_000, key)
    other = hold(client, account, 1_000_000)
    before = snapshot(client, account)
    assert_conflict(settle(client, other, 600_000, key))
    assert snapshot(client, account) == before
    assert settle(client, other, 600_000).status_code == 200


def test_a_key_that_came_with_a_repeat_is_bound_to_that_content(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    first = hold(client, account, 1_000_000)
    other = hold(client, account, 1_000_000)
    settled = settle(client, first, 600_000)
    assert_replayed(settle(client, first, 600_000, key), settled)
    assert_conflict(settle(client, other, 600_000, key))
    assert_replayed(settle(client, first, 600_000, key), settled)


def test_a_finalize_key_used_first_with_another_cost_is_a_conflict(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    reservation = hold(client, account, 1_000_000)
    settle(client, reservation, 600_000, key)
    assert_conflict(settle(client, reservation, 700_000, key))


def test_a_refused_repeat_of_a_foreign_account_shows_nothing_of_the_answer(client: Api) -> None:
    account, other = client.funded_account(), client.funded_account(0)
    reservation = hold(client, account, 1_000_000)
    settle(client, reservation, 600_000)
    refused = settle(client, reservation, 600_000, accountId=other)
    assert refused.status_code == 403
    assert refused.json().keys() == {"error", "code", "message", "requestId"}
    assert account not in refused.text


def test_a_release_repeated_is_answered_byte_for_byte(client: Api) -> None:
    account = client.funded_account(10_000_000)
    body = {"reservationId": hold(client, account, 4_000_000)}
    first = client.internal("release", body)
    before = snapshot(client, account)
    assert_replayed(client.internal("release", body), first)
    assert_replayed(client.internal("release", {**body, "reason": "again"}), first)
    assert snapshot(client, account) == before
    assert balance(client, account) == (10_000_000, 0, 0)


def at_once(calls: int, call: Any) -> list[requests.Response]:
    """Run *call* that many times at the same moment."""
    barrier = threading.Barrier(calls)

    def wait_and_call(number: int) -> requests.Response:
        barrier.wait()
        answer: requests.Response = call(number)
        return answer

    with ThreadPoolExecutor(calls) as pool:
        return list(pool.map(wait_and_call, range(calls)))


def test_eight_reserves_at_once_with_one_key_make_one_hold(client: Api) -> None:
    account, key = client.funded_account(), unique("key")
    body = {"accountId": account, "estimatedCostMicro": "1000000"}
    answers = at_once(8, lambda _: client.internal("reserve", body, key))
    assert {(a.status_code, a.content) for a in answers} == {(200, answers[0].content)}
    assert sum("Idempotent-Replay" not in a.headers for a in answers) == 1
    assert balance(client, account) == (9_000_000, 1_000_000, 0)


def test_eight_finalizes_at_once_charge_once_and_tell_the_same(client: Api) -> None:
    account = client.funded_account()
    reservation = hold(client, account, 1_000_000)
    answers = at_once(8, lambda _: settle(client, reservation, 600_000))
    assert {(a.status_code, a.content) for a in answers} == {(200, answers[0].content)}
    assert sum("Idempotent-Replay" not in a.headers for a in answers) == 1
    assert balance(client, account) == (9_400_000, 0, 0)


def test_of_eight_finalizes_at_once_with_eight_costs_one_wins(client: Api) -> None:
    account = client.funded_account()
    reservation = hold(client, account, 1_000_000)
    answers = at_once(8, lambda number: settle(client, reservation, 100_000 + number))
    assert sorted(a.status_code for a in answers) == [200] + [409] * 7
    [winner] = [a for a in answers if a.status_code == 200]
    charged = int(winner.json()["finalizedMicro"])
    assert balance(client, account) == (10_000_000 - charged, 0, 0)


def test_of_a_finalize_and_a_release_at_once_exactly_one_wins(client: Api) -> None:
    account = client.funded_account()
    reservation = hold(client, account, 1_000_000)
    finalized, released = at_once(
        2,
        lambda number: (
            client.internal("release", {"reservationId": reservation})
            if number
            else settle(client, reservation, 600_000)
        ),
    )
    outcome = (finalized.status_code, released.status_code)
    assert outcome in {(200, 409), (422, 200)}
    left = 9_400_000 if outcome == (200, 409) else 10_000_000
    assert balance(client, account) == (left, 0, 0)
    [(ended,)] = rows(
        client, "SELECT status FROM credit_reservations WHERE id = :id", id=reservation
    )
    assert ended == ("finalized" if outcome == (200, 409) else "released")


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
