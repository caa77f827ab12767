"""The dead-letter queue as operators work it: by admin API and command (behaviours 113, 181)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from shared.clock import add_seconds
from shared.errors import Conflict, NotFound
from shared.operations import dead_letters, dlq
from shared.operations.audit import Actor
from shared.payments import intake
from tests import command
from tests.harness import service_environment
from tests.ledger import Ledger
from tests.till import M, Payment, Till

OPERATOR = Actor("operator", "ops")


@pytest.fixture
def till(ledger: Ledger) -> Iterator[Till]:
    with capture_logs():
        yield Till(ledger)


def letter_id(till: Till) -> str:
    [[found]] = till.ledger.rows("SELECT id FROM billing_dlq")
    return str(found)


def strand(till: Till) -> Payment:
    """Let a finished notice come for a payment whose row is not there yet."""
    payment = replace(till.payment(), id="moved")
    till.ledger.sql("UPDATE crypto_payments SET provider_payment_id = 'x', order_id = 'x'")
    till.told(payment, "finished")
    assert till.letters() == [("webhook", "pending", 0)]
    return payment


def mend(till: Till, payment: Payment) -> None:
    till.ledger.sql(
        "UPDATE crypto_payments SET provider_payment_id = :number WHERE provider_payment_id = 'x'",
        number=payment.number,
    )


def test_a_retry_credits_what_can_be_credited_now_and_only_once(till: Till) -> None:
    payment = strand(till)
    mend(till, payment)
    told = dead_letters.retry(till.intake, OPERATOR, letter_id(till))
    assert told["status"] == "completed"
    assert till.ledger.balance(payment.account) == (25 * M, 0, 0)
    with pytest.raises(Conflict) as refused:
        dead_letters.retry(till.intake, OPERATOR, letter_id(till))
    assert refused.value.code == "not_retryable"
    audited = till.ledger.rows("SELECT action, actor_id FROM admin_audit_log ORDER BY id")
    assert audited == [("dlq_retry", "ops"), ("dlq_retry_refused", "ops")]


def test_a_rehearsal_shows_the_ledgers_difference_and_changes_nothing(till: Till) -> None:
    payment = strand(till)
    before = till.ledger.everything(), till.letters()
    [event] = dead_letters.rehearse(till.intake, letter_id(till))["events"]
    assert (event["outcome"], event["ledger"]) == ("unknown_payment", [])
    mend(till, payment)
    [event] = dead_letters.rehearse(till.intake, letter_id(till))["events"]
    [mint] = event["ledger"]
    assert (mint["operation"], mint["amountMicro"]) == ("mint", "25000000")
    assert mint["balance"]["availableMicro"] == "25000000"
    assert (till.ledger.everything(), till.letters()) == before
    assert till.events(payment)[0].state == "parked"


def test_what_fails_again_waits_longer_and_then_for_a_person(till: Till) -> None:
    """Behaviour 114: 60, 300, 1800 s with a tenth of jitter, then manual_review."""
    strand(till)
    for delay in dlq.DELAYS_SECONDS:
        due = till.letter().next_retry_at
        assert due is not None
        seconds = (due - till.ledger.clock()).total_seconds()
        assert 0.9 * delay <= seconds <= 1.1 * delay
        till.ledger.clock.now = add_seconds(due, 1)
        assert intake.retry_parked(till.ledger.database) == 1
        assert till.drain() == 1
    assert till.letters() == [("webhook", "manual_review", 3)]
    assert till.letter().next_retry_at is None


def test_a_row_whose_worker_died_is_due_again_after_its_lease(till: Till) -> None:
    """Behaviour 181: two workers run an item once; a stale one is reclaimed."""
    strand(till)
    till.ledger.clock.advance(seconds=100)
    assert intake.retry_parked(till.ledger.database) == 1
    assert intake.retry_parked(till.ledger.database) == 0
    till.ledger.clock.advance(seconds=dlq.LEASE_SECONDS + 1)
    assert intake.retry_parked(till.ledger.database) == 1


def test_a_person_closes_what_no_retry_can(till: Till) -> None:
    payment = till.payment()
    till.told(payment, "under_review")
    assert till.letters() == [("webhook", "manual_review", 0)]
    database = till.ledger.database
    closed = dead_letters.resolve(database, OPERATOR, letter_id(till), reason="It was a test.")
    assert closed["status"] == "completed"
    with pytest.raises(Conflict) as refused:
        dead_letters.resolve(database, OPERATOR, letter_id(till), reason="Again.")
    assert refused.value.code == "already_resolved"
    details = till.ledger.rows("SELECT action, details FROM admin_audit_log ORDER BY id")
    assert [row[0] for row in details] == ["dlq_resolve", "dlq_resolve_refused"]
    assert json.loads(details[0][1])["reason"] == "It was a test."
    assert json.loads(details[1][1])["refusedBecause"] == "already_resolved"
    with till.ledger.database.reading() as tx, pytest.raises(NotFound):
        dead_letters.show_letter(tx, "dlq_none")


def test_a_deposit_that_a_retry_cannot_settle_stays_where_people_look(till: Till) -> None:
    payment = till.payment()
    till.told(payment, "partially_paid")
    assert till.letters() == [("deposit", "manual_review", 0)]
    assert dead_letters.retry(till.intake, OPERATOR, letter_id(till))["status"] == "manual_review"
    till.told(payment, "finished", actually_paid="0.002")
    assert till.letters() == [("deposit", "completed", 0)]


def arrakis(till: Till, *arguments: str) -> tuple[int, str]:
    """Run the operators' command on this ledger; return its exit status and what it printed."""
    environment = service_environment(till.ledger.url, command.NO_REDIS)
    code, output, complaint = command.arrakis(*arguments, **environment)
    return code, output or complaint


