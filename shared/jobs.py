"""Rows that are their own jobs: claim under a lease, finish, put off, park (ADR 0005).

A claim commits before the work begins, so work that kills its process is counted. The token
fences: whoever lost the lease finds no row under its token and can finish nothing.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select, update

from shared.clock import add_seconds
from shared.database import Database, Tx
from shared.parameters import constant, member_of

LEASE_SECONDS = 60
_AWAY_SECONDS = 2
_BACKOFF_FIRST_SECONDS = 2
_BACKOFF_LAST_SECONDS = 900


@dataclass(frozen=True)
class Claim:
    """Rows that this process holds until the lease lapses."""

    token: str
    ids: list[str]


def claim(
    database: Database,
    model: Any,
    *,
    limit: int,
    only: Sequence[str] | None = None,
    lease_seconds: int = LEASE_SECONDS,
) -> Claim:
    """Take up to *limit* due rows of *model*, oldest first, that nobody else holds.

    With *only*, those of them whose ids it lists. If this process dies, another one takes them
    after *lease_seconds*.
    """
    token = secrets.token_hex(8)
    with database.transaction() as tx:
        due = (
            select(model.id)
            .where(
                model.state == constant("new"),
                model.due_at <= tx.now,
                or_(model.lease_until.is_(None), model.lease_until <= tx.now),
                *([] if only is None else [model.id.in_(only)]),
            )
            .order_by(model.due_at, model.id)
            .limit(constant(limit))
            .with_for_update(skip_locked=True)
        )
        taken = (
            update(model)
            .where(model.id.in_(due))
            .values(
                attempts=model.attempts + 1,
                lease_token=token,
                lease_until=add_seconds(tx.now, lease_seconds),
            )
            .returning(model.id)
        )
        return Claim(token, sorted(row.id for row in tx.all(taken)))


def held_rows(
    tx: Tx, model: Any, held: Claim, ids: list[str], *, columns: Sequence[Any] = ()
) -> list[Any]:
    """Return those rows of *ids* that *held* still holds, locked, in the order of their ids.

    Of each all columns are read, or *columns*.
    """
    statement = (
        select(*(columns or model.__table__.c))
        .where(
            member_of(model.id, "ids"),
            model.lease_token == held.token,
            model.state == constant("new"),
        )
        .order_by(model.id)
        .with_for_update()
    )
    return list(tx.all(statement, ids=ids))


def renew(tx: Tx, model: Any, held: Claim, *, lease_seconds: int) -> Claim:
    """Hold what *held* still holds for *lease_seconds* from now; return what that is."""
    ids = [row.id for row in held_rows(tx, model, held, held.ids)]
    longer = update(model).where(member_of(model.id, "ids"))
    tx.run(longer.values(lease_until=add_seconds(tx.now, lease_seconds)), ids=ids)
    return Claim(held.token, ids)


def give_back(tx: Tx, model: Any, held: Claim, *, after_seconds: float = _AWAY_SECONDS) -> None:
    """Return what *held* claims untried and uncounted: that is no fault of the work.

    It is due again in *after_seconds*; unless told otherwise, because a dependency was away.
    """
    statement = (
        update(model)
        .where(
            member_of(model.id, "ids"),
            model.lease_token == held.token,
            model.state == constant("new"),
        )
        .values(
            attempts=model.attempts - 1,
            due_at=add_seconds(tx.now, after_seconds),
            lease_until=None,
            lease_token=None,
        )
    )
    tx.run(statement, ids=held.ids)


def release(tx: Tx, model: Any, row_id: str, *, after_seconds: float) -> None:
    """Let whoever comes next take a claimed row, but not before *after_seconds*."""
    values = {
        "due_at": add_seconds(tx.now, after_seconds),
        "lease_until": None,
        "lease_token": None,
    }
    tx.run(update(model).where(model.id == row_id, model.state == constant("new")).values(**values))


def put_off(tx: Tx, model: Any, row_id: str, *, attempts: int, error: str) -> None:
    """Let the row come back later, each time after twice as long."""
    seconds = min(_BACKOFF_LAST_SECONDS, _BACKOFF_FIRST_SECONDS * 2 ** min(attempts, 20))
    statement = (
        update(model)
        .where(model.id == row_id, model.state == constant("new"))
        .values(
            due_at=add_seconds(tx.now, seconds),
            lease_until=None,
            lease_token=None,
            last_error=error[:500],
        )
    )
    tx.run(statement)


def finished(now: datetime, **values: Any) -> dict[str, Any]:
    """Return the values of a row whose work is done."""
    return {"state": "done", "done_at": now, "lease_until": None, "lease_token": None, **values}
