"""Three ways: what NOWPayments shows, what it told us, what we have booked (runbook 6, W55)."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.payments import inbox
from shared.reconciliation import provider as three_way
from tests.ledger import Ledger
from tests.reconciliation import Reconciling
from tests.scripted_provider import (
    Client,
    Request,
    ScriptedProvider,
    answer,
    scripted,
    shown,
)
from tests.till import M, Payment, Till

BEFORE, JUST_NOW = "2026-03-15T10:00:00.000Z", "2026-03-15T14:25:00.000Z"


class Books:
    """A till, a provider that shows what a test says, and the reconciliation between them."""

    def __init__(self, ledger: Ledger, provider: ScriptedProvider) -> None:
        self.till = Till(ledger)
        self.provider = provider
        self.payments: dict[str, dict[str, Any] | None] = {}
        provider.usual = self.reply
        self.desk = Reconciling(ledger)
        self.sign_in(email="", password="")

    def sign_in(self, **settings: str) -> None:
        client = Client(self.provider.url, **settings)
        self.desk.desk = replace(self.desk.desk, provider=client.nowpayments)

    def reply(self, request: Request) -> Any:
        known = self.payments.get(request.path.rsplit("/", 1)[1])
        return answer(404, {"message": "not found"}) if known is None else answer(200, known)

    def show(self, payment: Payment, status: str, **more: Any) -> None:
        """Let the provider show *payment* in *status*."""
        facts = {"payment_status": status, "created_at": BEFORE, "updated_at": BEFORE, **more}
        self.payments[payment.number] = shown(int(payment.number), **facts)

    def compare(self, **more: Any) -> dict[str, Any]:
        return self.desk.check("provider_three_way", **more)

    def found(self) -> list[tuple[str, str]]:
        return [(one["kind"], one["severity"]) for one in self.compare()["findings"]]


@pytest.fixture
def books(ledger: Ledger) -> Iterator[Books]:
    with capture_logs(), scripted(lambda _: answer(404)) as provider:
        made = Books(ledger, provider)
        yield made
        made.desk.database.dispose()


def polled(books: Books) -> Payment:
    """Return a payment that was credited by our own reading, for its notice never came."""
    made = books.till.payment()
    notice = {"payment_id": made.number, "payment_status": "finished", "order_id": made.id}
    with books.till.ledger.database.transaction() as tx:
        inbox.store_notice(
            tx,
            provider="nowpayments",
            notice=notice,
            raw_body=json.dumps(notice).encode(),
            source="poll",
        )
    assert books.till.drain() == 1
    return made


def stored(books: Books) -> Payment:
    """Return a payment whose notice lies there and is not worked off."""
    made = books.till.payment()
    books.till.tell(made, "finished")
    return made


def by_hand(books: Books) -> Payment:
    made = books.till.payment()
    books.till.admin_mint(made, 5 * M).unwrap()
    return made


def waiting(books: Books) -> Payment:
    return books.till.payment()


def paid(books: Books) -> Payment:
    return books.till.paid()


def reviewed(books: Books) -> Payment:
    return books.till.payment(status="manual_review", review_reason="No rule says.")


DOUBLE = {"pay_amount": "0.0004", "actually_paid": "0.0008"}
IN_USD = {"outcome_amount": "50", "outcome_currency": "usd"}
CASES: dict[str, tuple[Callable[[Books], Payment], str, dict[str, Any], Any]] = {
    "they agree": (paid, "finished", {}, None),
    "both wait": (waiting, "waiting", {}, None),
    "no notice came": (waiting, "confirming", {}, ("missed_webhook", "warn")),
    "no notice of the money came": (waiting, "finished", {}, ("missed_webhook", "warn")),
    "it may still come": (waiting, "finished", {"updated_at": JUST_NOW}, None),
    "we have read it ourselves": (polled, "finished", {}, ("missed_webhook", "info")),
    "a refund was missed": (paid, "refunded", {}, ("missed_webhook", "warn")),
    "a notice lies there": (stored, "finished", {}, ("not_credited", "error")),
    "a person must decide": (reviewed, "finished", {}, ("not_credited", "warn")),
    "credited, not paid": (paid, "waiting", {}, ("credited_but_not_finished", "error")),
    "credited by hand": (by_hand, "waiting", {}, None),
    "by hand, then paid": (by_hand, "finished", {}, ("missed_webhook", "warn")),
    "another price": (paid, "finished", {"price_amount": 26}, ("amount_differs", "error")),
    "more has arrived": (paid, "finished", DOUBLE | IN_USD, ("amount_differs", "warn")),
}


@pytest.mark.parametrize("name", CASES)
def test_each_difference_has_its_class(books: Books, name: str) -> None:
    make, status, facts, expected = CASES[name]
    payment = make(books)
    books.show(payment, status, **facts)
    before = books.till.ledger.everything()
    check = books.compare()
    assert [(one["kind"], one["severity"]) for one in check["findings"]] == (
        [] if expected is None else [expected]
    )
    assert check["passed"] == (expected is None or expected[1] == "info")
    assert check["counts"]["paymentsCompared"] == 1
    for one in check["findings"]:
        assert one["facts"]["isHealed"] == (one["severity"] == "info")
        assert one["place"] == payment.id
        assert "{id}" not in one["proposal"]
    assert books.till.ledger.everything() == before


def test_a_payment_that_the_provider_does_not_know_is_worse_when_it_was_credited(
    books: Books,
) -> None:
    books.till.payment()
    books.till.paid()
    books.till.payment(provider_payment_id="refused-cp_1", status="failed")
    assert sorted(books.found()) == [
        ("unknown_to_provider", "error"),
        ("unknown_to_provider", "warn"),
    ]


def test_what_the_provider_lists_and_nobody_here_knows_is_told(books: Books) -> None:
    known = books.till.payment()
    coming = books.till.payment(provider_payment_id=None, status="creating")
    books.show(known, "waiting")
    books.sign_in(email="merchant@example.com", password="a-password")
    rows = [
        shown(1, order_id=known.id, payment_status="finished", created_at=BEFORE),
        shown(2, order_id="else", payment_status="expired", created_at=BEFORE),
        shown(3, order_id=coming.id, created_at=BEFORE),
        shown(4, order_id="new", created_at=JUST_NOW),
        shown(int(known.number), created_at=BEFORE),
    ]
    page = {"limit": 100, "pagesCount": 2, "total": 5}
    books.provider.replies = [
        answer(200, {"token": "t"}),
        answer(200, {"data": rows[:3], "page": 0, **page}),
        answer(200, {"data": rows[3:], "page": 1, **page}),
    ]
    check = books.compare()
    assert [(one["kind"], one["severity"], one["place"]) for one in check["findings"]] == [
        ("unknown_to_us", "error", "1"),
        ("unknown_to_us", "info", "2"),
    ]
    assert (check["counts"], check["passed"]) == (
        {"paymentsListed": 5, "paymentsCompared": 1},
        False,
    )
    assert [one.query.get("page") for one in books.provider.requests[1:3]] == ["0", "1"]


def test_a_provider_that_cannot_be_asked_is_told_and_neither_failed_nor_passed(
    books: Books,
) -> None:
    books.till.payment()
    check = books.compare(asks_provider=False)
    assert (check["passed"], check["isAway"]) == (None, False)
    assert books.provider.requests == []
    books.provider.usual = lambda _: answer(503)
    check = books.compare()
    assert (check["passed"], check["isAway"]) == (None, True)
    books.sign_in(api_key="")
    check = books.compare()
    assert (check["passed"], check["isAway"]) == (None, False)
    assert "NOWPAYMENTS_API_KEY is not set" in check["details"]


def test_only_what_changed_lately_is_read_in_bounded_turns(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.till.payment()
    books.till.ledger.clock.advance(hours=7 * 24 + 1)
    recent = [books.till.payment() for _ in range(23)]
    for payment in recent:
        books.show(payment, "waiting")
    check = books.compare()
    assert (check["passed"], check["counts"]["paymentsCompared"]) == (True, 23)
    assert len(set(books.provider.paths())) == len(books.provider.paths()) == 23
    assert books.compare(days=8)["counts"]["paymentsCompared"] == 24
    monkeypatch.setattr(three_way, "_READS_MAX", 15)
    check = books.compare()
    assert (check["passed"], check["counts"]["paymentsCompared"]) == (None, 15)
    assert "Only the first 15" in check["details"]
