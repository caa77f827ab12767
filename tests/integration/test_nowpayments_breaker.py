"""The NOWPayments client's circuit breaker, its slots, and what logs and metrics tell of it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from deploy.local.servers import free_port
from shared.clock import system_clock
from shared.errors import ArrakisError, Unavailable
from shared.payments.providers.calls import Limits
from shared.payments.providers.nowpayments import OutcomeUnknown, ProviderAway
from shared.payments.providers.outcomes import AllSlotsBusy, CircuitOpen
from tests.harness import wait_until
from tests.scripted_provider import (
    API_KEY,
    QUICK,
    Client,
    Reply,
    Request,
    ScriptedProvider,
    answer,
    created,
    hang,
    hang_up,
    scripted,
    shown,
    takes_at_most,
)


def usual(request: Request) -> Reply:
    if request.method == "POST":
        return answer(201, created(request, 1))
    return answer(200, shown(7))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(usual) as server:
        yield server


@pytest.fixture
def client(provider: ScriptedProvider) -> Client:
    return Client(provider.url, limits=QUICK)


# The circuit breaker.


def fail(client: Client, times: int) -> None:
    for _ in range(times):
        with pytest.raises(OutcomeUnknown):
            client.create()


def test_five_failures_open_the_circuit_and_a_success_closes_it(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [answer(500), hang, hang_up, answer(302), answer(502)]
    with capture_logs() as logs:
        fail(client, 5)
    assert [line["event"] for line in logs].count("provider_circuit_opened") == 1
    client.clock.seconds += 12.5
    with takes_at_most(1):
        for ask in (client.create, lambda: client.nowpayments.read_payment("7")):
            with pytest.raises(CircuitOpen) as away:
                ask()
            assert away.value.retry_after_seconds == 18
            assert away.value.code == "provider_unavailable"
        assert not client.nowpayments.status()
    assert (len(provider.requests), client.pauses) == (5, [])
    client.clock.seconds += 17.5
    with capture_logs() as logs:
        assert client.create().status == "waiting"
    assert [line["event"] for line in logs].count("provider_circuit_closed") == 1
    fail_once = [answer(500)] * 4
    provider.replies = list(fail_once)
    fail(client, 4)
    assert client.create().status == "waiting"


def test_a_circuit_that_is_half_open_lets_one_call_try(provider: ScriptedProvider) -> None:
    client = Client(provider.url, limits=Limits(connect_seconds=1.0, answer_seconds=5.0))
    provider.replies = [answer(500)] * 5
    fail(client, 5)
    client.clock.seconds += 30
    gate = threading.Event()

    def wait_and_fail(handler: Any) -> None:
        gate.wait(5)
        answer(500)(handler)

    provider.replies = [wait_and_fail]
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(client.create) for _ in range(8)]
        wait_until("the rest", lambda: sum(one.done() for one in asked) == 7)
        gate.set()
    errors = [one.exception() for one in asked]
    assert [type(error) for error in errors].count(CircuitOpen) == 7
    assert [type(error) for error in errors].count(OutcomeUnknown) == 1
    assert len(provider.requests) == 6
    with pytest.raises(CircuitOpen):
        client.create()


def test_refusals_and_nonsense_do_not_open_the_circuit(
    provider: ScriptedProvider, client: Client
) -> None:
    for reply in (answer(400), answer(403), answer(404), answer(429), answer(200, b"<html>")):
        provider.replies = [reply] * 6
        for _ in range(6):
            with pytest.raises(Exception, match="provider"):
                client.create()
    assert len(provider.requests) == 30
    assert client.create().status == "waiting"


def test_a_read_stops_trying_when_the_circuit_opens(
    provider: ScriptedProvider, client: Client
) -> None:
    provider.replies = [answer(500)] * 9
    for expected in (ProviderAway, CircuitOpen):
        with pytest.raises(expected):
            client.nowpayments.read_payment("7")
    assert len(provider.requests) == 5


def test_a_slow_provider_holds_as_many_threads_as_it_may_and_no_more(
    provider: ScriptedProvider,
) -> None:
    limits = Limits(connect_seconds=0.2, answer_seconds=1.0, calls_at_once=2)
    client = Client(provider.url, limits=limits)
    provider.replies = [hang] * 6
    with takes_at_most(4), ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(client.create) for _ in range(6)]
        kinds = [type(one.exception()) for one in asked]
    assert (kinds.count(AllSlotsBusy), kinds.count(OutcomeUnknown)) == (4, 2)
    assert len(provider.requests) == 2


# What others can see of it.


def count(call: str, outcome: str) -> float:
    labels = {"provider": "nowpayments", "call": call, "outcome": outcome}
    return REGISTRY.get_sample_value("arrakis_provider_calls_total", labels) or 0.0


OUTCOMES: dict[str, tuple[list[Reply], Callable[[Client], Any], str, int | None]] = {
    "ok": ([], Client.create, "create_payment", 201),
    "refused": ([answer(400)], Client.create, "create_payment", 400),
    "throttled": ([answer(429)], Client.create, "create_payment", 429),
    "failed": ([answer(500)], Client.create, "create_payment", 500),
    "no_answer": ([hang], Client.create, "create_payment", None),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_call_is_counted_timed_and_logged_with_nothing_secret(
    provider: ScriptedProvider, outcome: str
) -> None:
    replies, call, name, status = OUTCOMES[outcome]
    provider.replies = list(replies)
    client = Client(provider.url, limits=QUICK)
    before = count(name, outcome)
    with capture_logs() as logs, suppress(ArrakisError):
        call(client)
    assert API_KEY not in str(logs)
    assert count(name, outcome) == before + 1
    [line] = logs
    assert 0 < line.pop("ms") < 1_000
    assert line == {
        "event": "provider_called",
        "log_level": "info" if outcome == "ok" else "warning",
        "provider": "nowpayments",
        "call": name,
        "outcome": outcome,
        "status": status,
    }


def test_calls_that_were_not_made_are_counted_too() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}")
    before = count("read_payment", "not_reached"), count("read_payment", "circuit_open")
    for _ in range(2):
        with pytest.raises(ProviderAway):
            client.nowpayments.read_payment("7")
    after = count("read_payment", "not_reached"), count("read_payment", "circuit_open")
    assert (after[0] - before[0], after[1] - before[1]) == (5, 1)
    seconds = {"provider": "nowpayments", "call": "read_payment"}
    assert REGISTRY.get_sample_value("arrakis_provider_call_seconds_count", seconds) >= 6


def test_a_login_is_in_no_log(provider: ScriptedProvider) -> None:
    client = Client(provider.url, email="merchant@example.com", password="a-password")
    token = "a-token-of-the-tests"
    provider.replies = [answer(200, {"token": token}), answer(401, {"message": token})]
    provider.replies += [answer(403, {"message": "a-password"})]
    with capture_logs() as logs, pytest.raises(Unavailable) as refused:
        client.nowpayments.find_by_order_id("cp_1", created_around=system_clock())
    assert [line["call"] for line in logs] == ["login", "list_payments", "login"]
    told = f"{logs} {refused.value!r}"
    for secret in (token, "a-password", "merchant@example.com", API_KEY):
        assert secret not in told
