"""Intake: stored notices move payments through their states and credit them, many at a time.

One transaction carries the payment's row, its credit, and the notice's end, fenced by the lease
on the notice: so a notice can be delivered, claimed or crash twice and still credits once.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import or_, select, update

from shared import jobs
from shared.database import (
    Database,
    DatabaseBusy,
    Tx,
    insert_rows,
    member_of,
    patiently,
    update_rows,
)
from shared.errors import Invalid, Unavailable
from shared.ids import new_id
from shared.ledger.book import post
from shared.ledger.commands import Mint, Outcome, Refund
from shared.ledger.terms import Terms, TermsCache
from shared.models.payments import CryptoPayment, WebhookEvent
from shared.money import CoinAmount, parse_coin
from shared.observability import WEBHOOKS
from shared.operations import dlq
from shared.payments import crediting
from shared.payments.states import Move, decide

log = structlog.get_logger()
BATCH = 100
_ATTEMPTS_MAX = 8
_ALONE_LOCK_TIMEOUT_MS = 250  # the batch has waited already; now a locked account costs little
_TEXT_MAX = 255
_TABLE = CryptoPayment.__table__


@dataclass
class Payment:
    """A payment's row as this batch changes it."""

    row: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)

    planned_lot_id: str | None = None

    def __getitem__(self, column: str) -> Any:
        return self.changes.get(column, self.row[column])

    @property
    def credit_lot_id(self) -> str | None:
        """The lot that this payment made, or is about to make in this batch."""
        return self["lot_id"] or self.planned_lot_id


@dataclass
class Step:
    """What one notice leads to."""

    event: Any
    outcome: str
    payment: Payment | None = None
    command: Mint | Refund | None = None
    dead_letter: tuple[str, str] | None = None
    needs_person: bool = True


def drain(database: Database, terms: TermsCache) -> int:
    """Work off one batch of due notices; return how many were taken."""
    held = jobs.claim(database, WebhookEvent, limit=BATCH)
    if not held.ids:
        return 0
    try:
        _work(database, terms.current(), held, held.ids)
    except Unavailable as error:
        if not isinstance(error, DatabaseBusy) or database.is_sqlite:  # SQLite's lock is everyone's
            _give_back(database, held)
            raise
        _work_each(database, terms, held)
    except Exception:
        log.warning("intake_batch_failed", events=len(held.ids), exc_info=True)
        _work_each(database, terms, held)
    return len(held.ids)


def _work_each(database: Database, terms: TermsCache, held: jobs.Claim) -> None:
    for event_id in held.ids:
        _work_alone(database, terms.current(), held, event_id)


def _work_alone(database: Database, terms: Terms, held: jobs.Claim, event_id: str) -> None:
    try:
        _work(database, terms, held, [event_id], lock_timeout_ms=_ALONE_LOCK_TIMEOUT_MS)
    except Unavailable:
        _give_back(database, jobs.Claim(held.token, [event_id]))
    except Exception as error:
        log.exception("intake_failed", event_id=event_id)
        with database.transaction() as tx:
            for event in jobs.held_rows(tx, WebhookEvent, held, [event_id]):
                if event.attempts < _ATTEMPTS_MAX:
                    jobs.put_off(
                        tx, WebhookEvent, event.id, attempts=event.attempts, error=repr(error)
                    )
                else:
                    _park(tx, event, repr(error), needs_person=False)


def _give_back(database: Database, held: jobs.Claim) -> None:
    """Let notices wait for the database, uncounted; if it is away altogether the lease lapses."""
    with suppress(Unavailable), database.transaction() as tx:
        jobs.give_back(tx, WebhookEvent, held)


def _work(
    database: Database,
    terms: Terms,
    held: jobs.Claim,
    ids: list[str],
    *,
    lock_timeout_ms: int | None = None,
) -> None:
    def once() -> list[Step]:
        with database.transaction(lock_timeout_ms=lock_timeout_ms) as tx:
            events = jobs.held_rows(tx, WebhookEvent, held, ids)
            steps = _plan(tx, events)
            posting = [step for step in steps if step.command is not None]
            outcomes = post(tx, [s.command for s in posting if s.command], terms) if posting else []
            for step, outcome in zip(posting, outcomes, strict=True):
                _take_outcome(step, outcome)
            _save(tx, steps)
            return steps

    for step in patiently(once):
        WEBHOOKS.labels(step.event.provider, step.outcome).inc()
        log.info(
            "notice_processed",
            event_id=step.event.id,
            provider_payment_id=step.event.provider_payment_id,
            status=step.event.status,
            outcome=step.outcome,
        )


