"""Webhooks on their way: signed, tried again on a schedule, each endpoint apart from the others."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from shared.clock import from_stored, to_wire
from shared.errors import Conflict, Unavailable
from shared.notifications import deliveries, endpoints
from shared.notifications.endpoints import Wanted
from shared.notifications.keys import OVERLAP_SECONDS, Keys
from shared.notifications.outcomes import DISABLE_AFTER_SECONDS, SCHEDULE_SECONDS
from shared.operations import dead_letters, dlq
from tests.harness import wait_until
from tests.ledger import Ledger
from tests.scripted_provider import (
    DRIPS,
    Handler,
    Reply,
    answer,
    drip,
    hang,
    hang_up,
    scripted,
    takes_at_most,
)
from tests.till import intake_of
from tests.webhooks_out import KEYS, OPERATOR, Post, data_of, is_signed_with, verified

OK = answer(204)


@pytest.fixture
def post(ledger: Ledger) -> Iterator[Post]:
    with scripted(lambda _: OK) as receiver, capture_logs():
        yield Post(ledger, receiver)


def test_a_webhook_is_delivered_once_and_verifies(post: Post) -> None:
    made = post.endpoint()
    event_id = post.emit(driftMicro="5")
    happened_at = to_wire(post.ledger.clock())
    assert [post.courier.deliver(), post.courier.deliver()] == [1, 0]
    [request] = post.receiver.requests
    assert verified(request, made["secret"]) == {
        "type": "alert.fired",
        "timestamp": happened_at,
        "data": {"driftMicro": "5"},
    }
    assert (request.path, request.headers["webhook-id"]) == ("/hook", event_id)
    assert request.headers["Content-Type"] == "application/json"
    assert post.deliveries() == [("done", "delivered", 1, 204)]


def test_what_failed_is_sent_again_with_the_same_id_and_a_time_of_its_own(post: Post) -> None:
    made = post.endpoint()
    post.receiver.replies = [answer(500, b"oh\x00 no")]
    post.emit()
    assert post.courier.deliver() == 1
    assert post.deliveries() == [("new", None, 1, 500)]
    assert post.ledger.rows("SELECT response FROM notification_deliveries") == [("oh no",)]
    assert post.courier.deliver() == 0, "not before its time"
    post.ledger.clock.advance(seconds=6)
    assert post.courier.deliver() == 1
    first, second = post.receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    assert first.body == second.body
    assert is_signed_with(second, made["secret"])
    assert post.deliveries() == [("done", "delivered", 2, 204)]


@pytest.mark.parametrize(
    "reply",
    [hang, hang_up, DRIPS["the status line"], DRIPS["the headers"], answer(302, Location="/x")],
    ids=["hanging", "hanging up", "dripping status", "dripping headers", "redirect"],
)
def test_no_usable_answer_is_a_failed_try(post: Post, reply: Reply) -> None:
    post.endpoint()
    post.receiver.replies = [reply]
    post.emit()
    with takes_at_most(2):
        assert post.courier.deliver() == 1
    [(state, outcome, attempts, _)] = post.deliveries()
    assert (state, outcome, attempts) == ("new", None, 1)
    assert post.receiver.paths() == ["/hook"], "a redirect is not followed"


def test_a_body_without_end_delays_nothing_that_its_status_has_told(post: Post) -> None:
    post.endpoint()
    post.receiver.replies = [_endless]
    post.emit()
    with takes_at_most(2):
        post.courier.deliver()
    assert post.deliveries() == [("done", "delivered", 1, 200)]


def _endless(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    drip(b"")(handler)


def test_after_the_last_try_it_is_a_dead_letter_and_a_retry_delivers_it(post: Post) -> None:
    post.endpoint()
    post.receiver.usual = lambda _: answer(503)
    post.emit()
    for seconds in SCHEDULE_SECONDS:
        before = post.ledger.clock()
        assert post.courier.deliver() == 1
        [[due_at]] = post.ledger.rows("SELECT due_at FROM notification_deliveries")
        due = from_stored(due_at) if isinstance(due_at, str) else due_at
        assert 0.9 * seconds <= (due - before).total_seconds() <= 1.1 * seconds
        post.ledger.clock.now = due
    assert post.courier.deliver() == 1
    assert post.deliveries() == [("parked", None, 10, 503)]
    [(operation, status, delivery_id)] = post.letters()
    assert (operation, status) == ("notification", "manual_review")
    [[letter]] = post.ledger.rows("SELECT id FROM billing_dlq")
    post.receiver.usual = lambda _: OK
    told = dead_letters.retry(intake_of(post.ledger.database), OPERATOR, letter)
    assert told["status"] == "manual_review", "until it is delivered"
    assert post.courier.deliver() == 1
    assert post.letters() == [("notification", "completed", delivery_id)]
    assert post.deliveries() == [("done", "delivered", 1, 204)]


def test_a_dead_letter_that_cannot_be_rehearsed_says_so_and_can_be_resolved(post: Post) -> None:
    post.endpoint()
    post.emit()
    [[delivery_id]] = post.ledger.rows("SELECT id FROM notification_deliveries")
    with post.ledger.database.transaction() as tx:
        dlq.enter(
            tx, "notification", subject_id=delivery_id, payload={}, error="x", needs_person=True
        )
    [[letter]] = post.ledger.rows("SELECT id FROM billing_dlq")
    with pytest.raises(Conflict) as refused:
        dead_letters.rehearse(intake_of(post.ledger.database), letter)
    assert refused.value.code == "not_retryable"
    closed = dead_letters.resolve(
        post.ledger.database, OPERATOR, letter, reason="told by telephone"
    )
    assert closed["status"] == "completed"


def test_a_try_whose_note_was_lost_is_made_again_with_the_same_id(post: Post) -> None:
    """A process that is killed between sending and noting: the lease lapses (contract 8)."""
    post.endpoint()
    event_id = post.emit()

    def lose(_request: object) -> Reply:  # the delivery is taken from the sender's hands
        post.ledger.sql("UPDATE notification_deliveries SET lease_token = 'killed'")
        return OK

    post.receiver.usual = lose
    assert post.courier.deliver() == 1
    assert post.deliveries() == [("new", None, 1, None)]
    post.receiver.usual = lambda _: OK
    assert post.courier.deliver() == 0, "the lease still holds"
    post.ledger.clock.advance(seconds=61)
    assert post.courier.deliver() == 1
    assert [one.headers["webhook-id"] for one in post.receiver.requests] == [event_id] * 2
    assert post.deliveries() == [("done", "delivered", 2, 204)]


def test_what_is_broken_off_at_its_last_try_is_a_dead_letter(post: Post) -> None:
    post.endpoint()
    post.emit()
    post.ledger.sql("UPDATE notification_deliveries SET attempts = 10")
    assert post.courier.deliver() == 1
    assert post.receiver.requests == []
    assert [status for _, status, _ in post.letters()] == ["manual_review"]


def test_an_endpoint_that_hangs_holds_up_no_other(post: Post) -> None:
    post.endpoint("/slow")
    post.endpoint("/quick")
    post.receiver.usual = lambda request: hang if request.path == "/slow" else OK
    courier = post.courier_with(KEYS, wait_seconds=0.1)
    for number in range(3):
        post.emit(f"drift:{number}")
    with takes_at_most(1):
        courier.deliver()
    wait_until("the quick one has all", lambda: post.receiver.paths().count("/quick") == 3)
    wait_until("the slow one is given up", lambda: not courier._busy)
    assert post.receiver.paths().count("/slow") == 1, "after silence the rest waits"
    [[waiting]] = post.ledger.rows(
        "SELECT COUNT(*) FROM notification_deliveries WHERE state = 'new' AND lease_token IS NULL"
    )
    assert waiting == 3


def test_410_disables_the_endpoint_and_nothing_more_is_sent(post: Post) -> None:
    made = post.endpoint()
    post.receiver.replies = [answer(410)]
    post.emit("drift:1")
    post.emit("drift:2")
    post.courier.deliver()
    assert post.statuses() == [(made["endpointId"], "disabled")]
    assert post.deliveries() == [("done", "gone", 1, 410), ("new", None, 0, None)]
    post.ledger.clock.advance(seconds=10)
    assert post.courier.deliver() == 0
    assert post.ledger.rows(
        "SELECT actor_type, action FROM admin_audit_log WHERE action <> 'webhook_create'"
    ) == [("system", "webhook_disabled")]
    with post.ledger.database.transaction() as tx:
        endpoints.change(tx, OPERATOR, made["endpointId"], Wanted(is_active=True))
    assert post.courier.deliver() == 1, "what waited goes on"
    assert len(post.receiver.requests) == 2


def test_days_of_failures_disable_the_endpoint_and_a_success_begins_anew(post: Post) -> None:
    made = post.endpoint()
    post.receiver.replies = [answer(500), OK, answer(500), answer(500)]
    for number in range(4):
        post.emit(f"drift:{number}")
        post.ledger.sql(
            "UPDATE notification_deliveries SET state = 'done' WHERE attempts > 0 AND state = 'new'"
        )
        assert post.statuses() == [(made["endpointId"], "active")]
        assert post.courier.deliver() == 1
        post.ledger.clock.advance(seconds=DISABLE_AFTER_SECONDS)
    assert post.statuses() == [(made["endpointId"], "disabled")]


def test_both_secrets_sign_during_a_rotation_of_the_environment(post: Post) -> None:
    made = post.endpoint()
    new = Keys("another-" + "x" * 32, KEYS.current)
    post.emit()
    post.courier_with(new).deliver()
    [request] = post.receiver.requests
    assert verified(request, made["secret"])
    assert verified(request, new.secret(made["endpointId"], 1))
    assert not is_signed_with(request, new.secret(made["endpointId"], 2))


def test_without_a_secret_nothing_is_tried_and_nothing_is_lost(post: Post) -> None:
    post.endpoint()
    off = post.courier_with(Keys(""))
    assert off.deliver() == 0
    post.emit()
    with pytest.raises(Unavailable) as refused:
        off.deliver()
    assert refused.value.code == "webhooks_not_configured"
    assert post.deliveries() == [("new", None, 0, None)]
    assert post.courier.deliver() == 1
    assert post.deliveries() == [("done", "delivered", 1, 204)]


def test_an_endpoints_earlier_secret_signs_for_a_day_after_a_new_one(post: Post) -> None:
    made = post.endpoint()
    with post.ledger.database.transaction() as tx:
        renewed = endpoints.rotate_secret(tx, OPERATOR, KEYS, made["endpointId"])
    assert renewed["secret"] != made["secret"]
    for number in range(2):
        post.emit(f"drift:{number}")
        post.courier.deliver()
        request = post.receiver.requests[-1]
        assert is_signed_with(request, renewed["secret"])
        assert is_signed_with(request, made["secret"]) == (number == 0)
        post.ledger.clock.advance(seconds=OVERLAP_SECONDS)


def test_an_operator_has_a_delivery_made_again_and_removal_cancels_the_rest(post: Post) -> None:
    made = post.endpoint()
    post.emit()
    post.courier.deliver()
    with post.ledger.database.reading() as tx:
        [shown] = deliveries.list_deliveries(tx, made["endpointId"], limit=10)["deliveries"]
    assert (shown["status"], shown["data"]) == ("delivered", {"name": "drift"})
    with post.ledger.database.transaction() as tx:
        again = deliveries.retry(tx, OPERATOR, shown["deliveryId"])
    assert (again["status"], again["tries"]) == ("waiting", 0)
    with post.ledger.database.transaction() as tx:
        removed = endpoints.remove(tx, OPERATOR, made["endpointId"])
    assert removed["cancelled"] == 1
    assert post.courier.deliver() == 0
    with pytest.raises(Conflict), post.ledger.database.transaction() as tx:
        deliveries.retry(tx, OPERATOR, shown["deliveryId"])


def test_a_test_reaches_one_endpoint_whatever_it_subscribed_to(post: Post) -> None:
    made = post.endpoint("/one", "account.refunded")
    post.endpoint("/other")
    with post.ledger.database.transaction() as tx:
        endpoints.send_test(tx, OPERATOR, made["endpointId"])
    post.courier.deliver()
    [request] = post.receiver.requests
    assert verified(request, made["secret"])["type"] == "webhook.test"
    assert (request.path, data_of(request)["sentBy"]) == ("/one", "ops")


def test_two_couriers_deliver_everything_once(post: Post) -> None:
    post.endpoint()
    for number in range(25):
        post.emit(f"drift:{number}")
    couriers = [post.courier, post.courier_with(KEYS)]
    while sum(courier.deliver() for courier in couriers):
        pass
    ids = [request.headers["webhook-id"] for request in post.receiver.requests]
    assert (len(ids), len(set(ids))) == (25, 25)
