"""What shadow mode keeps and tells, and the alert of a cost above its hold, over HTTP."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.front_door import balance, hold, metric, rows, settings_in_force, settle
from tests.harness import Api, unique


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture(scope="class")
def shadow(api: Api) -> Iterator[None]:
    """Shadow mode for all tests of a class, then live again."""
    with settings_in_force(api, billing_mode="shadow"):
        yield


def entries(client: Api, reservation_id: str) -> list[tuple[str, int, dict[str, str]]]:
    """Return type, amount and metadata of a reservation's entries."""
    found = rows(
        client,
        "SELECT entry_type, amount_micro, metadata FROM credit_ledger"
        " WHERE reservation_id = :id ORDER BY id",
        id=reservation_id,
    )
    return [(kind, amount, json.loads(told or "{}")) for kind, amount, told in found]


@pytest.mark.usefixtures("shadow")
class TestInShadow:
    """Nothing is held or charged; what would have been is kept."""

    def test_a_shadow_reserve_keeps_what_it_was_for_and_moves_nothing(self, client: Api) -> None:
        """Behaviours 73 and 141."""
        account = client.funded_account(10_000_000)
        reservation = hold(
            client, account, 500_000, metadata={"model": "gpt-4o", "maxTokens": 1000}
        )
        facts = {"model": "gpt-4o", "maxTokens": 1000}
        assert entries(client, reservation) == [("shadow_reserve", 500_000, facts)]
        assert balance(client, account) == (10_000_000, 0, 0)

    def test_a_shadow_finalize_keeps_what_the_caller_measured(self, client: Api) -> None:
        """Behaviour 74: beside the caller's facts stand ours, and ours win."""
        account = client.funded_account(10_000_000)
        facts = {"model": "gpt-4o", "inputTokens": 12, "overheadMs": 3, "overrunMicro": "forged"}
        answer = settle(client, hold(client, account, 100_000), 150_000, metadata=facts)
        reservation = answer.json()["reservationId"]
        kept = {**facts, "overrunMicro": "50000"}
        assert entries(client, reservation)[-1] == ("shadow_finalize", 100_000, kept)
        repeated = settle(client, reservation, 150_000, metadata={"model": "another"})
        assert repeated.json() == answer.json()  # what was measured is no content

    def test_the_summary_counts_and_adds_up(self, client: Api) -> None:
        """Behaviour 75."""
        account = client.funded_account(10_000_000)
        for cost in (80_000, 190_000):
            settle(client, hold(client, account, 200_000), cost)
        told = client.admin_get(f"shadow-summary?accountId={account}").json()
        assert told == {
            "accountId": account,
            "since": None,
            "reserves": 2,
            "finalizes": 2,
            "reservedMicro": "400000",
            "finalizedMicro": "270000",
            "estimatedMicro": "400000",
            "actualMicro": "270000",
            "actualPerEstimated": "0.6750",
            "ended": 2,
            "lost": 0,
            "errorRate": "0.0000",
            "accounts": [told["accounts"][0]],
            "nextCursor": None,
            "shown": {
                "accounts": 1,
                "accountsRefused": 0,
                "wouldRefuse": 0,
                "largestShortfallMicro": "0",
            },
        }
        assert told["accounts"][0]["wouldRefuse"] == 0
        later = client.admin_get(f"shadow-summary?accountId={account}&since=2999-01-01T00:00:00Z")
        assert (later.json()["reserves"], later.json()["finalizedMicro"]) == (0, "0")
        assert client.admin_get("shadow-summary").json()["reserves"] >= 2
        assert client.admin_get("shadow-summary?accountId=nobody").status_code == 404
        assert client.admin_get("shadow-summary?since=yesterday").status_code == 400


def test_a_cost_far_above_its_hold_raises_the_alert(client: Api) -> None:
    """Behaviour 6.4: more than overrun_alert_threshold_pct, in whole percent, and W4."""
    account = client.funded_account(10_000_000)
    name = 'arrakis_overrun_alerts_total{mode="live"}'

    def alerts_after(cost: int) -> float:
        settle(client, hold(client, account, 100_000), cost)
        return metric(client, name)

    before = metric(client, name)
    assert alerts_after(105_999) == before  # 5 %, floored
    assert alerts_after(106_000) == before + 1
    with settings_in_force(client, overrun_alert_threshold_pct="50"):
        assert alerts_after(150_000) == before + 1
        assert alerts_after(151_000) == before + 2


def test_a_charge_is_explained_over_http(client: Api) -> None:
    """A charge leads back to its lots, their sources and the split."""
    account = client.funded_account(1_000_000)
    reservation = hold(client, account, 500_000)
    settle(client, reservation, 400_000)
    told = client.admin_get(f"explain/{reservation}").json()
    assert told["split"] == {
        "commonsMicro": "20000",
        "communityMicro": "280000",
        "foundationMicro": "100000",
    }
    [lot] = told["lots"]
    assert (lot["heldMicro"], lot["consumedHereMicro"]) == ("500000", "400000")
    own = [one["id"] for one in told["entries"] if one["entryType"] == "finalize"]
    assert client.admin_get(f"explain/{own[0]}").json()["reservation"]["lots"] == told["lots"]
    assert client.admin_get("explain/nothing").status_code == 404
