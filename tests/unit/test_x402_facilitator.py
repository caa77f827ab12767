"""The facilitator's client against a real server: what it asks, and what each answer means."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog

from shared.errors import Unavailable
from shared.payments.providers.outcomes import OutcomeUnknown
from shared.payments.x402.facilitator import (
    Accepted,
    Facilitator,
    FacilitatorAway,
    Rejected,
    Settled,
    SettlementPending,
)
from tests.x402 import (
    EXCHANGES,
    IMPATIENT,
    OTHER,
    PAYER,
    TERMS,
    TRANSACTION,
    Server,
    nobody_listens,
    payload,
    read,
    running_server,
    terms_in,
)

PAYMENT = read(payload())
NETWORK = "eip155:84532"
SETTLED = {"success": True, "transaction": TRANSACTION, "network": NETWORK, "payer": PAYER}
UPSTREAM = "secret upstream text"


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


def facilitator_at(url: str) -> Facilitator:
    return Facilitator(f"{url}/f", limits=IMPATIENT, verify_seconds=0.5)


def ask(server: Server, call: str, answer: Any) -> Any:
    server.answers = [answer]
    facilitator = facilitator_at(server.url)
    asked = facilitator.verify if call == "verify" else facilitator.settle
    try:
        return asked(PAYMENT, TERMS)
    finally:
        assert [path for path, _ in server.asked] == [f"/f/{call}"]


def expected_of(call: dict[str, Any]) -> Any:
    """Return what a recorded answer of the vectors means to us."""
    response = call["response"]
    said = None
    with suppress(ValueError):
        said = json.loads(response["body"])
    match said:
        case {"isValid": True}:
            return Accepted(PAYER)
        case {"isValid": False, "invalidReason": reason} | {"errorReason": reason}:
            return Rejected(reason)
        case {"success": True, "transaction": transaction}:
            return Settled(transaction, NETWORK, PAYER, 10_000)
        case _:
            return FacilitatorAway


POSTS = [call for call in EXCHANGES["calls"] if call["method"] == "POST"]


@pytest.mark.parametrize("call", POSTS, ids=[f"call {i + 1}" for i in range(len(POSTS))])
def test_an_exchange_of_the_vectors(server: Server, call: dict[str, Any]) -> None:
    body, response = call["body"], call["response"]
    server.answers = [(response["status"], response["body"])]
    payment = read(body["paymentPayload"])
    terms = terms_in(body["paymentRequirements"], body["paymentPayload"]["resource"])
    facilitator = Facilitator(server.url, limits=IMPATIENT)
    asked = getattr(facilitator, call["url"].rpartition("/")[2])
    expected = expected_of(call)
    if isinstance(expected, type):
        with pytest.raises(expected):
            asked(payment, terms)
    else:
        assert asked(payment, terms) == expected
    assert server.asked == [(call["url"].removeprefix("https://facilitator.example.test"), body)]
    assert server.content_types == {call["headers"]["content-type"]}


def test_the_vectors_have_each_kind_of_answer() -> None:
    kinds = {getattr(kind, "__name__", type(kind).__name__) for kind in map(expected_of, POSTS)}
    assert kinds == {"Accepted", "Rejected", "Settled", "FacilitatorAway"}


def test_version_1_is_asked_in_its_own_words(server: Server) -> None:
    server.answers = [(200, {**SETTLED, "network": "base-sepolia"})]
    payment = read(payload(version=1), version=1)
    outcome = facilitator_at(server.url).settle(payment, TERMS)
    assert outcome == Settled(TRANSACTION, NETWORK, PAYER, 10_000)
    ((_, body),) = server.asked
    assert body["x402Version"] == body["paymentPayload"]["x402Version"] == 1
    assert body["paymentRequirements"]["network"] == "base-sepolia"
    assert body["paymentRequirements"]["maxAmountRequired"] == "10000"


BAD = {"isValid": False, "invalidReason": "insufficient_funds"}
VERDICTS: dict[str, Any] = {
    "good, without a payer": ((200, {"isValid": True}), Accepted(PAYER)),
    "bad": ((200, BAD | {"payer": PAYER}), Rejected("insufficient_funds")),
    "bad, with 400": ((400, BAD), Rejected("insufficient_funds")),
    "bad, with 422": ((422, BAD), Rejected("insufficient_funds")),
    "bad, without a reason": ((200, {"isValid": False}), Rejected("payment_rejected")),
    "bad, in words": ((200, BAD | {"invalidReason": UPSTREAM}), Rejected("payment_rejected")),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_is_a_verdict_whatever_its_status(server: Server, name: str) -> None:
    answer, expected = VERDICTS[name]
    assert ask(server, "verify", answer) == expected


NO_VERDICTS: dict[str, Any] = {
    "500": (500, {"error": UPSTREAM}),
    "502 in HTML": (502, f"<html>{UPSTREAM}</html>"),
    "a verdict with 500": (500, {"isValid": False, "invalidReason": "insufficient_funds"}),
    "HTML with 200": (200, f"<html>{UPSTREAM}</html>"),
    "nothing": (200, ""),
    "a list": (200, []),
    "another shape": (200, {"unexpected": UPSTREAM}),
    "a verdict in words": (200, {"isValid": "true"}),
    "a verdict as a number": (200, {"isValid": 1}),
    "a verdict twice": (200, '{"isValid": false, "isValid": true}'),
    "a payer of the wrong type": (200, {"isValid": True, "payer": 5}),
    "another payer": (200, {"isValid": True, "payer": OTHER}),
    "good, with 400": (400, {"isValid": True}),
    "400 without a verdict": (400, {"error": UPSTREAM}),
    "its own fault": (200, {"isValid": False, "invalidReason": "unexpected_verify_error"}),
    "no key": (401, {"isValid": False, "invalidReason": UPSTREAM}),
    "forbidden": (403, {"error": UPSTREAM}),
    "no such address": (404, "not found"),
    "too many": (429, {"error": UPSTREAM}),
    "a redirect": (307, ""),
    "a hang": "hang",
    "half an answer": "truncated",
    "a closed connection": "close",
}


@pytest.mark.parametrize("name", NO_VERDICTS)
def test_anything_but_a_verdict_is_a_facilitator_away(server: Server, name: str) -> None:
    with pytest.raises(FacilitatorAway) as away:
        ask(server, "verify", NO_VERDICTS[name])
    assert away.value.code == "facilitator_unavailable"
    assert away.value.retry_after_seconds > 0
    assert UPSTREAM not in repr(away.value) + away.value.message


def failure(reason: str | None, transaction: str = "") -> dict[str, Any]:
    return {
        "success": False,
        "errorReason": reason,
        "transaction": transaction,
        "network": NETWORK,
    }


USED = "invalid_exact_evm_nonce_already_used"
FAILED = "transaction_failed"
MISMATCH = "invalid_exact_evm_transfer_event_mismatch"
SETTLEMENTS: dict[str, Any] = {
    "settled": ((200, SETTLED), Settled(TRANSACTION, NETWORK, PAYER, 10_000)),
    "settled, by the name of version 1": (
        (200, {**SETTLED, "network": "base-sepolia", "amount": "10000"}),
        Settled(TRANSACTION, NETWORK, PAYER, 10_000),
    ),
    "refused": ((200, failure("insufficient_funds")), Rejected("insufficient_funds")),
    "refused, with 400": ((400, failure("insufficient_funds")), Rejected("insufficient_funds")),
    "used before": ((200, failure(USED)), Rejected(USED)),
    "refused, in words": ((200, failure(UPSTREAM)), Rejected("payment_rejected")),
    "refused, without a reason": ((200, failure(None)), Rejected("payment_rejected")),
    "pending": (
        (200, failure("settlement_pending", TRANSACTION)),
        SettlementPending(TRANSACTION),
    ),
    "pending, unnamed": ((200, failure("settlement_pending")), SettlementPending(None)),
    "failed, perhaps sent": ((200, failure(FAILED)), SettlementPending(None)),
    "failed, and sent": ((200, failure(FAILED, TRANSACTION)), SettlementPending(TRANSACTION)),
    "other events": ((200, failure(MISMATCH, TRANSACTION)), SettlementPending(TRANSACTION)),
    "its own fault": ((400, failure("unexpected_settle_error")), SettlementPending(None)),
}


@pytest.mark.parametrize("name", SETTLEMENTS)
def test_what_became_of_a_settlement(server: Server, name: str) -> None:
    answer, expected = SETTLEMENTS[name]
    assert ask(server, "settle", answer) == expected


UNKNOWN: dict[str, Any] = {
    "500": (500, {"error": UPSTREAM}),
    "a failure with 500": (500, failure("insufficient_funds")),
    "HTML with 200": (200, f"<html>{UPSTREAM}</html>"),
    "nothing": (200, ""),
    "another shape": (200, {"unexpected": UPSTREAM}),
    "success in words": (200, {**SETTLED, "success": "true"}),
    "success twice": (200, f'{{"success": false, {json.dumps(SETTLED)[1:]}'),
    "success with 400": (400, SETTLED),
    "success without a transaction": (200, {**SETTLED, "transaction": ""}),
    "a transaction in words": (200, {**SETTLED, "transaction": UPSTREAM}),
    "a failure with a transaction in words": (200, failure("insufficient_funds", UPSTREAM)),
    "no network": (200, {"success": True, "transaction": TRANSACTION}),
    "another network": (200, {**SETTLED, "network": "eip155:8453"}),
    "another payer": (200, {**SETTLED, "payer": OTHER}),
    "another amount": (200, {**SETTLED, "amount": "9999"}),
    "an amount in words": (200, {**SETTLED, "amount": "10_000"}),
    "400 without a verdict": (400, {"error": UPSTREAM}),
    "a redirect": (307, ""),
    "a hang": "hang",
    "half an answer": "truncated",
    "a closed connection": "close",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_anything_but_an_answer_to_a_settlement_is_unknown(server: Server, name: str) -> None:
    with pytest.raises(OutcomeUnknown) as unknown:
        ask(server, "settle", UNKNOWN[name])
    assert UPSTREAM not in repr(unknown.value) + unknown.value.message


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_a_settlement_that_was_not_taken_on_is_surely_not_done(server: Server, status: int) -> None:
    with pytest.raises(FacilitatorAway):
        ask(server, "settle", (status, {"error": UPSTREAM}))


@pytest.mark.parametrize("call", ["verify", "settle"])
def test_a_refused_connection_did_nothing(call: str) -> None:
    with nobody_listens() as url, pytest.raises(FacilitatorAway):
        getattr(facilitator_at(url), call)(PAYMENT, TERMS)


def test_a_facilitator_that_is_down_is_left_alone_and_nothing_is_sent(server: Server) -> None:
    server.answers = [(500, "")]
    facilitator = facilitator_at(server.url)
    for _ in range(5):
        with pytest.raises(OutcomeUnknown):
            facilitator.settle(PAYMENT, TERMS)
    for _ in range(3):
        with pytest.raises(FacilitatorAway) as away:
            facilitator.settle(PAYMENT, TERMS)
        assert away.value.retry_after_seconds > 1
    assert len(server.asked) == 5


def test_both_ways_to_fail_are_worth_repeating() -> None:
    assert issubclass(FacilitatorAway, Unavailable)
    assert issubclass(OutcomeUnknown, Unavailable)


def test_a_reason_that_is_no_code_is_told_to_the_log_only(server: Server) -> None:
    with structlog.testing.capture_logs() as logs:
        outcome = ask(server, "verify", (200, {"isValid": False, "invalidReason": UPSTREAM}))
    assert outcome == Rejected("payment_rejected")
    assert [one["reason"] for one in logs if one["event"] == "facilitator_reason_unnamed"] == [
        UPSTREAM
    ]
    (answered,) = (one for one in logs if one["event"] == "facilitator_answered")
    assert (answered["call"], answered["outcome"]) == ("verify", "Rejected")
    (called,) = (one for one in logs if one["event"] == "provider_called")
    assert (called["provider"], called["call"], called["outcome"]) == ("x402", "verify", "ok")
