"""The inbox: a provider's notice is stored once, raw, before anything is done with it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from shared import tracing
from shared.batching import Batcher
from shared.database import Database, Message, Tx, insert_new
from shared.ids import new_id
from shared.messaging import TaskName
from shared.models.payments import WebhookEvent

log = structlog.get_logger()
_ID_MAX_CHARACTERS = 20
_KEY_MAX_CHARACTERS = 200  # an index on PostgreSQL holds no longer texts than about 2,700 bytes
_STATUS_WORD = re.compile(r"[A-Za-z_]{1,32}")
_Row = dict[str, Any]


class Inbox:
    """Stores what comes together in one transaction; safe to call from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._batches = Batcher("notice batch", self._store, self._store)

    def store(
        self, *, provider: str, notice: Mapping[str, object], raw_body: bytes
    ) -> tuple[str | None, str | None]:
        """Store an authenticated *notice*, as :func:`store_notice` does, and commit.

        Returns the id of its row, None if it is a repeat, and its status. Raises Unavailable if the
        database does not answer: the provider will send it again.
        """
        row = _row(provider, notice, raw_body, "notice")
        [event_id] = self._batches.carry_out([row])
        return event_id, row["status"]

    def _store(self, rows: Sequence[_Row], lock_timeout_ms: int | None = None) -> list[str | None]:
        with self._database.transaction(lock_timeout_ms=lock_timeout_ms) as tx:
            return _store(tx, rows)


def store_notice(
    tx: Tx,
    *,
    provider: str,
    notice: Mapping[str, object],
    raw_body: bytes,
    source: str = "notice",
) -> bool:
    """Store an authenticated *notice* and ask for it to be worked off; True if it is new.

    The same (payment_id, status, actually_paid) again is a duplicate (contract 6). A notice of
    something else than a payment is told from its repeats by its bytes. With *source* ``poll`` it
    is what the provider answered when it was asked.
    """
    row = _row(provider, notice, raw_body, source)
    [event_id] = _store(tx, [row])
    if event_id is not None:
        # The event's id is in every later line about it, whichever process writes that.
        log.info("notice_stored", event_id=event_id, status=row["status"], source=source)
    return event_id is not None


def _row(provider: str, notice: Mapping[str, object], raw_body: bytes, source: str) -> _Row:
    payment_id, status = notice.get("payment_id"), notice.get("payment_status")
    is_payment = isinstance(payment_id, str) and isinstance(status, str)
    if is_payment and _is_identifier(str(payment_id)):
        payment_id, paid = str(payment_id), notice.get("actually_paid")
        dedupe_key = json.dumps([payment_id, status, paid if paid is None else str(paid)])
        if len(dedupe_key) > _KEY_MAX_CHARACTERS:
            dedupe_key = hashlib.sha256(dedupe_key.encode()).hexdigest()
        status = status if _STATUS_WORD.fullmatch(str(status)) else "unrecognized"
    else:
        payment_id = status = None
        dedupe_key = hashlib.sha256(raw_body).hexdigest()
    return {
        "provider": provider,
        "dedupe_key": dedupe_key,
        "source": source,
        "provider_payment_id": payment_id,
        "status": status,
        "notice": json.dumps(notice, ensure_ascii=True),
        "raw_body": raw_body,
        "traceparent": tracing.here(),
    }


def _is_identifier(payment_id: str) -> bool:
    is_digits = payment_id.isascii() and payment_id.isdigit()
    return is_digits and len(payment_id) <= _ID_MAX_CHARACTERS


def _store(tx: Tx, rows: Sequence[_Row]) -> list[str | None]:
    """Store *rows*; return the id of each, None for one that is there already."""
    ids = [new_id(tx.now) for _ in rows]
    named = [
        {"id": id_, **row, "received_at": tx.now, "due_at": tx.now}
        for id_, row in zip(ids, rows, strict=True)
    ]
    named.sort(key=lambda row: (row["provider"], row["dedupe_key"], row["id"]))
    stored = insert_new(tx, WebhookEvent.__table__, named, key=("provider", "dedupe_key"))
    if stored:
        tx.messages.append(Message(TaskName.DRAIN_WEBHOOKS))
    return [id_ if id_ in stored else None for id_ in ids]
