"""The simulator when it is told to misbehave, and how its process starts and ends."""

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
from tests.x402_harness import AMOUNT, PAYER, SHOP


@pytest.mark.parametrize(
    ("mode", "status"), [("down", 503), ("html", 502), ("error", 500), ("rate_limited", 429)]
)
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
        ("lost_answer", requests.ConnectionError),
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
        {"mode": "down", "on": "settle"},
        {"mode": "down", "for_seconds": -1},
        {"mode": "timeout_after_create", "on": "read"},
        {"mode": "settlement_pending"},
    ):
        assert simulator.post("/sim/faults", body).status_code == 400
    assert simulator.get("/sim/faults").json()["mode"] == "none"
    misplaced = {"mode": "refuse_settle", "on": "verify"}
    assert simulator.post("/sim/facilitator/faults", misplaced).status_code == 400
    assert simulator.post("/sim/facilitator/faults", {"mode": "down", "code": 7}).status_code == 400


def test_a_fault_can_be_for_one_operation_and_for_a_time(simulator):
    simulator.control("faults", mode="down", on="currencies", count=1)
    assert simulator.get("/v1/status").status_code == 200
    assert simulator.get("/v1/currencies").status_code == 503
    assert simulator.get("/v1/currencies").status_code == 200, "its count is used up"
    simulator.control("faults", mode="down", for_seconds=0.2)
    assert simulator.get("/v1/status").status_code == 503
    assert 0 < simulator.get("/sim/faults").json()["for_seconds"] <= 0.2
    until(lambda: simulator.get("/v1/status").status_code == 200)
    assert simulator.get("/sim/faults").json()["mode"] == "none"


@pytest.mark.parametrize(
    ("mode", "status"),
    [("down", 503), ("html", 502), ("error", 500), ("rate_limited", 429), ("redirect", 307)],
)
def test_a_facilitator_that_is_away_settles_nothing(x402, mode, status):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.fault(mode, on="settle", count=1)
    assert x402.verify(claim).json()["isValid"] is True
    assert x402.settle(claim, allow_redirects=False).status_code == status
    assert (x402.balance(SHOP), x402.settlements()) == (0, [])
    assert x402.settle(claim).json()["success"] is True


def test_who_follows_a_redirect_is_answered_right_and_so_is_found_out(x402):
    x402.give(PAYER, AMOUNT)
    x402.fault("redirect", count=1)
    assert x402.settle(x402.claim()).json()["success"] is True
    assert x402.balance(SHOP) == AMOUNT


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("garbage", requests.JSONDecodeError),
        ("truncated", requests.exceptions.ChunkedEncodingError),
        ("lost_answer", requests.ConnectionError),
        ("timeout_after_settle", requests.ReadTimeout),
    ],
)
def test_a_payment_can_be_settled_without_a_usable_answer(x402, mode, error):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.fault(mode, on="settle", seconds=60, count=1)
    with pytest.raises(error):
        x402.settle(claim, timeout=0.5).json()
    assert (x402.balance(SHOP), x402.is_used(claim)) == (AMOUNT, True)
    (settled,) = x402.settlements()
    receipt = x402.rpc("eth_getTransactionReceipt", settled["transaction"])
    assert receipt["status"] == "0x1"


