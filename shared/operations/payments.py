"""Payments as operators mend them: list, explain, replay, refund. Each change is audited."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Row, select, text

from shared.clock import add_seconds, to_wire
from shared.database import Database, Tx, patiently, update_rows
from shared.errors import Conflict, NotFound, Unavailable
from shared.ledger.book import post
from shared.ledger.commands import Refund
from shared.ledger.terms import TermsCache
from shared.models.operations import DeadLetter
from shared.models.payments import CryptoPayment, PaymentCredit, WebhookEvent
from shared.operations import dlq
from shared.operations.audit import Actor, noting_refusals, record
from shared.payments import intake
from shared.payments.intake import Intake
from shared.payments.polling import CLAIM_SECONDS, look, plan_next
from shared.payments.providers.nowpayments_shapes import is_identifier
from shared.payments.telling import tell_refund
from shared.payments.views import describe, find_row

_TABLE = CryptoPayment.__table__


@dataclass(frozen=True)
class PaymentFilter:
    """Which payments are wanted; ``after`` is the id of the last one of the page before."""

    status: str | None = None
    account_id: str | None = None
    provider: str | None = None
    limit: int = 50
    after: str | None = None


def list_payments(tx: Tx, wanted: PaymentFilter) -> dict[str, Any]:
    """Return payments, newest first (their ids are in the order of time), and the next cursor."""
    statement = select(*_TABLE.c).order_by(CryptoPayment.id.desc())
    for column, value in (
        (CryptoPayment.status, wanted.status),
        (CryptoPayment.account_id, wanted.account_id),
        (CryptoPayment.provider, wanted.provider),
    ):
        if value is not None:
            statement = statement.where(column == value)
    if wanted.after is not None:
        statement = statement.where(CryptoPayment.id < wanted.after)
    rows = tx.all(statement.limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "payments": [describe(tx, row) for row in page],
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def explain_payment(tx: Tx, payment_id: str) -> dict[str, Any]:
    """Return where a payment stands and why: itself, its credits, notices and dead letters.

    Found by our id or the provider's. Raises NotFound (``payment_not_found``).
    """
    row = find_row(tx, payment_id)
    events = tx.all(_EVENTS, provider=row.provider, number=row.provider_payment_id)
    # A letter is about a notice, a payment at the provider, or one whose creation is unanswered.
    subjects = [row.id, row.provider_payment_id or row.id, *(event.id for event in events)]
    letters = tx.all(_LETTERS.where(DeadLetter.subject_id.in_(subjects)))
    return {
        **describe(tx, row),
        "parentPaymentId": row.parent_payment_id,
        "outcomeAmount": f"{row.outcome_amount:f}" if row.outcome_amount is not None else None,
        "outcomeCurrency": row.outcome_currency,
        "nextPollAt": to_wire(row.next_poll_at) if row.next_poll_at else None,
        "events": [
            {
                "eventId": event.id,
                "source": event.source,
                "status": event.status,
                "state": event.state,
                "outcome": event.outcome,
                "attempts": event.attempts,
                "lastError": event.last_error,
                "receivedAt": to_wire(event.received_at),
            }
            for event in events
        ],
        "deadLetters": [
            {
                "id": letter.id,
                "operation": letter.operation_type,
                "status": letter.status,
                "retries": letter.retry_count,
                "error": letter.error_message,
            }
            for letter in letters
        ],
    }


@dataclass(frozen=True)
class Replay:
    """A replay that has begun. ``row`` is our payment, ``claimed`` when pollers would ask of it."""

    payment_id: str
    number: str | None
    row: Row[Any] | None
    claimed: datetime | None
    is_known: bool


def replay(collaborators: Intake, actor: Actor, payment_id: str) -> dict[str, Any]:
    """Ask the provider about a payment and work its notices off once more (runbook 6).

    By our id or the provider's, known to us or not. What was credited is not credited again.
    Returns the payment as explained, with ``isProviderAsked``. Raises as its two halves do.
    """
    return go_on(collaborators, actor, begin_replay(collaborators.database, actor, payment_id))


def begin_replay(database: Database, actor: Actor, payment_id: str) -> Replay:
    """Make a replay of what we know a worker's job: its notices are due, and asking is too, soon.

    So it comes to its end also if this process does not. Raises Conflict (``nothing_to_replay``)
    if its provider tells no notices; that is audited.
    """
    with (
        noting_refusals(
            database, actor, "payment_replay", target_type="payment", target_id=payment_id
        ),
        database.transaction() as tx,
    ):
        row = tx.first(_BY_ANY_ID, id=payment_id)
        if row is not None and row.provider != "nowpayments":
            raise Conflict("Only NOWPayments tells notices to replay.", code="nothing_to_replay")
        number = row.provider_payment_id if row is not None else payment_id
        events = tx.all(_EVENTS, provider="nowpayments", number=number)
        claimed = None
        if row is not None and is_identifier(number):
            claimed = add_seconds(tx.now, CLAIM_SECONDS)
            update_rows(tx, _TABLE, [{"id": row.id, "next_poll_at": claimed}])
        is_known = row is not None or bool(events)
        if is_known:
            intake.rearm(tx, [event.id for event in events])
            _note_replay(tx, actor, payment_id, events)
        return Replay(payment_id, number, row, claimed, is_known)


def go_on(collaborators: Intake, actor: Actor, begun: Replay) -> dict[str, Any]:
    """Ask the provider and work off the notices of a replay that has begun; return the payment.

    Raises NotFound if neither we nor the provider know it, which is audited, and Unavailable if
    we do not know it and the provider cannot be asked.
    """
    database, number, payment_id = collaborators.database, begun.number, begun.payment_id
    with noting_refusals(
        database, actor, "payment_replay", target_type="payment", target_id=payment_id
    ):
        is_asked = _ask_again(collaborators, begun)
        with database.transaction() as tx:
            events = tx.all(_EVENTS, provider="nowpayments", number=number)
            if not begun.is_known:
                if not events:
                    raise NotFound(
                        "Neither we nor the provider know this payment.", code="payment_not_found"
                    )
                _note_replay(tx, actor, payment_id, events)
        intake.drain(collaborators, only=[event.id for event in events])
        with database.reading() as tx:
            return {**explain_payment(tx, number or payment_id), "isProviderAsked": is_asked}


def _ask_again(collaborators: Intake, begun: Replay) -> bool:
    """Store what the provider shows now; False if it could not be asked of what we know."""
    if begun.number is None or not is_identifier(begun.number):
        return False
    try:
        look(collaborators.database, collaborators.provider, begun.number)
    except Unavailable:
        if not begun.is_known:
            raise
        return False
    if begun.claimed is not None:
        plan_next(collaborators.database, begun.row, begun.claimed)
    return True


def _note_replay(tx: Tx, actor: Actor, payment_id: str, events: Sequence[Row[Any]]) -> None:
    details = {"events": len(events)}
    record(
        tx, actor, "payment_replay", target_type="payment", target_id=payment_id, details=details
    )


def refund(
    database: Database, terms: TermsCache, actor: Actor, payment_id: str, reason: str
) -> dict[str, Any]:
    """Take a payment's credits back, because its money went back to the payer (contract 6).

    Of each lot what is available is clawed back, what is held when its hold ends, what was spent
    becomes debt. Repeating it gives the same answer. Raises NotFound, and Conflict
    (``nothing_to_refund``) if the payment credited nothing; that is audited too.
    """
    with noting_refusals(
        database, actor, "payment_refund", target_type="payment", target_id=payment_id
    ):
        return patiently(partial(_refund, database, terms, actor, payment_id, reason))


def _refund(
    database: Database, terms: TermsCache, actor: Actor, payment_id: str, reason: str
) -> dict[str, Any]:
    current = terms.current()
    with database.transaction() as tx:
        row = tx.first(_LOCKED, id=find_row(tx, payment_id).id)
        assert row is not None
        lots = [one.lot_id for one in tx.all(_CREDITS, id=row.id)]
        commands = [Refund(row.account_id, lot, row.id, description=reason) for lot in lots]
        outcomes = post(tx, commands, current) if lots else []
        answers = [outcome.unwrap() for outcome in outcomes]
        if not lots:
            raise Conflict("This payment has credited nothing.", code="nothing_to_refund")
        if row.status != "refunded" or not all(outcome.is_replay for outcome in outcomes):
            row_after = {"id": row.id, "status": "refunded", "next_poll_at": None}
            update_rows(tx, _TABLE, [{**row_after, "updated_at": tx.now}])
            _complete_letters(tx, row)
            for answer in answers:
                tell_refund(tx, payment_id=row.id, answer=answer)
            record(
                tx,
                actor,
                "payment_refund",
                target_type="payment",
                target_id=row.id,
                details={"reason": reason, "lots": lots},
            )
        return {
            "paymentId": row.id,
            "accountId": row.account_id,
            "status": "refunded",
            "clawedBackMicro": _sum(answers, "clawedBackMicro"),
            "debtMicro": _sum(answers, "debtMicro"),
            "heldMicro": _sum(answers, "heldMicro"),
            "lots": lots,
        }


def _complete_letters(tx: Tx, row: Row[Any]) -> None:
    """End what waits to be credited, and what waits to be clawed back: that is done by hand."""
    dlq.complete(tx, "deposit", subject_id=row.provider_payment_id)
    for event in tx.all(_EVENTS, provider=row.provider, number=row.provider_payment_id):
        dlq.complete(tx, "refund", subject_id=event.id)


def _sum(answers: list[dict[str, Any]], name: str) -> str:
    return str(sum(int(answer[name]) for answer in answers))


_BY_ANY_ID = (
    select(*_TABLE.c)
    .where((CryptoPayment.id == text(":id")) | (CryptoPayment.provider_payment_id == text(":id")))
    .order_by(CryptoPayment.provider)
)
_LOCKED = select(*_TABLE.c).where(CryptoPayment.id == text(":id")).with_for_update()
_CREDITS = (
    select(PaymentCredit.lot_id)
    .where(PaymentCredit.payment_id == text(":id"))
    .order_by(PaymentCredit.created_at, PaymentCredit.lot_id)
)
_EVENTS = (
    select(
        WebhookEvent.id,
        WebhookEvent.source,
        WebhookEvent.status,
        WebhookEvent.state,
        WebhookEvent.outcome,
        WebhookEvent.attempts,
        WebhookEvent.last_error,
        WebhookEvent.received_at,
    )
    .where(
        WebhookEvent.provider == text(":provider"),
        WebhookEvent.provider_payment_id == text(":number"),
    )
    .order_by(WebhookEvent.id)
)
_LETTERS = select(
    DeadLetter.id,
    DeadLetter.operation_type,
    DeadLetter.status,
    DeadLetter.retry_count,
    DeadLetter.error_message,
).order_by(DeadLetter.id)
