"""Questions to the ledger: balances, history, accounts, reservations. They change nothing."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, and_, func, or_, select

from shared.clock import from_stored, to_stored, to_wire
from shared.database import CachedBalance, Tx
from shared.errors import Invalid, NotFound
from shared.ledger.state import balance_answer
from shared.models.ledger import (
    GENERAL_POOL,
    OPEN_LOT,
    PENDING_HOLD,
    Account,
    Balance,
    Entry,
    Lot,
    Reservation,
    ReservationLot,
)
from shared.models.types import UtcTime

_LOTS_SHOWN = 500


def balance(tx: Tx, account_id: str, pool_id: str = GENERAL_POOL) -> dict[str, str]:
    """Return the balance of the view of *pool_id* as callers see it. Raises NotFound."""
    return balance_body(account_id, pool_id, vars(current_balance(tx, account_id, pool_id)))


def current_balance(tx: Tx, account_id: str, pool_id: str) -> CachedBalance:
    """Return the balance of the view of *pool_id*: that pool plus general, less debts.

    Read from the cached rows, so it costs the same after a million entries. Holds and lots whose
    time is over count as ended, although the sweep may not have booked them yet. A pool that
    never had anything is told as general, whose cached balance follows every change (W17).
    Raises NotFound (``account_not_found``).
    """
    return _balance_in(tx, account_id, pool_id, {pool_id, GENERAL_POOL})


def own_balance(tx: Tx, account_id: str, pool_id: str) -> dict[str, str]:
    """Return what *pool_id* holds by itself, without general, as callers see it."""
    amounts = _balance_in(tx, account_id, pool_id, {pool_id})
    return balance_body(account_id, pool_id, vars(amounts))


def _balance_in(tx: Tx, account_id: str, pool_id: str, pools: set[str]) -> CachedBalance:
    require_account(tx, account_id)
    rows = tx.all(
        select(
            Balance.pool_id,
            Balance.available_micro,
            Balance.reserved_micro,
            Balance.debt_micro,
            Balance.version,
        ).where(Balance.account_id == account_id, Balance.pool_id.in_(pools))
    )
    open_lots: list[Any] = [Lot.account_id == account_id, Lot.pool_id.in_(pools), OPEN_LOT]
    due = tx.scalar(
        select(func.coalesce(func.sum(Lot.available_micro), 0)).where(
            *open_lots, Lot.expires_at <= tx.now
        )
    )
    next_lot = tx.scalar(
        select(func.min(Lot.expires_at, type_=UtcTime())).where(*open_lots, Lot.expires_at > tx.now)
    )
    reserved = sum(row.reserved_micro for row in rows)
    ended, coming_back, next_hold = _due_holds(tx, open_lots) if reserved else (0, 0, None)
    return CachedBalance(
        account_id=account_id,
        pool_id=pool_id if any(row.pool_id == pool_id for row in rows) else GENERAL_POOL,
        available_micro=sum(row.available_micro for row in rows) - int(due) + coming_back,
        reserved_micro=reserved - ended,
        debt_micro=sum(row.debt_micro for row in rows),
        version=sum(row.version for row in rows),
        good_until=min((t for t in (next_lot, next_hold) if t is not None), default=None),
    )


def _due_holds(tx: Tx, open_lots: Sequence[Any]) -> tuple[int, int, datetime | None]:
    """Return what unswept due holds hold, how much of it is spendable again, and the next end."""
    ended = coming_back = 0
    next_end = None
    rows = tx.all(
        select(
            Reservation.expires_at.label("ends_at"),
            Lot.expires_at,
            Lot.refunded_at,
            ReservationLot.reserved_micro,
        )
        .join(ReservationLot, ReservationLot.reservation_id == Reservation.id)
        .join(Lot, Lot.id == ReservationLot.lot_id)
        .where(*open_lots, PENDING_HOLD, Lot.reserved_micro > 0)
    )
    for row in rows:
        if row.ends_at > tx.now:
            next_end = min(next_end or row.ends_at, row.ends_at)
            continue
        ended += row.reserved_micro
        if row.refunded_at is None and (row.expires_at is None or row.expires_at > tx.now):
            coming_back += row.reserved_micro
    return ended, coming_back, next_end


def balance_body(account_id: str, pool_id: str, amounts: Mapping[str, Any]) -> dict[str, str]:
    """Write a balance as callers see it."""
    return {
        "accountId": account_id,
        "poolId": pool_id,
        **balance_answer(
            available_micro=amounts["available_micro"],
            reserved_micro=amounts["reserved_micro"],
            debt_micro=amounts["debt_micro"],
        ),
    }


def open_lots(tx: Tx, account_id: str, pool_id: str) -> dict[str, Any]:
    """Return the lots that the view of *pool_id* may spend, in redemption order (first 500)."""
    require_account(tx, account_id)
    rows = tx.all(
        select(*Lot.__table__.c)
        .where(
            Lot.account_id == account_id,
            Lot.pool_id.in_({pool_id, GENERAL_POOL}),
            OPEN_LOT,
            or_(Lot.expires_at.is_(None), Lot.expires_at > tx.now),
        )
        .order_by(
            (Lot.pool_id == pool_id).desc(), Lot.expires_at.nulls_last(), Lot.created_at, Lot.id
        )
        .limit(_LOTS_SHOWN)
    )
    return {
        "accountId": account_id,
        "poolId": pool_id,
        "lots": [describe_lot(row) for row in rows],
    }


def describe_lot(row: Row[Any]) -> dict[str, Any]:
    """Return a lot as callers see it."""
    return {
        "lotId": row.id,
        "poolId": row.pool_id,
        "sourceType": row.source_type,
        "sourceId": row.source_id,
        "originalMicro": str(row.original_micro),
        "availableMicro": str(row.available_micro),
        "reservedMicro": str(row.reserved_micro),
        "consumedMicro": str(row.consumed_micro),
        "expiresAt": to_wire(row.expires_at) if row.expires_at else None,
        "createdAt": to_wire(row.created_at),
    }


def require_account(tx: Tx, account_id: str) -> Row[Any]:
    """Return the account's row. Raises NotFound (``account_not_found``)."""
    row = tx.first(
        select(Account.id, Account.entity_type, Account.entity_id, Account.created_at).where(
            Account.id == account_id
        )
    )
    if row is None:
        raise NotFound(f"There is no account {account_id}.", code="account_not_found")
    return row