def test_a_facilitator_that_hangs_has_settled_nothing(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.fault("hang", on="settle", seconds=60, count=1)
    with pytest.raises(requests.ReadTimeout):
        x402.settle(claim, timeout=0.3)
    assert (x402.balance(SHOP), x402.settlements()) == (0, [])


def test_a_facilitators_answer_can_have_wrong_types_or_another_shape(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.fault("wrong_types")
    assert x402.verify(claim).json() == {"isValid": "true", "payer": 7}
    settled = {"success": "true", "transaction": 7, "network": 7, "payer": 7}
    assert x402.settle(claim).json() == settled
    assert x402.settle(claim).json()["success"] == "false"
    assert x402.simulator.get("/facilitator/supported").json()["kinds"] == {}
    x402.fault("wrong_shape")
    assert x402.settle(x402.claim(1)).json() == {"unexpected": 1}


def test_a_facilitator_can_refuse_for_any_reason(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.fault("refuse_verify", count=1)
    reason = "invalid_exact_evm_insufficient_balance"
    refused = {"isValid": False, "invalidReason": reason, "payer": PAYER}
    assert x402.verify(claim).json() == refused
    x402.fault("refuse_settle", code="<b>secret of the upstream</b>")
    assert x402.verify(claim).json()["isValid"] is True
    answer = x402.settle(claim).json()
    assert (answer["success"], answer["errorReason"]) == (False, "<b>secret of the upstream</b>")
    assert (answer["transaction"], x402.balance(SHOP), x402.settlements()) == ("", 0, [])


def test_a_pending_settlement_is_mined_later_and_a_repeat_says_so(x402):
    x402.give(PAYER, AMOUNT)
    claim = x402.claim()
    x402.fault("settlement_pending", count=1)
    pending, still = x402.settle(claim).json(), x402.settle(claim).json()
    assert (pending["success"], pending["errorReason"]) == (False, "settlement_pending")
    assert still == pending
    transaction = pending["transaction"]
    assert x402.rpc("eth_getTransactionReceipt", transaction) is None
    assert (x402.is_used(claim), x402.settlements()[0]["status"]) == (False, "waiting")
    x402.mine()
    assert (x402.is_used(claim), x402.balance(SHOP)) == (True, AMOUNT)
    settled = x402.settle(claim).json()
    assert (settled["success"], settled["transaction"]) == (True, transaction)
    assert x402.settle(claim).json()["errorReason"] == "invalid_exact_evm_nonce_already_used"
    assert [one["status"] for one in x402.settlements()] == ["mined"]


def test_a_pending_settlement_can_fail_or_vanish(x402):
    x402.give(PAYER, AMOUNT)
    failing, vanishing = x402.claim(), x402.claim()
    x402.fault("settlement_pending", count=2)
    failed, gone = (x402.settle(one).json()["transaction"] for one in (failing, vanishing))
    x402.simulator.control("chain/drop", transaction=gone)
    x402.give(PAYER, 0)
    x402.mine()
    assert x402.rpc("eth_getTransactionReceipt", failed)["status"] == "0x0"
    answer = x402.settle(failing).json()
    assert (answer["errorReason"], answer["transaction"]) == ("transaction_failed", failed)
    assert x402.settle(vanishing).json()["errorReason"] == "settlement_pending"
    assert (x402.is_used(failing), x402.is_used(vanishing)) == (False, False)
    assert [one["status"] for one in x402.settlements()] == ["failed", "dropped"]
    assert x402.balance(SHOP) == 0


@pytest.mark.parametrize(
    ("mode", "seen"),
    [
        ("down", 503),
        ("html", 502),
        ("error", 500),
        ("rate_limited", 429),
        ("redirect", 307),
        ("garbage", requests.JSONDecodeError),
        ("truncated", requests.exceptions.ChunkedEncodingError),
        ("lost_answer", requests.ConnectionError),
        ("hang", requests.ReadTimeout),
        ("wrong_types", {"jsonrpc": "2.0", "id": 1, "result": 7}),
        ("wrong_shape", {"unexpected": 1}),
        (
            "error_object",
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "Internal error"}},
        ),
    ],
)
def test_a_node_can_misbehave_in_every_way(x402, mode, seen):
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []}
    x402.simulator.control("rpc/faults", mode=mode, on="eth_blockNumber", seconds=60, count=1)
    assert x402.rpc("eth_chainId") == "0x2105", "a fault can be for one method only"

    def ask() -> requests.Response:
        return x402.simulator.post("/rpc", call, timeout=0.4, allow_redirects=False)

    if isinstance(seen, type):
        with pytest.raises(seen):
            ask().json()
    else:
        answer = ask()
        assert answer.status_code == seen if isinstance(seen, int) else answer.json() == seen
    assert ask().json()["result"].startswith("0x")


def test_a_batch_of_wrong_types_keeps_its_envelopes(x402):
    transaction = x402.transfer(1)["transaction"]
    calls = [
        {"jsonrpc": "2.0", "id": 1, "method": "eth_getTransactionReceipt", "params": [transaction]},
        {"jsonrpc": "2.0", "id": 2, "method": "eth_getTransactionReceipt", "params": []},
    ]
    x402.simulator.control("rpc/faults", mode="wrong_types", count=1)
    spoilt, failed = x402.simulator.post("/rpc", calls).json()
    assert (spoilt["id"], spoilt["result"]["status"], spoilt["result"]["logs"]) == (1, 7, {})
    assert failed["error"]["code"] == -32602
    x402.simulator.control("rpc/faults", mode="wrong_types", count=1)
    notification = {"jsonrpc": "2.0", "method": "eth_chainId"}
    assert x402.simulator.post("/rpc", notification).status_code == 200


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
        (["--api-key", "k", "--ipn-secret", "s", "--chain-id", "1"], "--chain-id"),
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