def test_the_command_line_lists_rehearses_retries_and_resolves(till: Till) -> None:
    payment = strand(till)
    till.ledger.sql("UPDATE webhook_events SET due_at = received_at")
    name = letter_id(till)
    status, said = arrakis(till, "dlq", "list")
    assert (status, name in said, "1 pending" in said) == (0, True, True)
    status, said = arrakis(till, "dlq", "retry", name, "--dry-run")
    assert (status, "Nothing was changed." in said) == (0, True)
    mend(till, payment)
    status, said = arrakis(till, "dlq", "retry", name, "--json")
    assert (status, json.loads(said.splitlines()[-1])["status"]) == (0, "completed")
    assert till.ledger.balance(payment.account)[0] == 25 * M
    assert arrakis(till, "dlq", "resolve", name, "--reason", "done", "--yes")[0] == 1
    assert arrakis(till, "dlq", "resolve", name, "--reason", "done")[0] == 2
    assert arrakis(till, "dlq", "resolve", name)[0] == 2
    assert arrakis(till, "dlq", "show", "dlq_none")[0] == 1


def test_the_admin_api_does_the_same_with_scopes(till: Till, api_of: Any) -> None:
    payment = strand(till)
    api, name = api_of(till.ledger.url), letter_id(till)
    reader = api.admin(scopes=["billing:read"])
    path = f"/admin/billing/dlq/{name}"
    listed = api.get("/admin/billing/dlq?status=pending", headers=reader).json()
    assert [one["id"] for one in listed["deadLetters"]] == [name]
    assert listed["counts"] == {"pending": 1}
    assert api.get("/admin/billing/dlq?status=odd", headers=reader).status_code == 400
    assert api.get(path, headers=reader).json()["subjectId"]
    assert api.post(f"{path}/retry", headers=reader).status_code == 403
    mend(till, payment)
    rehearsed = api.post(f"{path}/retry?dryRun=true", headers=api.admin())
    assert rehearsed.json()["events"][0]["ledger"][0]["operation"] == "mint"
    assert api.post(f"{path}/retry", headers=api.admin()).json()["status"] == "completed"
    assert api.post(f"{path}/resolve", {"reason": ""}, headers=api.admin()).status_code == 400
    again = api.post(f"{path}/resolve", {"reason": "done"}, headers=api.admin())
    assert (again.status_code, again.json()["code"]) == (409, "already_resolved")
    with till.ledger.database.reading() as tx:
        assert tx.scalar(text("SELECT COUNT(*) FROM credit_lots")) == 1