def show_account(tx: Tx, account_id: str) -> dict[str, Any]:
    """Return an account with its balance in general."""
    return {**_account(require_account(tx, account_id)), "balance": balance(tx, account_id)}


def list_accounts(tx: Tx, *, limit: int, after: str | None) -> dict[str, Any]:
    """Return accounts in the order of their ids, and the cursor of the next page if any."""
    statement = select(
        Account.id, Account.entity_type, Account.entity_id, Account.created_at
    ).order_by(Account.id)
    if after is not None:
        statement = statement.where(Account.id > after)
    rows = tx.all(statement.limit(limit + 1))
    page = rows[:limit]
    return {
        "accounts": [_account(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > limit else None,
    }


def _account(row: Row[Any]) -> dict[str, Any]:
    return {
        "accountId": row.id,
        "entityType": row.entity_type,
        "entityId": row.entity_id,
        "createdAt": to_wire(row.created_at),
    }


def history(
    tx: Tx,
    account_id: str,
    *,
    pool_id: str | None = None,
    entry_type: str | None = None,
    limit: int = 50,
    offset: int = 0,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return entries, newest first in a total order (time, then id; W75).

    Page by the ``nextCursor`` of the answer, or by *offset* as the earlier system did.
    Raises NotFound (``account_not_found``) and Invalid (``invalid_cursor``).
    """
    require_account(tx, account_id)
    statement = (
        select(*Entry.__table__.c)
        .where(Entry.account_id == account_id)
        .order_by(Entry.created_at.desc(), Entry.id.desc())
    )
    if pool_id is not None:
        statement = statement.where(Entry.pool_id == pool_id)
    if entry_type is not None:
        statement = statement.where(Entry.entry_type == entry_type)
    if cursor is not None:
        moment, entry_id = _read_cursor(cursor)
        statement = statement.where(
            or_(
                Entry.created_at < moment,
                and_(Entry.created_at == moment, Entry.id < entry_id),
            )
        )
    rows = tx.all(statement.offset(offset).limit(limit + 1))
    page = rows[:limit]
    more = len(rows) > limit
    return {
        "accountId": account_id,
        "entries": [_entry(row) for row in page],
        "pagination": {"limit": limit, "offset": offset, "count": len(page)},
        "nextCursor": _write_cursor(page[-1].created_at, page[-1].id) if more else None,
    }


def _entry(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "entryType": row.entry_type,
        "amountMicro": str(row.amount_micro),
        "poolId": row.pool_id,
        "lotId": row.lot_id,
        "reservationId": row.reservation_id,
        "entrySeq": row.entry_seq,
        "description": row.description,
        "preBalanceMicro": _text(row.pre_balance_micro),
        "postBalanceMicro": _text(row.post_balance_micro),
        "createdAt": to_wire(row.created_at),
    }


def _text(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


def _write_cursor(moment: datetime, entry_id: str) -> str:
    return base64.urlsafe_b64encode(f"{to_stored(moment)}|{entry_id}".encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        moment, _, entry_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition("|")
        return from_stored(moment), str(UUID(entry_id))
    except (ValueError, binascii.Error) as error:
        raise Invalid("The cursor is not one of ours.", code="invalid_cursor") from error


def show_reservation(tx: Tx, reservation_id: str) -> dict[str, Any]:
    """Return a hold with its lots and its settlement. Raises NotFound."""
    row = tx.first(select(*Reservation.__table__.c).where(Reservation.id == reservation_id))
    if row is None:
        raise NotFound("Reservation not found.", code="reservation_not_found")
    is_due = row.status == "pending" and row.expires_at <= tx.now  # the sweep comes later
    lots = tx.all(
        select(*ReservationLot.__table__.c)
        .where(ReservationLot.reservation_id == reservation_id)
        .order_by(ReservationLot.lot_id)
    )
    return {
        "reservationId": row.id,
        "accountId": row.account_id,
        "poolId": row.pool_id,
        "reservedMicro": str(row.total_reserved_micro),
        "status": "expired" if is_due else row.status,
        "billingMode": row.billing_mode,
        "expiresAt": to_wire(row.expires_at),
        "createdAt": to_wire(row.created_at),
        "finalizedAt": to_wire(row.finalized_at) if row.finalized_at else None,
        "finalizedMicro": str(row.finalized_micro),
        "debtMicro": str(row.debt_micro),
        "allocations": [
            {
                "lotId": lot.lot_id,
                "reservedMicro": str(lot.reserved_micro),
                "consumedMicro": str(lot.consumed_micro),
            }
            for lot in lots
        ],
    }
