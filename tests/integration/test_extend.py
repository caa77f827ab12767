"""A hold that is made larger, and last longer, while the model still runs."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import requests

from tests.front_door import (
    balance,
    breaches,
    hold,
    ledger,
    mint,
    revenue,
    rows,
    settings_in_force,
    settle,
    snapshot,
    wait_until_expired,
)
from tests.harness import Api, unique

BASES = ("/api/internal", "/api/internal/billing", "/api/billing/internal")


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture(scope="module")
def held(api: Api) -> dict[str, tuple[str, str]]:
    """An account with 100,000 and a hold of 60,000 on it, made in soft and in shadow mode."""
    made = {}
    for mode in ("soft", "shadow"):
        client = replace(api, subject=unique("caller"))
        with settings_in_force(client, billing_mode=mode):
            account = client.funded_account(100_000)
            made[mode] = (account, hold(client, account, 60_000))
    return made


def extend(
    client: Api, reservation_id: str, amount_micro: int, key: str | None = None, **fields: Any
) -> requests.Response:
    """Hold *amount_micro* more."""
    body = {"reservationId": reservation_id, "additionalMicro": str(amount_micro), **fields}
    return client.internal("extend", body, key)


def refused(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def ends_at(client: Api, reservation_id: str) -> datetime:
    shown = client.get(f"/api/internal/reservations/{reservation_id}").json()
    return datetime.fromisoformat(shown["expiresAt"])


def test_an_extension_is_answered_as_a_reserve_of_the_sum(client: Api) -> None:
    account = client.funded_account(1_000_000)
    first = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "300000"})
    told = extend(client, first.json()["reservationId"], 200_000)
    assert told.status_code == 200
    assert "Idempotent-Replay" not in told.headers
    [(lot,)] = rows(client, "SELECT id FROM credit_lots WHERE account_id = :id", id=account)
    assert told.json() == {
        **first.json(),
        "reservedMicro": "500000",
        "balance": {
            "availableMicro": "500000",
            "reservedMicro": "500000",
            "debtMicro": "0",
            "settledMicro": "1000000",
        },
        "allocations": [{"lotId": lot, "reservedMicro": "500000"}],
    }
    assert list(told.json()) == list(first.json())
    assert balance(client, account) == (500_000, 500_000, 0)
    assert ledger(client, account) == [
        ("deposit", 1_000_000, 0, 1_000_000),
        ("reserve", -300_000, 1_000_000, 700_000),
        ("reserve", -200_000, 700_000, 500_000),
    ]


@pytest.mark.parametrize("base", BASES)
def test_a_hold_is_extended_under_each_of_the_three_bases(client: Api, base: str) -> None:
    reservation = hold(client, client.funded_account(), 1)
    body = {"reservationId": reservation, "additionalMicro": "2", "traceId": "ignored"}
    told = client.post(f"{base}/extend", body)
    assert (told.status_code, told.json()["reservedMicro"]) == (200, "3")


def test_an_extended_hold_is_finalized_in_full(client: Api) -> None:
    account = client.funded_account(300_000)
    mint(client, account, 700_000)
    reservation = hold(client, account, 200_000)
    for more in (300_000, 500_000):
        assert extend(client, reservation, more).status_code == 200
    done = settle(client, reservation, 1_000_000).json()
    assert (done["finalizedMicro"], done["releasedMicro"]) == ("1000000", "0")
    assert (done["overrunMicro"], done["unchargedMicro"], done["debtMicro"]) == ("0", "0", "0")
    assert balance(client, account) == (0, 0, 0)
    assert [share for *_, share in revenue(client, reservation)] == [50_000, 700_000, 250_000]
    kept = "SELECT reserved_micro, consumed_micro FROM reservation_lots WHERE reservation_id = :id"
    assert sorted(rows(client, kept, id=reservation)) == [(300_000, 300_000), (700_000, 700_000)]


def test_an_extended_hold_is_released_in_full(client: Api) -> None:
    account = client.funded_account(1_000_000)
    reservation = hold(client, account, 200_000)
    extend(client, reservation, 300_000)
    released = client.internal("release", {"reservationId": reservation})
    assert released.json() == {"reservationId": reservation, "releasedMicro": "500000"}
    assert balance(client, account) == (1_000_000, 0, 0)


def test_an_extension_beyond_the_credits_is_refused_and_changes_nothing(client: Api) -> None:
    account = client.funded_account(500_000)
    reservation = hold(client, account, 300_000)
    before = snapshot(client, account)
    answer = extend(client, reservation, 200_001, unique("key"), ttlSeconds=86_400)
    assert answer.status_code == 402
    body = answer.json()
    assert (body["error"], body["code"]) == ("insufficient_credits", "insufficient_credits")
    assert (body["balance_micro"], body["required_micro"]) == ("200000", "200001")
    assert snapshot(client, account) == before
    assert extend(client, reservation, 200_000).json()["reservedMicro"] == "500000"


def test_a_refused_extension_may_be_sent_again_with_its_key_after_a_deposit(client: Api) -> None:
    account, key = client.funded_account(100_000), unique("key")
    reservation = hold(client, account, 100_000)
    assert extend(client, reservation, 50_000, key).status_code == 402
    mint(client, account, 50_000)
    assert extend(client, reservation, 50_000, key).json()["reservedMicro"] == "150000"


def test_a_hold_that_has_ended_is_not_extended(client: Api) -> None:
    account = client.funded_account(1_000_000)
    settled, released, expired = (hold(client, account, 10, ttlSeconds=1 + t) for t in (9, 9, 0))
    settle(client, settled, 10)
    client.internal("release", {"reservationId": released})
    wait_until_expired(client, expired)
    before = snapshot(client, account)
    for reservation in (settled, released, expired):
        answer = extend(client, reservation, 1, ttlSeconds=600)
        assert refused(answer) == (409, "reservation_not_pending")
    assert snapshot(client, account) == before


def test_an_extension_must_name_a_hold_and_its_account(client: Api) -> None:
    account, stranger = client.funded_account(), client.funded_account()
    reservation = hold(client, account, 10)
    before = snapshot(client, account)
    assert refused(extend(client, unique("none"), 1)) == (404, "reservation_not_found")
    assert refused(extend(client, reservation, 1, accountId=stranger)) == (403, "account_mismatch")
    assert snapshot(client, account) == before
    assert extend(client, reservation, 1, accountId=account).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("additionalMicro", v) for v in ["0", "-1", "1.5", "007", "", 5, None, True, "9" * 17]),
        *(("ttlSeconds", value) for value in [0, -1, 86_401, "5", 1.5, True]),
        *(("reservationId", value) for value in ["", 5, None, "x" * 129]),
        ("accountId", 5),
    ],
)
def test_a_bad_field_of_an_extension_is_refused_with_its_name(
    client: Api, field: str, value: Any
) -> None:
    reservation = hold(client, client.funded_account(), 10)
    answer = extend(client, reservation, 1, **{field: value})
    assert refused(answer) == (400, "validation_error")
    assert {fault["field"] for fault in answer.json()["details"]} == {field}


def test_the_ceiling_holds_for_the_whole_of_an_extended_hold(client: Api) -> None:
    account = client.funded_account(100)
    reservation = hold(client, account, 100)
    before = snapshot(client, account)
    for more in (100_000_000_001, 99_999_999_901):
        answer = extend(client, reservation, more)
        assert refused(answer) == (400, "amount_above_ceiling")
    assert refused(extend(client, reservation, 99_999_999_900)) == (402, "insufficient_credits")
    assert snapshot(client, account) == before


def test_a_keyed_extension_is_answered_once_for_ever(client: Api) -> None:
    account, key = client.funded_account(1_000_000), unique("key")
    reservation = hold(client, account, 100_000, requestId=key)
    first = extend(client, reservation, 200_000, key, ttlSeconds=600)
    settle(client, hold(client, account, 5), 5, key)
    assert extend(client, reservation, 200_000, key, ttlSeconds=600).content == first.content
    settle(client, reservation, 250_000)
    before = snapshot(client, account)
    again = extend(client, reservation, 200_000, key, ttlSeconds=600, traceId="another attempt")
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotent-Replay"] == "true"
    assert snapshot(client, account) == before
    for other in (
        extend(client, reservation, 200_001, key, ttlSeconds=600),
        extend(client, reservation, 200_000, key),
        extend(client, hold(client, account, 5), 200_000, key, ttlSeconds=600),
    ):
        assert refused(other) == (409, "idempotency_conflict")
    assert balance(client, account)[0] == 1_000_000 - 250_000 - 5 - 5


def test_a_key_of_another_accounts_extension_says_nothing(client: Api) -> None:
    """Behaviours 146 and 148: never foreign data."""
    key = unique("key")
    mine, theirs = (hold(client, client.funded_account(), 10) for _ in range(2))
    assert extend(client, mine, 5, key).json()["reservationId"] == mine
    told = extend(client, theirs, 5, key)
    assert (told.status_code, told.json()["reservationId"]) == (200, theirs)
    assert "Idempotent-Replay" not in told.headers


def test_extensions_without_a_key_add_up(client: Api) -> None:
    reservation = hold(client, client.funded_account(), 10)
    assert [extend(client, reservation, 5).json()["reservedMicro"] for _ in range(3)] == [
        "15",
        "20",
        "25",
    ]


def test_a_hold_only_ever_lasts_longer(client: Api) -> None:
    reservation = hold(client, client.funded_account(), 10, ttlSeconds=300)
    first = ends_at(client, reservation)
    assert datetime.fromisoformat(extend(client, reservation, 1).json()["expiresAt"]) == first
    extend(client, reservation, 1, ttlSeconds=1)
    assert ends_at(client, reservation) == first
    told = extend(client, reservation, 1, ttlSeconds=3_600).json()
    assert ends_at(client, reservation) == datetime.fromisoformat(told["expiresAt"])
    assert timedelta(seconds=3_300) <= ends_at(client, reservation) - first
    assert ends_at(client, reservation) - first < timedelta(seconds=3_330)


def test_an_extension_saves_a_hold_from_expiry(client: Api) -> None:
    account = client.funded_account(1_000)
    short, saved = (hold(client, account, 100, ttlSeconds=1) for _ in range(2))
    extend(client, saved, 100, ttlSeconds=600)
    wait_until_expired(client, short)
    kept = "SELECT available_micro, reserved_micro FROM credit_lots WHERE account_id = :id"
    assert rows(client, kept, id=account) == [(800, 200)]
    done = settle(client, saved, 200).json()
    assert (done["finalizedMicro"], done["late"]) == ("200", False)


def test_an_extension_spends_its_own_pool_first_and_then_general(client: Api) -> None:
    account = client.funded_account(100)
    mint(client, account, 100, poolId="campaign:test", sourceType="grant")
    reservation = hold(client, account, 60, poolId="campaign:test")
    told = extend(client, reservation, 70).json()
    assert [part["reservedMicro"] for part in told["allocations"]] == ["100", "30"]
    assert balance(client, account) == (70, 30, 0)
    assert balance(client, account, "campaign:test") == (70, 130, 0)


def test_a_hold_that_was_made_in_soft_is_extended_beyond_the_credits(
    client: Api, held: dict[str, tuple[str, str]]
) -> None:
    """Contract 4.2: the mode is read at reserve time and kept, and now it is live."""
    account, reservation = held["soft"]
    told = extend(client, reservation, 90_000).json()
    assert (told["reservedMicro"], told["billingMode"]) == ("150000", "soft")
    assert [part["reservedMicro"] for part in told["allocations"]] == ["100000"]
    assert balance(client, account) == (0, 100_000, 0)
    done = settle(client, reservation, 150_000).json()
    assert (done["finalizedMicro"], done["overrunMicro"]) == ("150000", "0")
    assert done["debtMicro"] == "50000"
    assert balance(client, account) == (-50_000, 0, 50_000)


def test_a_hold_that_was_made_in_shadow_is_extended_without_moving_anything(
    client: Api, held: dict[str, tuple[str, str]]
) -> None:
    account, reservation = held["shadow"]
    told = extend(client, reservation, 90_000).json()
    assert (told["reservedMicro"], told["billingMode"]) == ("150000", "shadow")
    assert told["status"] == "pending"
    assert balance(client, account) == (100_000, 0, 0)
    assert ledger(client, account)[1:] == [
        ("shadow_reserve", 60_000, 100_000, 100_000),
        ("shadow_reserve", 90_000, 100_000, 100_000),
    ]
    done = settle(client, reservation, 150_000).json()
    assert (done["finalizedMicro"], done["overrunMicro"]) == ("150000", "0")


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
