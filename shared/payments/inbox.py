"""The inbox: a provider's notice is stored once, raw, before anything is done with it."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import bindparam, text

from shared import tracing
from shared.database import Message, Tx
from shared.ids import new_id
from shared.messaging import TaskName
from shared.models.payments import WebhookEvent

log = structlog.get_logger()
_ID_MAX_CHARACTERS = 20
_KEY_MAX_CHARACTERS = 200  # an index on PostgreSQL holds no longer texts than about 2,700 bytes
_STATUS_WORD = re.compile(r"[A-Za-z_]{1,32}")


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
    payment_id, status = notice.get("payment_id"), notice.get("payment_status")
    is_payment = isinstance(payment_id, str) and isinstance(status, str)
    if is_payment and _is_identifier(str(payment_id)):
        paid = notice.get("actually_paid")
        dedupe_key = json.dumps([payment_id, status, paid if paid is None else str(paid)])
        if len(dedupe_key) > _KEY_MAX_CHARACTERS:
            dedupe_key = hashlib.sha256(dedupe_key.encode()).hexdigest()
        status = status if _STATUS_WORD.fullmatch(str(status)) else "unrecognized"
    else:
        payment_id = status = None
        dedupe_key = hashlib.sha256(raw_body).hexdigest()
    values: dict[str, Any] = {
        "id": new_id(tx.now),
        "provider": provider,
        "dedupe_key": dedupe_key,
        "source": source,
        "provider_payment_id": payment_id,
        "status": status,
        "notice": json.dumps(notice, ensure_ascii=True),
        "raw_body": raw_body,
        "traceparent": tracing.here(),
        "received_at": tx.now,
        "due_at": tx.now,
    }
    is_new = tx.first(_INSERT, **values) is not None
    if is_new:
        tx.messages.append(Message(TaskName.DRAIN_WEBHOOKS))
        # The event's id is in every later line about it, whichever process writes that.
        log.info("notice_stored", event_id=values["id"], status=status, source=source)
    return is_new


def _is_identifier(payment_id: str) -> bool:
    is_digits = payment_id.isascii() and payment_id.isdigit()
    return is_digits and len(payment_id) <= _ID_MAX_CHARACTERS


_COLUMNS = (
    "id",
    "provider",
    "dedupe_key",
    "source",
    "provider_payment_id",
    "status",
    "notice",
    "raw_body",
    "traceparent",
    "received_at",
    "due_at",
)
# Core's own insert() has no ON CONFLICT that both databases share; this text is the same on both.
_INSERT = text(
    f"INSERT INTO webhook_events ({', '.join(_COLUMNS)}) "  # noqa: S608  our own names
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "
    "ON CONFLICT (provider, dedupe_key) DO NOTHING RETURNING id"
).bindparams(*(bindparam(name, type_=WebhookEvent.__table__.c[name].type) for name in _COLUMNS))
