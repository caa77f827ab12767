"""What is forgotten in time: bodies of notices and healed dead letters. Money is kept for ever.

Answers to requests, entries, holds, lots, payments and the audit log are never swept (contract
4.1).
"""

from typing import Any

from sqlalchemy import bindparam, delete, select, text, update

from shared.clock import add_seconds
from shared.database import Database, Tx
from shared.errors import Unavailable
from shared.models.operations import HEALED_LETTER, ConfigRow, DeadLetter
from shared.models.payments import KEEPS_BODY, WebhookEvent
from shared.models.types import UtcTime
from shared.parameters import constant, member_of

BODY_KEY, LETTER_KEY = "notice_body_days", "dead_letter_days"
BODY_DAYS, LETTER_DAYS = "90", "365"
EVENT_KEY, EVENT_DAYS = "webhook_event_days", "90"
# The checklist of the modes looks back for 30 days.
_DAYS_MIN, _DAYS_MAX = 31, 9_999
_DAY_SECONDS = 86_400
_BATCH = 500


def sweep(database: Database) -> int:
    """Forget a batch of each kind; return how many rows were changed.

    Raises Unavailable (``config_invalid``) if a setting makes no sense: then nothing is forgotten.
    """
    with database.transaction() as tx:
        bodies = _take(tx, _BODIES, BODY_KEY, BODY_DAYS)
        letters = _take(tx, _LETTERS, LETTER_KEY, LETTER_DAYS)
        done = tx.run(_EMPTY, ids=bodies) if bodies else 0
        return done + (tx.run(_FORGET, ids=letters) if letters else 0)


def read_days(key: str, written: str) -> int:
    """Read a number of days, 0 for ever. Raises ValueError if it is none, or too few."""
    is_number = written.isascii() and written.isdigit() and len(written) <= len(str(_DAYS_MAX))
    if not is_number or 0 < int(written) < _DAYS_MIN:
        raise ValueError(f"{key} is {written[:40]!r}, not 0 nor {_DAYS_MIN} to {_DAYS_MAX}")
    return int(written)


def load_days(tx: Tx, key: str, seed: str) -> int:
    """Return the days in force, 0 for ever. Raises Unavailable (``config_invalid``)."""
    written = tx.scalar(_DAYS, key=key)
    try:
        return read_days(key, seed if written is None else written)
    except ValueError as error:
        raise Unavailable(f"{error}.", code="config_invalid") from error


def _take(tx: Tx, statement: Any, key: str, seed: str) -> list[str]:
    days = load_days(tx, key, seed)
    if days == 0:
        return []
    return [row.id for row in tx.all(statement, before=add_seconds(tx.now, -days * _DAY_SECONDS))]


_BEFORE = bindparam("before", type_=UtcTime())
_DAYS = select(ConfigRow.value).where(ConfigRow.key == text(":key"))
_BODIES = (
    select(WebhookEvent.id)
    .where(KEEPS_BODY, WebhookEvent.done_at < _BEFORE)
    .order_by(WebhookEvent.done_at)
    .limit(constant(_BATCH))
    .with_for_update(skip_locked=True)
)
_LETTERS = (
    select(DeadLetter.id)
    .where(HEALED_LETTER, DeadLetter.completed_at < _BEFORE)
    .order_by(DeadLetter.completed_at)
    .limit(constant(_BATCH))
    .with_for_update(skip_locked=True)
)
_EMPTY = update(WebhookEvent).where(member_of(WebhookEvent.id, "ids")).values(raw_body=b"")
_FORGET = delete(DeadLetter).where(member_of(DeadLetter.id, "ids"))
