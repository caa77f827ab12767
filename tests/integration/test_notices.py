"""Notices late, twice, by order, at once: what the earlier system lost is credited, and once."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from shared.payments import inbox
from tests.ledger import Ledger
from tests.receiver import Receiver, notice, own_payment_id, sign
from tests.till import M, Payment, Till

PRICE = 25 * M


@pytest.fixture
def till(ledger: Ledger) -> Iterator[Till]:
    with capture_logs():
        yield Till(ledger)


def deliver(till: Till, payment: Payment, status: str, **fields: object) -> bool:
    """Store a notice as the receiver does; tell whether it was new."""
    told = {"payment_id": payment.number, "payment_status": status, "order_id": payment.id}
    told |= {"actually_paid": "0.001", **fields}
    with till.ledger.database.transaction() as tx:
        return inbox.store_notice(
            tx, provider="nowpayments", notice=told, raw_body=json.dumps(told).encode()
        )


def test_a_notice_delivered_again_credits_the_same_lot_once(till: Till) -> None:
    """Behaviours 86 and 94: ten million once, whatever is cached or locked where."""
    payment = till.payment(dollars="10.00")
    assert deliver(till, payment, "finished") is True
    assert till.drain() == 1
    lot = till.shown(payment)["lotId"]
    assert deliver(till, payment, "finished") is False
    assert till.drain() == 0
    assert till.shown(payment)["lotId"] == lot
    assert till.ledger.balance(payment.account) == (10 * M, 0, 0)


def test_a_notice_is_found_by_its_order_when_its_number_is_new_to_us(till: Till) -> None:
    """Behaviour 94."""
    payment = till.payment(provider_payment_id=None, status="creating")
    till.told(payment, "confirming", "failed")
    assert till.shown(payment)["status"] == "failed"
    assert till.shown(payment)["providerPaymentId"] == payment.number


@pytest.mark.parametrize("hours", [0.25, 2, 72])
def test_a_finished_notice_that_comes_hours_late_is_credited_once(till: Till, hours: float) -> None:
    """Behaviours 94 and 168 (W39): after an outage the provider's repeats bear their old time."""
    payment = till.payment()
    born = int(till.ledger.clock().timestamp() * 1000)
    till.ledger.clock.advance(hours=hours)
    assert deliver(till, payment, "finished", updated_at=born) is True
    assert till.drain() == 1
    assert deliver(till, payment, "finished", updated_at=born + 1) is False
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)


def test_confirming_and_finished_at_the_same_time_are_both_applied(till: Till) -> None:
    """Behaviour 169 (W40): two workers, one payment; nothing is answered busy and lost."""
    payments = [till.payment() for _ in range(20)]
    for payment in payments:
        till.tell(payment, "confirming", "finished")
    with ThreadPoolExecutor(4) as workers:
        assert sum(workers.map(lambda _: till.drain(), range(4))) == 40
    while till.drain():
        pass
    assert {till.shown(payment)["status"] for payment in payments} == {"finished"}
    assert {till.ledger.balance(p.account) for p in payments} == {(PRICE, 0, 0)}


def test_a_failure_of_ours_is_kept_for_another_try_and_then_in_the_queue(till: Till) -> None:
    """Behaviour 169 (W41): the status is not finished before its credit is."""
    payment = till.payment()
    till.tell(payment, "finished")
    till.spoil(payment)
    for _ in range(8):
        assert till.drain() == 1
        assert till.shown(payment)["status"] == "waiting"
        till.ledger.clock.advance(seconds=1000)
    assert till.letters() == [("webhook", "pending", 0)]
    assert till.ledger.balance(payment.account) == (0, 0, 0)


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def receiver(request: pytest.FixtureRequest, receivers: Callable[[str], Receiver]) -> Receiver:
    return receivers(request.param)


def test_a_repeat_says_that_it_is_one(receiver: Receiver) -> None:
    """Behaviour 166 (W37)."""
    body = notice(payment_id=own_payment_id(), payment_status="finished")
    told = [receiver.deliver(body) for _ in range(3)]
    assert [answer.status_code for answer in told] == [200] * 3
    assert [answer.json()["duplicate"] for answer in told] == [False, True, True]


def test_shuffled_keys_pass_with_the_sorted_signature_and_a_wrong_one_is_refused(
    receiver: Receiver,
) -> None:
    """Behaviour 167 (W38)."""
    body = notice(payment_id=own_payment_id(), payment_status="finished", order_id="o")
    shuffled = json.dumps(dict(reversed(json.loads(body).items()))).encode()
    assert shuffled != body
    passed = receiver.deliver(shuffled, **{"x-nowpayments-sig": sign(body)})
    assert (passed.status_code, passed.json()["duplicate"]) == (200, False)
    refused = receiver.deliver(shuffled, **{"x-nowpayments-sig": sign(b"another")})
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_signature")