def _plan(tx: Tx, events: Sequence[Any]) -> list[Step]:
    notices = {event.id: json.loads(event.notice) for event in events}
    payments = _load_payments(tx, events, notices)
    steps = []
    for event in events:
        notice = notices[event.id]
        if event.provider_payment_id is None:
            steps.append(Step(event, "ignored"))  # a withdrawal or custody notice (protocols 1.6)
            continue
        payment = payments.get(event.provider_payment_id) or payments.get(_text(notice, "order_id"))
        parent_id = _text(notice, "parent_payment_id")
        if parent_id and (payment is None or payment["provider_payment_id"] == parent_id):
            payment = _repeated_deposit(tx, event, notice, payments.get(parent_id))
            if payment is not None:
                payments[event.provider_payment_id] = payment
        if payment is None:
            steps.append(
                Step(
                    event,
                    "unknown_payment",
                    dead_letter=("webhook", "No payment of ours has this id."),
                    needs_person=False,
                )
            )
            continue
        steps.append(_step(tx, event, notice, payment))
    return steps


def _load_payments(
    tx: Tx, events: Sequence[Any], notices: dict[str, dict[str, Any]]
) -> dict[str, Payment]:
    named = {event.provider_payment_id for event in events if event.provider_payment_id}
    orders = set()
    for notice in notices.values():
        named.add(_text(notice, "parent_payment_id"))
        orders.add(_text(notice, "order_id"))
    found: dict[str, Payment] = {}
    for row in tx.all(_PAYMENTS, ids=sorted(named - {""}), orders=sorted(orders - {""})):
        payment = Payment(row._asdict())
        if row.provider_payment_id is not None:
            found[row.provider_payment_id] = payment
        if row.order_id is not None:
            found.setdefault(row.order_id, payment)
    return found


def _step(tx: Tx, event: Any, notice: dict[str, Any], payment: Payment) -> Step:
    """Decide what *event* does to *payment*, and note the changes on it."""
    if payment["provider_payment_id"] is None:  # the notice was faster than the provider's answer
        payment.changes["provider_payment_id"] = event.provider_payment_id
    elif payment["provider_payment_id"] != event.provider_payment_id:
        reason = "The order is ours, but under another payment id."
        return Step(event, Move.REVIEW.value, payment, dead_letter=("webhook", reason))
    move = decide(payment["status"], event.status)
    if move is Move.REVIEW:
        reason = f"A notice of {event.status!r} reached a payment in {payment['status']!r}."
        payment.changes |= {"review_reason": reason, "updated_at": tx.now}
        return Step(event, move.value, payment, dead_letter=("webhook", reason))
    if move is not Move.APPLY:
        return Step(event, move.value, payment)
    payment.changes |= {
        "status": event.status,
        "actually_paid": _coin(notice, "actually_paid"),
        "outcome_amount": _coin(notice, "outcome_amount"),
        "outcome_currency": _text(notice, "outcome_currency") or None,
        "raw_payload": event.notice,
        "updated_at": tx.now,
    }
    step = Step(event, move.value, payment)
    if event.status == "finished":
        payment.changes |= {"finished_at": tx.now, "review_reason": None}
        _plan_credit(tx, step, payment)
    elif event.status == "partially_paid":
        # It may still be finished; until then a person decides what the part is worth.
        reason = "Less arrived than was asked for."
        payment.changes["review_reason"] = reason
        step.dead_letter = ("deposit", reason)
    elif event.status == "refunded" and payment.credit_lot_id is not None:
        step.command = Refund(
            account_id=payment["account_id"],
            lot_id=payment.credit_lot_id,
            payment_id=payment["id"],
            description=f"NOWPayments refunded payment {payment['provider_payment_id']}",
        )
    return step


def _plan_credit(tx: Tx, step: Step, payment: Payment) -> None:
    if payment.credit_lot_id is not None:
        step.outcome = "already_credited"
        return
    amount = crediting.credit_of(
        status="finished",
        price_amount=payment["price_amount"],
        price_currency=payment["price_currency"],
        parent_id=payment["parent_payment_id"],
    )
    if amount is None or payment["account_id"] is None:
        reason = "No account is known." if amount is not None else "No rule says what it is worth."
        _review(step, payment, reason)
        return
    payment.planned_lot_id = new_id(tx.now)
    step.command = Mint(
        account_id=payment["account_id"],
        lot_id=payment.planned_lot_id,
        amount_micro=amount,
        source_type="deposit",
        source_id=crediting.source_id("nowpayments", payment["provider_payment_id"]),
        description=f"NOWPayments payment {payment['provider_payment_id']}",
        is_received=True,
    )


