"""What becomes of a delivery after a try: delivered, tried again later, or left to a person."""

import random
from typing import Any, Literal

from sqlalchemy import select, text, update

from shared import jobs
from shared.clock import add_seconds
from shared.database import Tx
from shared.models.notifications import Delivery, Endpoint
from shared.notifications.sending import Reply
from shared.operations import dlq
from shared.operations.audit import Actor, record

Outcome = Literal["delivered", "gone", "failed", "dead"]

# Seconds after each failed try, as Standard Webhooks advises: three days and three hours in all.
SCHEDULE_SECONDS = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
TRIES_MAX = len(SCHEDULE_SECONDS) + 1
DISABLE_AFTER_SECONDS = 5 * 86_400
_JITTER = 0.1
_GONE = 410
DLQ_OPERATION = "notification"
_WORKERS = Actor("system", "workers")


def note_reply(tx: Tx, row: Any, reply: Reply) -> Outcome:
    """Note an answer to the delivery *row*: 2xx ends it, 410 ends the endpoint, else try again."""
    if 200 <= reply.status < 300:  # noqa: PLR2004  the class of statuses that mean success
        _end(tx, row, "delivered", status_code=reply.status, response=None, last_error=None)
        tx.run(_WELL, endpoint=row.endpoint_id)
        dlq.complete(tx, DLQ_OPERATION, subject_id=row.id)
        return "delivered"
    answered = {"status_code": reply.status, "response": reply.text}
    if reply.status == _GONE:
        _end(tx, row, "gone", **answered, last_error="The endpoint answered 410.")
        disable(tx, row.endpoint_id, "It answered 410: it is gone.")
        return "gone"
    return _failed(tx, row, f"The endpoint answered {reply.status}.", **answered)


def note_silence(tx: Tx, row: Any, reason: str) -> Outcome:
    """Note that no answer came to the delivery *row*: what became of it is unknown, so again."""
    return _failed(tx, row, reason, status_code=None, response=None)


def note_no_more(tx: Tx, row: Any, reason: str) -> Outcome:
    """Leave the delivery *row* to a person: no try is left."""
    known = {"state": "parked", "lease_until": None, "lease_token": None, "last_error": reason}
    tx.run(update(Delivery).where(Delivery.id == row.id).values(**known))
    facts = {"eventId": row.event_id, "endpointId": row.endpoint_id}
    dlq.enter(tx, DLQ_OPERATION, subject_id=row.id, payload=facts, error=reason, needs_person=True)
    return "dead"


def disable(tx: Tx, endpoint_id: str, reason: str) -> None:
    """Stop sending to an endpoint; what waits for it goes on when it is enabled again."""
    if tx.run(_DISABLE.values(disabled_reason=reason, updated_at=tx.now), endpoint=endpoint_id):
        record(
            tx,
            _WORKERS,
            "webhook_disabled",
            target_type="webhook",
            target_id=endpoint_id,
            details={"reason": reason},
        )


def _failed(tx: Tx, row: Any, reason: str, **answered: Any) -> Outcome:
    known = {**answered, "last_error": reason}
    tx.run(update(Delivery).where(Delivery.id == row.id).values(**known))
    tx.run(_FAILING.values(failing_since=tx.now), endpoint=row.endpoint_id)
    since = tx.scalar(_SINCE, endpoint=row.endpoint_id)
    if since is not None and tx.now >= add_seconds(since, DISABLE_AFTER_SECONDS):
        disable(tx, row.endpoint_id, "No delivery has succeeded for five days.")
    if row.attempts >= TRIES_MAX:
        return note_no_more(tx, row, reason)
    spread = 1 + random.uniform(-_JITTER, _JITTER)  # noqa: S311  a jitter is no secret
    seconds = SCHEDULE_SECONDS[row.attempts - 1] * spread
    jobs.release(tx, Delivery, row.id, after_seconds=seconds)
    return "failed"


def _end(tx: Tx, row: Any, outcome: str, **known: Any) -> None:
    ended = jobs.finished(tx.now, outcome=outcome, **known)
    tx.run(update(Delivery).where(Delivery.id == row.id).values(**ended))


_OF_ENDPOINT = update(Endpoint).where(Endpoint.id == text(":endpoint"))
_WELL = _OF_ENDPOINT.where(Endpoint.failing_since.is_not(None)).values(failing_since=None)
_FAILING = _OF_ENDPOINT.where(Endpoint.failing_since.is_(None))
_DISABLE = _OF_ENDPOINT.where(Endpoint.status == "active").values(status="disabled")
_SINCE = select(Endpoint.failing_since).where(Endpoint.id == text(":endpoint"))
