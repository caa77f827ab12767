"""Listing payments at NOWPayments, with its login, and every call against the simulator."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.clock import system_clock
from shared.errors import Invalid, Unavailable
from shared.payments.providers.nowpayments import PAGE_ROWS_MAX, NowPayments, ProviderAway
from tests.harness import unique
from tests.provider_harness import API_KEY as SIMULATOR_KEY
from tests.provider_harness import Simulator
from tests.scripted_provider import (
    API_KEY,
    Client,
    Request,
    ScriptedProvider,
    answer,
    created,
    scripted,
    shown,
)


def usual(request: Request) -> Any:
    if request.method == "POST":
        return answer(201, created(request, 1))
    return answer(200, shown(int(request.path.rsplit("/", 1)[1])))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(usual) as server:
        yield server


@pytest.fixture
def client(provider: ScriptedProvider) -> Client:
    return Client(provider.url + "/v1/")


@pytest.fixture
def simulated(simulator: Simulator) -> NowPayments:
    login = {"email": "merchant@example.com", "password": "anything"}
    return NowPayments(url=f"{simulator.url}/v1", api_key=SIMULATOR_KEY, **login)


def order(simulated: NowPayments, order_id: str, pay_currency: str = "btc") -> Any:
    return simulated.create_payment(
        order_id=order_id,
        amount_micro=25_000_000,
        pay_currency=pay_currency,
        description="Credits",
    )


# Listings.


def listing(*rows: dict[str, Any], pages: int = 1, page: int = 0) -> Any:
    body = {"data": list(rows), "limit": 100, "page": page, "pagesCount": pages, "total": 3}
    return answer(200, body)


def logged_in(provider: ScriptedProvider) -> Client:
    return Client(provider.url, email="merchant@example.com", password="a-password")


NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def search(client: Client, order_id: str = "cp_1") -> list[str]:
    found = client.nowpayments.find_by_order_id(order_id, created_around=NOON)
    return [one.payment_id for one in found]


def test_a_listing_without_a_login_says_what_is_not_set(
    provider: ScriptedProvider, client: Client
) -> None:
    with pytest.raises(Unavailable, match="NOWPAYMENTS_EMAIL and NOWPAYMENTS_PASSWORD") as refused:
        search(client)
    assert (refused.value.code, provider.requests) == ("provider_listing_not_configured", [])


def test_a_login_serves_for_four_and_a_half_minutes(provider: ScriptedProvider) -> None:
    client = logged_in(provider)
    provider.replies = [answer(200, {"token": "first"}), listing(), listing()]
    for seconds in (0, 269):
        client.clock.seconds += seconds
        assert search(client) == []
    client.clock.seconds += 1
    provider.replies = [answer(201, {"token": "second"}), listing()]
    assert search(client) == []
    assert provider.paths() == ["/auth", "/payment/", "/payment/", "/auth", "/payment/"]
    login, *asked = provider.requests
    assert login.fields == {"email": "merchant@example.com", "password": "a-password"}
    tokens = [one.headers["Authorization"] for one in asked if one.method == "GET"]
    assert tokens == ["Bearer first", "Bearer first", "Bearer second"]
    assert {one.headers["x-api-key"] for one in asked if one.method == "GET"} == {API_KEY}


def test_a_login_that_ran_out_early_is_renewed_once(provider: ScriptedProvider) -> None:
    client = logged_in(provider)
    no = answer(401, {"code": "AUTH_REQUIRED"})
    first, second = answer(200, {"token": "first"}), answer(200, {"token": "second"})
    provider.replies = [first, no, second, listing(shown(7))]
    assert search(client) == ["7"]
    assert provider.requests[-1].headers["Authorization"] == "Bearer second"
    provider.replies = [no, first, no]
    with pytest.raises(ProviderAway):
        search(client)
    assert provider.replies == []


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_login_that_is_refused_is_told_and_not_tried_again(
    provider: ScriptedProvider, status: int
) -> None:
    provider.replies = [answer(status, {"message": "wrong"})]
    with pytest.raises(ProviderAway) as refused:
        search(logged_in(provider))
    assert (refused.value.code, provider.paths()) == ("provider_login_refused", ["/auth"])


def test_an_order_is_found_on_any_page_and_its_further_deposits_are_left_out(
    provider: ScriptedProvider,
) -> None:
    provider.replies = [
        answer(200, {"token": "first"}),
        listing(shown(5, order_id="cp_0"), shown(6, order_id=None), pages=2),
        listing(shown(7), shown(8, parent_payment_id=7), shown(9), pages=2, page=1),
    ]
    assert search(logged_in(provider)) == ["7", "9"]
    assert [one.query for one in provider.requests[1:]] == [
        {
            "limit": "100",
            "page": page,
            "sortBy": "created_at",
            "orderBy": "asc",
            "dateFrom": "2026-11-22T11:45:00.000Z",
            "dateTo": "2026-11-22T12:45:00.000Z",
        }
        for page in ("0", "1")
    ]


def test_a_listing_with_a_row_that_makes_no_sense_is_no_listing(
    provider: ScriptedProvider,
) -> None:
    """It might be the row that is looked for: "not there" would be a lie."""
    client = logged_in(provider)
    provider.replies = [answer(200, {"token": "first"})]
    for odd in ([shown(5), {}], [None], {}, "none"):
        body = {"data": odd, "limit": 100, "page": 0, "pagesCount": 1, "total": 2}
        provider.replies += [answer(200, body)]
        with pytest.raises(ProviderAway):
            search(client)
    provider.replies = [answer(200, {"data": []})]
    with pytest.raises(ProviderAway):
        search(client)


def test_a_search_ends_though_the_pages_do_not(provider: ScriptedProvider) -> None:
    endless = listing(shown(5, order_id="cp_0"), pages=10**6)
    provider.replies = [answer(200, {"token": "first"}), *[endless] * 30]
    with pytest.raises(Unavailable) as refused:
        search(logged_in(provider))
    assert refused.value.code == "provider_listing_too_long"
    assert len(provider.requests) == 21


@pytest.mark.parametrize(("limit", "page"), [(0, 0), (PAGE_ROWS_MAX + 1, 0), (10, -1)])
def test_a_page_has_limits(provider: ScriptedProvider, limit: int, page: int) -> None:
    client = logged_in(provider).nowpayments
    with pytest.raises(Invalid):
        client.list_payments(date_from=NOON, date_to=NOON, limit=limit, page=page)
    assert provider.requests == []


# Against the simulator, which answers as the provider is documented to.


def test_every_call_is_understood_by_the_simulator_and_understands_it(
    simulator: Simulator, simulated: NowPayments
) -> None:
    began = system_clock()
    order_id = unique("cp")
    assert simulated.status()
    assert {"btc", "eth", "usdttrc20"} <= set(simulated.currencies())
    assert "xrp" not in simulated.currencies()
    least = simulated.minimum("btc")
    assert least.coin_amount > 0
    assert least.usd_amount == pytest.approx(Decimal(1), abs=Decimal("0.01"))
    coins = simulated.estimate(Decimal("25.00"), currency_from="usd", currency_to="btc")
    with pytest.raises(Invalid):
        simulated.minimum("nocoin")
    with pytest.raises(Invalid):
        order(simulated, order_id, "nocoin")
    assert simulated.find_by_order_id(order_id, created_around=began) == ()
    made = order(simulated, order_id)
    assert made.pay_amount == coins
    number = int(made.provider_payment_id)
    simulator.advance(number, "partially_paid", notify=False, actually_paid="0.0001")
    reading = simulated.read_payment(made.provider_payment_id)
    assert reading is not None
    assert (reading.payment_status, reading.order_id) == ("partially_paid", order_id)
    assert (reading.actually_paid, reading.pay_address) == (Decimal("0.0001"), made.pay_address)
    [found] = simulated.find_by_order_id(order_id, created_around=began)
    assert (found.payment_id, found.raw != "") == (made.provider_payment_id, True)
    assert simulated.read_payment("99999999999999999999") is None
    nowhere = began - timedelta(days=2)
    assert simulated.find_by_order_id(order_id, created_around=nowhere) == ()


def test_a_payment_whose_answer_was_lost_is_found_by_its_order(
    simulator: Simulator, simulated: NowPayments
) -> None:
    order_id = unique("cp")
    simulator.control("faults", mode="truncated", count=1)
    with pytest.raises(Unavailable) as unknown:
        order(simulated, order_id)
    assert unknown.value.code == "payment_outcome_unknown"
    [found] = simulated.find_by_order_id(order_id, created_around=system_clock())
    assert simulator.read(int(found.payment_id))["order_id"] == order_id
