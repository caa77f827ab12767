"""The provider simulator when it is told to misbehave, and how its process starts and ends."""

import os
import signal
import subprocess
import sys
import time

import pytest
import requests

from tests.provider_harness import (
    API_KEY,
    IPN_SECRET,
    ORDER,
    ROOT,
    Simulator,
    until,
)


@pytest.mark.parametrize(("mode", "status"), [("down", 503), ("html", 502)])
def test_a_provider_that_is_away_does_nothing(simulator, mode, status):
    simulator.control("faults", mode=mode, count=2)
    assert simulator.post("/v1/payment", ORDER | {"order_id": mode}).status_code == status
    assert simulator.get("/v1/status").status_code == status
    assert simulator.get("/v1/status").status_code == 200, "a fault lasts for its count of calls"
    assert simulator.count_of_order(mode) == 0


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("garbage", requests.JSONDecodeError),
        ("truncated", requests.exceptions.ChunkedEncodingError),
        ("timeout_after_create", requests.ReadTimeout),
    ],
)
def test_a_payment_can_be_created_without_a_usable_answer(simulator, mode, error):
    simulator.control("faults", mode=mode, seconds=60)
    with pytest.raises(error):
        simulator.post("/v1/payment", ORDER | {"order_id": mode}, timeout=0.5).json()
    assert simulator.count_of_order(mode) == 1


def test_a_slow_provider_answers_right_but_late(simulator):
    simulator.control("faults", mode="slow", seconds=0.3, count=1)
    began = time.monotonic()
    assert simulator.get("/v1/status").json() == {"message": "OK"}
    assert time.monotonic() - began >= 0.3


def test_a_senseless_fault_is_refused(simulator):
    for body in (
        {"mode": "broken"},
        {"mode": "down", "count": 0},
        {"mode": "slow", "seconds": "x"},
    ):
        assert simulator.post("/sim/faults", body).status_code == 400
    assert simulator.get("/sim/faults").json()["mode"] == "none"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_while_a_call_hangs_and_a_notice_waits(receiver, number):
    secrets = {"NOWPAYMENTS_API_KEY": API_KEY, "NOWPAYMENTS_IPN_SECRET": IPN_SECRET}
    own = Simulator("--retry-seconds", "60", ARRAKIS_SIMULATOR_IPN_URL=receiver.url, **secrets)
    try:
        receiver.statuses[:] = [503]
        payment_id = own.new_id()
        own.play(payment_id, "happy", wait=False)
        until(lambda: receiver.statuses_of(payment_id) == ["waiting"])
        own.control("faults", mode="hang", seconds=60)
        with pytest.raises(requests.ReadTimeout):
            own.get("/v1/status", timeout=0.2)
    finally:
        began = time.monotonic()
        code = own.stop(number)
    assert code == 0
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--api-key"),
        (["--api-key", "k"], "--ipn-secret"),
        (["--api-key", "k", "--ipn-secret", "s", "--ipn-url", "http://example.com"], "loopback"),
    ],
)
def test_it_does_not_start_without_its_settings(arguments, complaint):
    command = [sys.executable, "-m", "deploy.simulator", "--port", "0", *arguments]
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    result = subprocess.run(
        command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=8, check=False
    )
    assert result.returncode == 2
    assert complaint in result.stderr