def _take_outcome(step: Step, outcome: Outcome) -> None:
    """Note the credit on the payment; what is refused is kept for a person, never dropped."""
    assert step.command is not None
    assert step.payment is not None
    if outcome.error is not None and outcome.error.code == "already_credited":
        # An operator minted for this payment before its notice came (runbook 6).
        step.payment.changes |= {
            "lot_id": outcome.error.details["lotId"],
            "amount_usd_micro": int(outcome.error.details["amountMicro"]),
        }
        step.outcome = "already_credited"
    elif outcome.error is not None and isinstance(step.command, Refund):
        step.dead_letter = ("refund", outcome.error.message)
    elif outcome.error is not None:
        _review(step, step.payment, outcome.error.message)
    elif outcome.answer is not None and isinstance(step.command, Mint):
        step.payment.changes |= {
            "lot_id": outcome.answer["lotId"],
            "amount_usd_micro": step.command.amount_micro,
        }


def _review(step: Step, payment: Payment, reason: str) -> None:
    payment.changes |= {"status": "manual_review", "review_reason": reason}
    step.outcome = Move.REVIEW.value
    step.dead_letter = ("deposit", reason)


def _repeated_deposit(
    tx: Tx, event: Any, notice: dict[str, Any], parent: Payment | None
) -> Payment | None:
    """Keep a second deposit to a payment's address as a payment of its own (protocols 1.6)."""
    if parent is None:
        return None
    row = dict.fromkeys((column.name for column in _TABLE.c), None) | {
        "id": f"cp_{new_id(tx.now)}",
        "provider": event.provider,
        "provider_payment_id": event.provider_payment_id,
        "parent_payment_id": parent["provider_payment_id"],
        "account_id": parent["account_id"],
        "community_id": parent["community_id"],
        "price_amount": parent["price_amount"],
        "price_currency": parent["price_currency"],
        "pay_currency": _text(notice, "pay_currency") or None,
        "pay_address": _text(notice, "pay_address") or None,
        "status": "waiting",
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, _TABLE, [row])
    return Payment(row)


def _save(tx: Tx, steps: Sequence[Step]) -> None:
    changed = {id(s.payment): s.payment for s in steps if s.payment and s.payment.changes}
    for payment in changed.values():  # payments differ in what changes, so each is its own write
        update_rows(tx, _TABLE, [{"id": payment.row["id"], **payment.changes}])
    for step in steps:
        if step.dead_letter is not None:
            operation, reason = step.dead_letter
            if operation == "webhook":
                _park(tx, step.event, reason, needs_person=step.needs_person)
                continue
            _enter_dlq(tx, step.event, operation, reason, needs_person=True)
        dlq.complete(tx, "webhook", subject_id=step.event.id)
        if step.payment is not None and step.payment.changes.get("lot_id") is not None:
            dlq.complete(tx, "deposit", subject_id=step.event.provider_payment_id)
        values = jobs.finished(tx.now, outcome=step.outcome)
        tx.run(update(WebhookEvent).where(WebhookEvent.id == step.event.id).values(**values))


def _park(tx: Tx, event: Any, reason: str, *, needs_person: bool) -> None:
    """Put *event* aside and into the dead-letter queue, from where it comes back or is reviewed."""
    _enter_dlq(tx, event, "webhook", reason, needs_person=needs_person)
    values = {"state": "parked", "lease_until": None, "lease_token": None, "last_error": reason}
    tx.run(update(WebhookEvent).where(WebhookEvent.id == event.id).values(**values))


def _enter_dlq(tx: Tx, event: Any, operation: str, reason: str, *, needs_person: bool) -> None:
    dlq.enter(
        tx,
        operation,
        subject_id=event.id if operation == "webhook" else event.provider_payment_id,
        payload={"eventId": event.id, "providerPaymentId": event.provider_payment_id},
        error=reason,
        needs_person=needs_person,
    )


def retry_parked(database: Database) -> int:
    """Give notices whose dead letter is due another try; return how many."""
    with database.transaction() as tx:
        subjects = dlq.take_due(tx, "webhook")
        if subjects:
            again = (
                update(WebhookEvent)
                .where(member_of(WebhookEvent.id, "ids"), WebhookEvent.state == "parked")
                .values(state="new", due_at=tx.now, attempts=0)
            )
            tx.run(again, ids=subjects)
        return len(subjects)


def _text(notice: dict[str, Any], name: str) -> str:
    value = notice.get(name)
    is_storable = isinstance(value, str) and value.isprintable() and len(value) <= _TEXT_MAX
    return str(value) if is_storable else ""


def _coin(notice: dict[str, Any], name: str) -> CoinAmount | None:
    try:
        return parse_coin(notice.get(name))
    except Invalid:
        return None


_PAYMENTS = (
    select(*_TABLE.c)
    .where(
        CryptoPayment.provider == "nowpayments",
        or_(
            member_of(CryptoPayment.provider_payment_id, "ids"),
            member_of(CryptoPayment.order_id, "orders"),
        ),
    )
    .order_by(CryptoPayment.id)
    .with_for_update()
)
