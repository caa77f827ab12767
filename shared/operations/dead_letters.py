"""The dead-letter queue as operators work it: list, show, rehearse, retry, resolve. All audited."""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from sqlalchemy import Row, select, text, update

from shared.clock import to_wire
from shared.database import Database, Tx, update_rows
from shared.errors import ArrakisError, Conflict, NotFound
from shared.ledger.book import post
from shared.ledger.commands import Mint
from shared.models.operations import DeadLetter
from shared.models.payments import WebhookEvent
from shared.models.x402 import Settlement
from shared.notifications import deliveries
from shared.operations import dlq
from shared.operations.audit import Actor, noting_refusals, record
from shared.payments import intake
from shared.payments.applying import plan
from shared.payments.intake import Intake
from shared.payments.policy import load_policy

_TABLE = DeadLetter.__table__
Resolution = Literal["completed", "failed"]


@dataclass(frozen=True)
class LetterFilter:
    """Which dead letters are wanted; ``after`` is the id of the last one of the page before."""

    status: str | None = None
    operation: str | None = None
    limit: int = 50
    after: str | None = None


def list_letters(tx: Tx, wanted: LetterFilter) -> dict[str, Any]:
    """Return dead letters, oldest first, the next cursor, and how many there are by status."""
    statement = select(*_TABLE.c).order_by(DeadLetter.id)
    if wanted.status is not None:
        statement = statement.where(DeadLetter.status == wanted.status)
    if wanted.operation is not None:
        statement = statement.where(DeadLetter.operation_type == wanted.operation)
    if wanted.after is not None:
        statement = statement.where(DeadLetter.id > wanted.after)
    rows = tx.all(statement.limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "deadLetters": [_describe(row) for row in page],
        "counts": dlq.depth(tx),
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def show_letter(tx: Tx, letter_id: str) -> dict[str, Any]:
    """Return a dead letter. Raises NotFound (``dead_letter_not_found``)."""
    return _describe(_letter(tx, letter_id, is_locked=False))


def retry(collaborators: Intake, actor: Actor, letter_id: str) -> dict[str, Any]:
    """Try a dead letter's work again, now, and return it as it is then.

    Safe at any time: what it brought once it does not bring again. Raises Conflict
    (``not_retryable``) if it is completed, or names nothing that could be done again; that is
    audited too.
    """
    database = collaborators.database
    with _noting(database, actor, "dlq_retry", letter_id), database.transaction() as tx:
        letter = _letter(tx, letter_id)
        if letter.status == "completed":
            raise Conflict("This dead letter is completed.", code="not_retryable")
        events = _events_of(tx, letter)
        settlements = tx.run(_SETTLE_AGAIN.values(due_at=tx.now), payment=letter.subject_id)
        is_ours = letter.operation_type == "notification" and deliveries.rearm(
            tx, letter.subject_id
        )
        if not events and not settlements and not is_ours:
            raise Conflict(
                "There is nothing stored to try again; resolve it with what you have done.",
                code="not_retryable",
            )
        intake.rearm(tx, events)
        if letter.operation_type not in ("deposit", "notification"):
            dlq.begin(tx, [letter.id])
        # One about a deposit or a webhook stays where people look, until a credit or a delivery
        # closes it: no tick would bring it back from there if the retry changes nothing.
        _record(tx, actor, "dlq_retry", letter, {"events": len(events)})
    if events:
        intake.drain(collaborators, only=events)
    with database.reading() as tx:
        return show_letter(tx, letter_id)


def rehearse(collaborators: Intake, letter_id: str) -> dict[str, Any]:
    """Return what a retry would do to payments and ledger; nothing is changed.

    Raises as :func:`retry` does.
    """
    try:
        _rehearse(collaborators, letter_id)
    except _RehearsedError as rehearsed:
        return rehearsed.found


def _rehearse(collaborators: Intake, letter_id: str) -> NoReturn:
    terms = collaborators.terms.current()
    with collaborators.database.transaction() as tx:
        letter = _letter(tx, letter_id)
        ids = _events_of(tx, letter)
        if not ids:
            raise Conflict("Only notices can be rehearsed.", code="not_retryable")
        events = tx.all(_EVENTS.where(WebhookEvent.id.in_(ids)))
        steps = plan(tx, events, load_policy(tx), {})
        commands = [command for step in steps for command in step.commands]
        outcomes = iter(post(tx, commands, terms) if commands else [])
        told = [
            {
                "eventId": step.event.id,
                "status": step.event.status,
                "outcome": step.outcome,
                "reason": step.dead_letter[1] if step.dead_letter else None,
                "ledger": [_effect(command, next(outcomes)) for command in step.commands],
            }
            for step in steps
        ]
        raise _RehearsedError({"deadLetter": _describe(letter), "events": told})


def resolve(
    database: Database,
    actor: Actor,
    letter_id: str,
    *,
    reason: str,
    resolution: Resolution = "completed",
) -> dict[str, Any]:
    """Close a dead letter by a person's decision: ``completed`` (dealt with) or ``failed``.

    Raises Conflict (``already_resolved``) if it is completed; that is audited too.
    """
    with _noting(database, actor, "dlq_resolve", letter_id), database.transaction() as tx:
        return _resolve(tx, actor, letter_id, reason, resolution)


def _resolve(
    tx: Tx, actor: Actor, letter_id: str, reason: str, resolution: Resolution
) -> dict[str, Any]:
    letter = _letter(tx, letter_id)
    if letter.status == "completed":
        raise Conflict("This dead letter is completed.", code="already_resolved")
    row = {
        "id": letter.id,
        "status": resolution,
        "next_retry_at": None,
        "lease_until": None,
        "updated_at": tx.now,
        "completed_at": tx.now,
    }
    update_rows(tx, _TABLE, [row])
    _record(tx, actor, "dlq_resolve", letter, {"reason": reason, "resolution": resolution})
    return show_letter(tx, letter_id)


class _RehearsedError(Exception):
    """Ends the rehearsal's transaction, so that nothing of it is kept."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__("rehearsed")
        self.found = found


def _effect(command: Any, outcome: Any) -> dict[str, Any]:
    """Return what a command would do, and the balance after it."""
    if outcome.error is not None:
        error: ArrakisError = outcome.error
        return {"operation": command.operation, "refused": error.code, "message": error.message}
    facts = {"operation": command.operation, "accountId": command.account_id, **outcome.answer}
    return facts | ({"sourceId": command.source_id} if isinstance(command, Mint) else {})


def _events_of(tx: Tx, letter: Row[Any]) -> list[str]:
    """Return the stored notices that a dead letter is about, oldest first."""
    column = (
        WebhookEvent.provider_payment_id if letter.operation_type == "deposit" else WebhookEvent.id
    )
    statement = select(WebhookEvent.id).where(column == letter.subject_id)
    return [row.id for row in tx.all(statement.order_by(WebhookEvent.id))]


def _letter(tx: Tx, letter_id: str, *, is_locked: bool = True) -> Row[Any]:
    row = tx.first(_BY_ID.with_for_update() if is_locked else _BY_ID, id=letter_id)
    if row is None:
        raise NotFound("There is no such dead letter.", code="dead_letter_not_found")
    return row


def _noting(
    database: Database, actor: Actor, action: str, letter_id: str
) -> AbstractContextManager[None]:
    return noting_refusals(database, actor, action, target_type="dead_letter", target_id=letter_id)


def _record(tx: Tx, actor: Actor, action: str, letter: Row[Any], details: dict[str, Any]) -> None:
    facts = {"operation": letter.operation_type, "subjectId": letter.subject_id, **details}
    record(tx, actor, action, target_type="dead_letter", target_id=letter.id, details=facts)


def _describe(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "operation": row.operation_type,
        "status": row.status,
        "subjectId": row.subject_id,
        "error": row.error_message,
        "retries": row.retry_count,
        "nextRetryAt": to_wire(row.next_retry_at) if row.next_retry_at else None,
        "payload": json.loads(row.payload),
        "createdAt": to_wire(row.created_at),
        "updatedAt": to_wire(row.updated_at),
        "completedAt": to_wire(row.completed_at) if row.completed_at else None,
    }


_BY_ID = select(*_TABLE.c).where(DeadLetter.id == text(":id"))
_EVENTS = select(*WebhookEvent.__table__.c).order_by(WebhookEvent.id).with_for_update()
_SETTLE_AGAIN = (
    update(Settlement)
    .where(Settlement.payment_id == text(":payment"), Settlement.state == "parked")
    .values(state="new", attempts=0)
)
