"""A reserve and a finalize through the front door."""

from tests.harness import Api


def test_a_hold_is_finalized_for_less_and_the_rest_comes_back(api: Api) -> None:
    account = api.funded_account(10_000_000)
    held = api.internal("reserve", {"accountId": account, "estimatedCostMicro": "5000000"})
    assert held.status_code == 200
    body = {"reservationId": held.json()["reservationId"], "actualCostMicro": "3000000"}
    done = api.internal("finalize", body)
    assert done.json()["releasedMicro"] == "2000000"
