"""Shadow, soft and live: what each charges, and that a change by SQL acts within seconds."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

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
)
from tests.harness import Api, set_config, unique, wait_until


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture(scope="class")
def shadow(api: Api) -> Iterator[None]:
    """Shadow mode for all tests of a class, then live again."""
    with settings_in_force(api, billing_mode="shadow"):
        yield


@pytest.fixture(scope="class")
def soft(api: Api) -> Iterator[None]:
    """Soft mode for all tests of a class, then live again."""
    with settings_in_force(api, billing_mode="soft"):
        yield


def debts(client: Api, account_id: str) -> list[tuple[int, int, bool]]:
    """Return an account's debts, oldest first: owed at first, last part, and whether it is paid."""
    return [
        (original, last, resolved is not None)
        for original, last, resolved in rows(
            client,
            "SELECT original_micro, debt_micro, resolved_at FROM credit_debts"
            " WHERE account_id = :id ORDER BY created_at, id",
            id=account_id,
        )
    ]


def test_a_mode_set_by_sql_acts_within_five_seconds_and_a_hold_keeps_its_mode(
    client: Api,
) -> None:
    account = client.funded_account(1_000_000)
    holds = {}

    def held_in(mode: str) -> bool:
        caller = replace(client, subject=unique("poll"))
        body = {"accountId": account, "estimatedCostMicro": "100000"}
        held = caller.internal("reserve", body).json()
        if held["billingMode"] == mode:
            holds[mode] = held["reservationId"]
            return True
        return not caller.internal("release", {"reservationId": held["reservationId"]})

    try:
        for mode in ("soft", "shadow", "live"):
            set_config(client.database, billing_mode=mode)
            wait_until(f"mode {mode}", lambda m=mode: held_in(m), seconds=5)
    finally:
        set_config(client.database, billing_mode="live")
    settled = {mode: settle(client, held, 150_000).json() for mode, held in holds.items()}
    assert {mode: done["billingMode"] for mode, done in settled.items()} == {
        "soft": "soft",
        "shadow": "shadow",
        "live": "live",
    }
    assert {mode: done["finalizedMicro"] for mode, done in settled.items()} == {
        "soft": "150000",
        "shadow": "100000",
        "live": "100000",
    }
    assert balance(client, account) == (750_000, 0, 0)


def test_a_senseless_mode_leaves_the_last_one_in_force(client: Api) -> None:
    account = client.funded_account()
    with settings_in_force(client, billing_mode="soft"):
        set_config(client.database, billing_mode="free")
        wait_until("later terms", lambda: hold(client, account, 1), seconds=5)
        body = {"accountId": account, "estimatedCostMicro": "1"}
        assert client.internal("reserve", body).json()["billingMode"] == "soft"


@pytest.mark.usefixtures("shadow")
class TestShadow:
    """Nothing is held or charged, and the answers look real."""

    def test_shadow_moves_nothing_and_looks_real(self, client: Api) -> None:
        account = client.funded_account(10_000_000)
        body = {"accountId": account, "estimatedCostMicro": "500000"}
        held = client.internal("reserve", body)
        assert held.status_code == 200
        assert held.json()["billingMode"] == "shadow"
        assert held.json()["reservedMicro"] == "500000"
        assert held.json()["status"] == "pending"
        assert [a["reservedMicro"] for a in held.json()["allocations"]] == ["500000"]
        done = settle(client, held.json()["reservationId"], 300_000).json()
        assert (done["finalizedMicro"], done["releasedMicro"]) == ("300000", "200000")
        assert done["billingMode"] == "shadow"
        assert balance(client, account) == (10_000_000, 0, 0)
        assert ledger(client, account) == [
            ("deposit", 10_000_000, 0, 10_000_000),
            ("shadow_reserve", 500_000, 10_000_000, 10_000_000),
            ("shadow_finalize", 300_000, 10_000_000, 10_000_000),
        ]
        assert revenue(client, held.json()["reservationId"]) == []

    def test_shadow_grants_what_the_account_does_not_have(self, client: Api) -> None:
        account = client.funded_account(0)
        reservation = hold(client, account, 5_000_000)
        done = settle(client, reservation, 6_000_000).json()
        assert (done["finalizedMicro"], done["overrunMicro"]) == ("5000000", "1000000")
        assert done["debtMicro"] == "0"
        assert balance(client, account) == (0, 0, 0)
        assert debts(client, account) == []

    def test_shadow_answers_are_replayed_and_conflict_as_in_live(self, client: Api) -> None:
        account, key = client.funded_account(1_000_000), unique("key")
        body = {"accountId": account, "estimatedCostMicro": "500000"}
        first = client.internal("reserve", body, key)
        assert client.internal("reserve", body, key).content == first.content
        reservation = first.json()["reservationId"]
        done = settle(client, reservation, 700_000)
        before = snapshot(client, account)
        assert settle(client, reservation, 700_000).content == done.content
        assert settle(client, reservation, 500_000).status_code == 409
        assert snapshot(client, account) == before

    def test_a_released_shadow_hold_writes_no_release(self, client: Api) -> None:
        account = client.funded_account(1_000_000)
        reservation = hold(client, account, 400_000)
        released = client.internal("release", {"reservationId": reservation})
        assert released.json()["releasedMicro"] == "400000"
        assert [kind for kind, *_ in ledger(client, account)] == ["deposit", "shadow_reserve"]
        assert balance(client, account) == (1_000_000, 0, 0)


