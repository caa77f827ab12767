"""A hold that ran out: its credits come back, and a late finalize is settled within the grace."""

from dataclasses import astuple, dataclass, replace
from datetime import datetime, timedelta

import pytest

from shared.clock import system_clock
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
from tests.harness import Api, unique, wait_until


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@dataclass(frozen=True)
class Expired:
    """A hold whose time is over, and whose credits came back."""

    account: str
    reservation: str


MINTED_AND_HELD = {  # one for each test that uses one up
    "settled late": (10_000_000, 5_000_000),
    "short of credits": (1_000_000, 1_000_000),
    "capped": (10_000_000, 1_000_000),
    "past its grace": (10_000_000, 5_000_000),
    "released": (10_000_000, 4_000_000),
}


@pytest.fixture(scope="module")
def expired(api: Api) -> dict[str, Expired]:
    """The holds of this file, so that all wait for one second together."""
    maker, made = replace(api, subject=unique("caller")), {}
    for name, (minted, held) in MINTED_AND_HELD.items():
        account = maker.funded_account(minted)
        made[name] = Expired(account, hold(maker, account, held, ttlSeconds=1))
    for one in made.values():
        wait_until_expired(maker, one.reservation)
    return made


def test_an_expired_hold_gives_its_credits_back_and_is_settled_late_all_the_same(
    client: Api, expired: dict[str, Expired]
) -> None:
    account, reservation = astuple(expired["settled late"])
    assert balance(client, account) == (10_000_000, 0, 0)
    done = settle(client, reservation, 3_000_000)
    assert done.status_code == 200
    body = done.json()
    assert body["late"] is True
    assert (body["finalizedMicro"], body["debtMicro"]) == ("3000000", "0")
    assert balance(client, account) == (7_000_000, 0, 0)
    assert ledger(client, account) == [
        ("deposit", 10_000_000, 0, 10_000_000),
        ("reserve", -5_000_000, 10_000_000, 5_000_000),
        ("release", 5_000_000, 5_000_000, 10_000_000),
        ("finalize", -3_000_000, 10_000_000, 7_000_000),
    ]
    assert sum(share for *_, share in revenue(client, reservation)) == 3_000_000
    again = settle(client, reservation, 3_000_000)
    assert (again.content, again.headers["Idempotent-Replay"]) == (done.content, "true")
    assert settle(client, reservation, 3_000_001).status_code == 409


def test_a_late_finalize_takes_what_the_lots_have_and_the_rest_becomes_debt(
    client: Api, expired: dict[str, Expired]
) -> None:
    account, reservation = astuple(expired["short of credits"])
    hold(client, account, 600_000)
    body = settle(client, reservation, 1_000_000).json()
    assert (body["finalizedMicro"], body["debtMicro"], body["late"]) == ("1000000", "600000", True)
    assert balance(client, account) == (-600_000, 600_000, 600_000)
    owed = rows(
        client,
        "SELECT debt_micro, source_reservation_id, resolved_at FROM credit_debts"
        " WHERE account_id = :id",
        id=account,
    )
    assert owed == [(600_000, reservation, None)]
    refused = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "1"})
    assert (refused.status_code, refused.json()["balance_micro"]) == (402, "-600000")
    paid = mint(client, account, 700_000).json()
    assert (paid["debtPaidMicro"], paid["balance"]["availableMicro"]) == ("600000", "100000")


def test_a_late_finalize_is_capped_at_its_hold_in_live(
    client: Api, expired: dict[str, Expired]
) -> None:
    account, reservation = astuple(expired["capped"])
    body = settle(client, reservation, 3_000_000).json()
    assert (body["finalizedMicro"], body["unchargedMicro"]) == ("1000000", "2000000")
    assert balance(client, account) == (9_000_000, 0, 0)


def test_a_finalize_after_the_grace_is_refused_and_charges_nothing(
    client: Api, expired: dict[str, Expired]
) -> None:
    account, reservation = astuple(expired["past its grace"])
    before = snapshot(client, account)
    with settings_in_force(client, late_finalize_grace_seconds="0"):
        refused = settle(client, reservation, 3_000_000)
    assert (refused.status_code, refused.json()["code"]) == (404, "reservation_expired")
    assert snapshot(client, account) == before
    assert settle(client, reservation, 3_000_000).json()["late"] is True


def test_a_hold_ends_at_its_time_although_no_sweep_has_come_by(client: Api) -> None:
    account = client.funded_account()
    body = {"accountId": account, "estimatedCostMicro": "5000000", "ttlSeconds": 1}
    held = client.internal("reserve", body).json()
    ends = datetime.fromisoformat(held["expiresAt"]) + timedelta(milliseconds=1)
    wait_until("the end of the hold", lambda: system_clock() > ends)
    done = settle(client, held["reservationId"], 3_000_000).json()
    assert (done["finalizedMicro"], done["late"]) == ("3000000", True)
    assert [kind for kind, *_ in ledger(client, account)] == [
        "deposit",
        "reserve",
        "release",
        "finalize",
    ]
    assert balance(client, account) == (7_000_000, 0, 0)


def test_a_release_of_an_expired_hold_moves_nothing_more(
    client: Api, expired: dict[str, Expired]
) -> None:
    account, reservation = astuple(expired["released"])
    before = ledger(client, account)
    released = client.internal("release", {"reservationId": reservation})
    assert released.json() == {"reservationId": reservation, "releasedMicro": "4000000"}
    assert ledger(client, account) == before
    assert "Idempotent-Replay" not in released.headers
    again = client.internal("release", {"reservationId": reservation})
    assert (again.content, again.headers["Idempotent-Replay"]) == (released.content, "true")
    late = client.internal("finalize", {"reservationId": reservation, "actualCostMicro": "1"})
    assert (late.status_code, late.json()["code"]) == (422, "reservation_released")


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
