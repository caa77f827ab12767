"""Notices that come together share a transaction, and each is answered as if it had come alone."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text
from structlog.testing import capture_logs

from shared.database import Database, Tx
from shared.payments.inbox import Inbox, store_notice
from tests.harness import wait_until
from tests.ledger import Ledger
from tests.receiver import own_payment_id

PROVIDER = "nowpayments"


def a_notice(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "provider": PROVIDER,
        "notice": {"payment_id": str(number), "payment_status": "waiting"},
        "raw_body": str(number).encode(),
        **fields,
    }


@contextmanager
def one_batch(
    ledger: Ledger, inbox: Inbox, notices: list[dict[str, Any]]
) -> Iterator[list[Future[tuple[str | None, str | None]]]]:
    """Let *notices* queue behind one that waits for another process, so that they share a batch.

    Yields their answers, which are there after the block.
    """
    elsewhere, first = Database(ledger.url), a_notice(own_payment_id())
    with ThreadPoolExecutor(len(notices) + 1) as threads:
        with elsewhere.transaction() as tx:
            store_notice(tx, **first)
            leading = threads.submit(inbox.store, **first)
            wait_until("a leader", lambda: inbox._batches._is_busy)
            answers = [threads.submit(inbox.store, **notice) for notice in notices]
            wait_until("a queue", lambda: len(inbox._batches._waiting) == len(notices))
            yield answers
        assert leading.result() == (None, "waiting")
    elsewhere.dispose()


def stored(ledger: Ledger) -> dict[str, tuple[str, bytes]]:
    found = ledger.rows("SELECT id, provider_payment_id, raw_body FROM webhook_events")
    return {id_: (number, bytes(raw_body)) for id_, number, raw_body in found}


def test_notices_that_wait_are_stored_in_one_transaction_and_repeats_among_them_once(
    ledger: Ledger,
) -> None:
    committed: list[Tx] = []
    database = Database(ledger.url, after_commit=[committed.append])
    inbox, numbers = Inbox(database), [own_payment_id() for _ in range(10)]
    with one_batch(ledger, inbox, [a_notice(n) for n in numbers * 3]) as answers:
        pass
    # The first one's, which was a repeat and so had nothing to tell the workers, and the batch's.
    assert [len(tx.messages) for tx in committed] == [0, 1]
    told = [answer.result() for answer in answers]
    ids = [event_id for event_id, _ in told if event_id is not None]
    assert {stored(ledger)[id_] for id_ in ids} == {(str(n), str(n).encode()) for n in numbers}
    assert len(ids) == len(numbers)
    assert Counter(status for _, status in told) == {"waiting": 30}
    assert {inbox.store(**a_notice(n)) for n in numbers} == {(None, "waiting")}
    database.dispose()


def test_a_notice_that_cannot_be_stored_hurts_no_other_of_its_batch(ledger: Ledger) -> None:
    inbox, numbers = Inbox(ledger.database), [own_payment_id() for _ in range(5)]
    notices = [a_notice(n) for n in numbers]
    notices.insert(2, a_notice(own_payment_id(), provider="\ud800"))  # not a text for a database
    with capture_logs() as logs, one_batch(ledger, inbox, notices) as answers:
        pass
    assert [one["event"] for one in logs if one["event"] != "notice_stored"] == ["batch_failed"]
    assert isinstance(answers.pop(2).exception(), UnicodeEncodeError)
    kept = stored(ledger)
    assert [kept[str(answer.result()[0])][0] for answer in answers] == [str(n) for n in numbers]


def test_two_receivers_that_get_the_same_notices_in_other_orders_store_each_once(
    ledger: Ledger,
) -> None:
    """Rows are written in the order of their keys, so neither waits for the other in a circle."""
    elsewhere = Database(ledger.url)
    inboxes = [Inbox(ledger.database), Inbox(elsewhere)]
    numbers = [own_payment_id() for _ in range(60)]
    orders = [numbers, numbers[::-1]]
    with capture_logs() as logs, ThreadPoolExecutor(24) as threads:
        answers = [
            threads.submit(inboxes[which].store, **a_notice(orders[which][place]))
            for place in range(60)
            for which in range(2)
        ]
        ids = [answer.result()[0] for answer in answers]
    elsewhere.dispose()
    assert logs == []
    assert sum(id_ is not None for id_ in ids) == 60
    [(count,)] = ledger.rows("SELECT COUNT(DISTINCT dedupe_key) FROM webhook_events")
    assert count == 60


def test_an_answer_means_that_the_notice_is_committed(ledger: Ledger) -> None:
    inbox, found = Inbox(ledger.database), text("SELECT COUNT(*) FROM webhook_events WHERE id = :i")

    def deliver(number: int) -> int:
        event_id, _ = inbox.store(**a_notice(number))
        with ledger.database.reading() as tx:
            return int(tx.scalar(found, i=event_id))

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(deliver, range(1, 65))) == {1}
