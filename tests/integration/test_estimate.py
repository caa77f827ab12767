"""What a model may cost: told by itself, and held without the caller knowing any price."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.front_door import balance, breaches, settings_in_force, settle, snapshot
from tests.harness import Api, unique

CHEAP = {"inputMicroPer1k": 2_500, "outputMicroPer1k": 10_000}
DEAR = {"inputMicroPer1k": 10_000, "outputMicroPer1k": 10_000}
FREE = {"inputMicroPer1k": 0, "outputMicroPer1k": 0}
HUGE = {"inputMicroPer1k": 10**12 - 1, "outputMicroPer1k": 0}
MODELS = {"cheap": CHEAP, "dear": DEAR, "free": FREE, "huge": HUGE, "a b/c:1": DEAR}
USE = {"model": "dear", "inputTokens": 600, "maxOutputTokens": 400}
BAD_TOKENS: list[Any] = [-1, 1.5, 1.0, True, False, "1", None, [], 1_000_000_001, 10**30]


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture(scope="module", autouse=True)
def prices(api: Api) -> Iterator[None]:
    """Prices of our own for all tests of this file."""
    caller = replace(api, subject=unique("caller"))
    with settings_in_force(caller, model_prices=json.dumps(MODELS)):
        yield


def estimated(client: Api, model: str, given_in: Any, given_out: Any) -> tuple[int, Any]:
    """Ask for an estimate; return the status and the amount, or the code of the refusal."""
    body = {"model": model, "inputTokens": given_in, "maxOutputTokens": given_out}
    answer = client.internal("estimate", body)
    told = answer.json()
    return answer.status_code, told.get("estimatedCostMicro", told.get("code"))


def test_a_thousand_tokens_at_a_cent_are_11000_micro_exactly(client: Api) -> None:
    """Behaviour 189 (W73)."""
    body = {"model": "dear", "inputTokens": 1_000, "maxOutputTokens": 0, "traceId": "ignored"}
    told = client.internal("estimate", body)
    assert told.status_code == 200
    assert told.json() == {
        "model": "dear",
        "estimatedCostMicro": "11000",
        "safetyMultiplier": "1.1",
    }


@pytest.mark.parametrize(
    ("model", "given_in", "given_out", "expected"),
    [
        ("dear", 600, 400, "11000"),
        ("cheap", 1_000, 1_000, "13750"),
        ("cheap", 1, 1, "15"),  # 2.5 and 10 micro-USD, rounded up to 13, are 14.3
        ("a b/c:1", 1, 0, "11"),
        ("dear", 0, 0, "1"),  # a hold of nothing cannot be made
        ("free", 1_000_000_000, 1_000_000_000, "1"),
        ("dear", 1_000_000_000, 1_000_000_000, "22000000000"),
    ],
)
def test_an_estimate_is_rounded_up_and_what_it_says_is_held(
    client: Api, model: str, given_in: int, given_out: int, expected: str
) -> None:
    assert estimated(client, model, given_in, given_out) == (200, expected)
    account = client.funded_account(1_000_000)
    body = {"accountId": account, "model": model, "inputTokens": given_in}
    held = client.internal("reserve", {**body, "maxOutputTokens": given_out})
    if int(expected) > 1_000_000:
        assert (held.status_code, held.json()["required_micro"]) == (402, expected)
    else:
        assert (held.status_code, held.json()["reservedMicro"]) == (200, expected)
        assert balance(client, account) == (1_000_000 - int(expected), int(expected), 0)


def test_an_estimate_holds_nothing(client: Api) -> None:
    account = client.funded_account(1_000_000)
    before = snapshot(client, account)
    assert client.internal("estimate", {**USE, "accountId": account}).status_code == 200
    assert snapshot(client, account) == before


def test_a_hold_by_model_is_settled_as_any_other(client: Api) -> None:
    account = client.funded_account(1_000_000)
    held = client.internal("reserve", {"accountId": account, **USE}).json()
    assert list(held) == list(
        client.internal("reserve", {"accountId": account, "estimatedCostMicro": "1"}).json()
    )
    done = settle(client, held["reservationId"], 9_000).json()
    assert (done["finalizedMicro"], done["releasedMicro"]) == ("9000", "2000")


def test_tokens_that_are_not_given_are_none(client: Api) -> None:
    account = client.funded_account(1_000_000)
    for tokens, expected in (({"inputTokens": 1_000}, "11000"), ({}, "1")):
        body = {"accountId": account, "model": "dear", **tokens}
        assert client.internal("reserve", body).json()["reservedMicro"] == expected


def test_a_model_without_price_is_refused_and_the_known_ones_are_told(client: Api) -> None:
    account = client.funded_account(1_000_000)
    before = snapshot(client, account)
    for operation, more in (("estimate", {}), ("reserve", {"accountId": account})):
        answer = client.internal(operation, {**USE, **more, "model": "Dear"})
        assert (answer.status_code, answer.json()["code"]) == (400, "unknown_model")
        assert answer.json()["details"] == {"models": sorted(MODELS)}
    assert snapshot(client, account) == before


@pytest.mark.parametrize("tokens", BAD_TOKENS, ids=repr)
@pytest.mark.parametrize("field", ["inputTokens", "maxOutputTokens"])
def test_tokens_that_are_no_count_are_refused_with_their_name(
    client: Api, field: str, tokens: Any
) -> None:
    for operation, more in (("estimate", {}), ("reserve", {"accountId": "a"})):
        answer = client.internal(operation, {**USE, **more, field: tokens})
        assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
        assert [fault["field"] for fault in answer.json()["details"]] == [field]


@pytest.mark.parametrize("field", ["model", "inputTokens", "maxOutputTokens"])
def test_an_estimate_needs_all_three(client: Api, field: str) -> None:
    answer = client.internal("estimate", {k: v for k, v in USE.items() if k != field})
    assert [fault["field"] for fault in answer.json()["details"]] == [field]


@pytest.mark.parametrize("model", ["", "x" * 101, 5, True, [], {}])
def test_a_model_that_is_no_name_is_refused(client: Api, model: Any) -> None:
    answer = client.internal("estimate", {**USE, "model": model})
    assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
    assert [fault["field"] for fault in answer.json()["details"]] == ["model"]


def test_an_amount_and_a_model_together_are_refused_and_neither_is_too(client: Api) -> None:
    account = client.funded_account(1_000_000)
    before = snapshot(client, account)
    for more in ({"estimatedCostMicro": "5", **USE}, {"model": None}, {"inputTokens": 5}):
        answer = client.internal("reserve", {"accountId": account, **more})
        assert (answer.status_code, answer.json()["code"]) == (400, "validation_error")
        assert [fault["field"] for fault in answer.json()["details"]] == ["estimatedCostMicro"]
    assert snapshot(client, account) == before


def test_a_hold_by_model_above_the_ceiling_is_refused(client: Api) -> None:
    beyond = {"model": "huge", "inputTokens": 1_000_000_000, "maxOutputTokens": 0}
    assert estimated(client, *beyond.values()) == (200, "1099999999998900000")
    answer = client.internal("reserve", {"accountId": client.funded_account(), **beyond})
    assert (answer.status_code, answer.json()["code"]) == (400, "amount_above_ceiling")


def test_a_keyed_hold_by_model_is_answered_again_whatever_its_price_has_become(
    client: Api,
) -> None:
    """Contract 4.1: the same request gives the same answer for ever."""
    account, key, other = client.funded_account(1_000_000), unique("key"), unique("key")
    body = {"accountId": account, **USE}
    gone = {"accountId": account, **USE, "model": "cheap"}
    first, second = client.internal("reserve", body, key), client.internal("reserve", gone, other)
    assert (first.json()["reservedMicro"], second.json()["reservedMicro"]) == ("11000", "6050")
    table = {"dear": {"inputMicroPer1k": 1, "outputMicroPer1k": 1}}
    with settings_in_force(client, model_prices=json.dumps(table), safety_multiplier="2"):
        assert estimated(client, "dear", 600, 400) == (200, "4")
        assert estimated(client, "cheap", 600, 400) == (400, "unknown_model")
        before = snapshot(client, account)
        for sent, its_key, told in ((body, key, first), (gone, other, second)):
            again = client.internal("reserve", sent, its_key)
            assert (again.status_code, again.content) == (200, told.content)
            assert again.headers["Idempotent-Replay"] == "true"
        in_batch = {"op": "reserve", "idempotencyKey": other, **gone}
        [repeated] = client.internal("batch", {"operations": [in_batch]}).json()["results"]
        assert repeated == {"status": 200, "body": second.json()}
        assert client.internal("reserve", gone).json()["code"] == "unknown_model"
        assert snapshot(client, account) == before
    assert balance(client, account) == (1_000_000 - 17_050, 17_050, 0)


def test_a_key_of_a_hold_by_model_is_kept_to_its_tokens_and_its_model(client: Api) -> None:
    account, key = client.funded_account(1_000_000), unique("key")
    body = {"accountId": account, **USE}
    assert client.internal("reserve", body, key).status_code == 200
    before = snapshot(client, account)
    for more in (
        {"inputTokens": 601},
        {"inputTokens": 400, "maxOutputTokens": 600},  # as dear as before, but not the same
        {"model": "a b/c:1"},
        {"model": "unknown"},
    ):
        answer = client.internal("reserve", {**body, **more}, key)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    amount = {"accountId": account, "estimatedCostMicro": "11000"}
    assert client.internal("reserve", amount, key).status_code == 409
    assert snapshot(client, account) == before


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