@pytest.mark.usefixtures("soft")
class TestSoft:
    """A reserve is always granted; what no lot covers becomes debt, paid by the next deposit."""

    def test_an_overrun_becomes_debt_and_the_next_deposit_pays_it(self, client: Api) -> None:
        account = client.funded_account(1_000_000)
        reservation = hold(client, account, 1_000_000)
        done = settle(client, reservation, 3_000_000).json()
        assert (done["finalizedMicro"], done["overrunMicro"]) == ("3000000", "2000000")
        assert (done["debtMicro"], done["unchargedMicro"]) == ("2000000", "0")
        assert balance(client, account) == (-2_000_000, 0, 2_000_000)
        assert debts(client, account) == [(2_000_000, 2_000_000, False)]
        assert sum(share for *_, share in revenue(client, reservation)) == 3_000_000
        paid = mint(client, account, 5_000_000).json()
        assert (paid["debtPaidMicro"], paid["amountMicro"]) == ("2000000", "5000000")
        assert balance(client, account) == (3_000_000, 0, 0)
        assert [resolved for *_, resolved in debts(client, account)] == [True]
        assert ledger(client, account) == [
            ("deposit", 1_000_000, 0, 1_000_000),
            ("reserve", -1_000_000, 1_000_000, 0),
            ("release", 1_000_000, 0, 1_000_000),
            ("finalize", -3_000_000, 1_000_000, -2_000_000),
            ("deposit", 5_000_000, -2_000_000, 3_000_000),
        ]

    def test_an_overrun_takes_the_other_lots_before_it_becomes_debt(self, client: Api) -> None:
        account = client.funded_account(100_000)
        mint(client, account, 150_000)
        reservation = hold(client, account, 100_000)
        done = settle(client, reservation, 200_000).json()
        assert (done["finalizedMicro"], done["overrunMicro"]) == ("200000", "100000")
        assert done["debtMicro"] == "0"
        assert balance(client, account) == (50_000, 0, 0)

    def test_a_reserve_beyond_the_credits_is_granted_and_charged_as_far_as_used(
        self, client: Api
    ) -> None:
        account = client.funded_account(1_000_000)
        reservation = hold(client, account, 3_000_000)
        assert balance(client, account) == (0, 1_000_000, 0)
        done = settle(client, reservation, 1_500_000).json()
        assert (done["finalizedMicro"], done["releasedMicro"]) == ("1500000", "1500000")
        assert (done["overrunMicro"], done["debtMicro"]) == ("0", "500000")
        assert balance(client, account) == (-500_000, 0, 500_000)

    def test_a_reserve_in_debt_is_granted_too(self, client: Api) -> None:
        account = client.funded_account(0)
        settle(client, hold(client, account, 1_000_000), 1_000_000)
        assert balance(client, account) == (-1_000_000, 0, 1_000_000)
        again = hold(client, account, 2_000_000)
        assert balance(client, account) == (-1_000_000, 0, 1_000_000)
        released = client.internal("release", {"reservationId": again})
        assert released.json()["releasedMicro"] == "2000000"
        assert balance(client, account) == (-1_000_000, 0, 1_000_000)

    def test_deposits_pay_the_oldest_debt_first_and_a_part_of_the_next(self, client: Api) -> None:
        account = client.funded_account(0)
        for cost in (300_000, 500_000):
            settle(client, hold(client, account, cost), cost)
        assert balance(client, account) == (-800_000, 0, 800_000)
        assert mint(client, account, 400_000).json()["debtPaidMicro"] == "400000"
        assert debts(client, account) == [(300_000, 300_000, True), (500_000, 400_000, False)]
        assert balance(client, account) == (-400_000, 0, 400_000)
        assert mint(client, account, 1_000_000).json()["debtPaidMicro"] == "400000"
        assert [resolved for *_, resolved in debts(client, account)] == [True, True]
        assert balance(client, account) == (600_000, 0, 0)

    def test_what_was_paid_is_told_in_the_entry_of_the_deposit(self, client: Api) -> None:
        account = client.funded_account(0)
        settle(client, hold(client, account, 700_000), 700_000)
        lot = mint(client, account, 1_000_000).json()["lotId"]
        [(details,)] = rows(client, "SELECT metadata FROM credit_ledger WHERE lot_id = :id", id=lot)
        assert details == '{"debtPaidMicro":"700000"}'
        paid = rows(
            client, "SELECT paid_micro FROM credit_debt_payments WHERE lot_id = :id", id=lot
        )
        assert paid == [(700_000,)]

    def test_the_entries_always_sum_to_what_is_available(self, client: Api) -> None:
        account = client.funded_account(1_000_000)
        first, second = hold(client, account, 700_000), hold(client, account, 700_000)
        settle(client, first, 900_000)
        client.internal("release", {"reservationId": second})
        mint(client, account, 50_000)
        available, _, _ = balance(client, account)
        assert available == 1_000_000 - 900_000 + 50_000
        assert sum(amount for _, amount, _, _ in ledger(client, account)) == available


def test_the_books_close_after_all_that(client: Api) -> None:
    assert breaches(client) == []
