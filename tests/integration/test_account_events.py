"""Account events by their real causes: each is told once, with its cause or not at all."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.alerts import evaluating
from shared.clock import add_seconds, to_wire
from shared.notifications.outbox import TEST_TYPE, EventType
from shared.notifications.watching import AccountWatch
from shared.operations import dlq, payments
from tests.harness import ROOT
from tests.ledger import Ledger
from tests.scripted_provider import ScriptedProvider, answer, scripted
from tests.till import M, Till
from tests.webhooks_out import OPERATOR, Post, data_of, verified


@pytest.fixture(scope="module")
def receiver() -> Iterator[ScriptedProvider]:
    with scripted(lambda _: answer(200)) as running:
        yield running


@pytest.fixture
def post(ledger: Ledger, receiver: ScriptedProvider) -> Iterator[Post]:
    receiver.requests.clear()
    with capture_logs():
        yield Post(ledger, receiver)


@pytest.fixture
def till(post: Post) -> Till:
    return Till(post.ledger)


def documented() -> dict[str, dict[str, Any]]:
    """Return the example of each event in the documentation, by type."""
    text = (ROOT / "docs" / "webhooks.md").read_text()
    bodies = [json.loads(line) for line in text.splitlines() if line.startswith('{"type"')]
    return {body["type"]: body for body in bodies}


def told(post: Post, secret: str) -> list[tuple[str, dict[str, Any]]]:
    """Deliver what is due; return the type and data of all that has come, verified.

    Each body has the form that the documentation shows.
    """
    while post.courier.deliver():
        pass
    found = [verified(request, secret) for request in post.receiver.requests]
    examples = documented()
    for body in found:
        example = examples[body["type"]]
        assert list(body) == list(example)
        assert list(body["data"]) == list(example["data"])
    return [(one["type"], one["data"]) for one in found]


def looked(watch: AccountWatch) -> None:
    while watch.look():
        pass


def test_every_event_has_an_example() -> None:
    assert documented().keys() == {*EventType, TEST_TYPE} - {EventType.ALERT_CLEARED}


def test_the_example_of_an_alert_is_what_alerts_tell(post: Post) -> None:
    secret = post.endpoint("/hook", "alert.fired")["secret"]
    with post.ledger.database.transaction() as tx:
        dlq.enter(tx, "webhook", subject_id="x", payload={}, error="x", needs_person=True)
    evaluating.evaluate(post.ledger.database)
    assert "dlq_manual_review" in [data["name"] for _, data in told(post, secret)]


def test_a_payment_that_is_credited_is_told_of_once(post: Post, till: Till) -> None:
    secret = post.endpoint()["secret"]
    payment = till.paid()
    till.replay(payment)
    [(kind, data)] = told(post, secret)
    assert kind == "account.deposit_credited"
    assert data == {
        "accountId": payment.account,
        "lotId": till.shown(payment)["lotId"],
        "amountMicro": "25000000",
        "source": "nowpayments",
        "paymentId": payment.id,
    }


def test_a_mint_for_a_payment_is_told_of_once_though_its_notice_comes_later(
    post: Post, till: Till
) -> None:
    secret = post.endpoint()["secret"]
    payment = till.payment()
    till.admin_mint(payment, 25 * M)
    till.told(payment, "finished")
    [(kind, data)] = told(post, secret)
    assert (kind, data["source"], data["paymentId"]) == (
        "account.deposit_credited",
        "admin",
        payment.id,
    )


def test_a_refund_by_notice_is_told_of_with_what_became_of_the_lot(post: Post, till: Till) -> None:
    secret = post.endpoint("/hook", "account.refunded")["secret"]
    payment = till.paid()
    till.ledger.finalize(till.ledger.reserve(payment.account, 5 * M), 5 * M)
    till.told(payment, "refunded")
    [(kind, data)] = told(post, secret)
    assert kind == "account.refunded"
    assert data == {
        "accountId": payment.account,
        "paymentId": payment.id,
        "lotId": till.shown(payment)["lotId"],
        "clawedBackMicro": "20000000",
        "debtMicro": "5000000",
        "heldMicro": "0",
    }


def test_a_refund_by_an_operator_is_told_of_once(post: Post, till: Till) -> None:
    secret = post.endpoint("/hook", "account.refunded")["secret"]
    payment = till.paid()
    for _ in range(2):
        payments.refund(
            till.ledger.database, till.ledger.terms, OPERATOR, payment.id, "asked for it"
        )
    assert [kind for kind, _ in told(post, secret)] == ["account.refunded"]


def test_an_account_is_low_once_for_each_crossing(post: Post) -> None:
    secret = post.endpoint("/hook", "account.low_balance")["secret"]
    ledger, watch = post.ledger, AccountWatch(post.ledger.database)
    ledger.configure(low_balance_threshold_micro=str(5 * M))
    account = ledger.funded(6 * M)
    ledger.funded(50 * M)
    looked(watch)
    assert told(post, secret) == [], "both have enough"
    ledger.finalize(ledger.reserve(account, 2 * M), 2 * M)
    looked(watch)
    looked(AccountWatch(ledger.database))
    low = {"accountId": account, "availableMicro": "4000000", "thresholdMicro": "5000000"}
    assert told(post, secret) == [("account.low_balance", low)]
    ledger.mint(account, 10 * M)
    looked(watch)
    ledger.finalize(ledger.reserve(account, 10 * M), 10 * M)
    looked(watch)
    assert told(post, secret) == [("account.low_balance", low)] * 2


def test_nobody_is_low_while_the_threshold_is_0_or_nobody_asks(post: Post) -> None:
    ledger, watch = post.ledger, AccountWatch(post.ledger.database)
    ledger.funded(1)
    post.endpoint("/hook", "account.low_balance")
    looked(watch)
    ledger.configure(low_balance_threshold_micro=str(5 * M))
    ledger.sql("UPDATE notification_endpoints SET status = 'disabled'")
    looked(watch)
    assert ledger.rows("SELECT * FROM notification_balance_watch") == []
    assert ledger.rows("SELECT * FROM notification_events") == []


def test_a_lot_that_ends_soon_with_something_left_is_told_of_once(post: Post) -> None:
    secret = post.endpoint("/hook", "account.grant_expiring")["secret"]
    ledger, watch = post.ledger, AccountWatch(post.ledger.database)
    ledger.configure(expiry_notice_hours="24")
    soon = add_seconds(ledger.clock(), 23 * 3600)
    account = ledger.funded(3 * M, expires_at=soon)
    later = ledger.funded(3 * M, expires_at=add_seconds(soon, 7200))
    spent = ledger.funded(3 * M, expires_at=soon)
    ledger.finalize(ledger.reserve(spent, 3 * M), 3 * M)
    [[lot]] = ledger.rows("SELECT id FROM credit_lots WHERE account_id = :id", id=account)
    for _ in range(2):
        looked(watch)
    [(kind, data)] = told(post, secret)
    assert kind == "account.grant_expiring"
    assert data == {
        "accountId": account,
        "lotId": lot,
        "poolId": "general",
        "sourceType": "grant",
        "availableMicro": "3000000",
        "expiresAt": to_wire(soon),
    }
    ledger.clock.advance(hours=2)
    looked(watch)
    post.courier.deliver()
    assert [data_of(one)["accountId"] for one in post.receiver.requests] == [account, later]


def test_every_page_of_accounts_is_looked_at(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.notifications.watching._PAGE", 2)
    post.endpoint("/hook", "account.low_balance")
    post.ledger.configure(low_balance_threshold_micro=str(5 * M))
    accounts = {post.ledger.funded(M) for _ in range(5)}
    looked(AccountWatch(post.ledger.database))
    found = post.ledger.rows("SELECT account_id FROM notification_balance_watch WHERE is_low")
    assert {row[0] for row in found} == accounts
