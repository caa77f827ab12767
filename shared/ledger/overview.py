"""An account at a glance: every pool, what is open in it, and what moved last."""

from typing import Any

from sqlalchemy import or_, select

from shared.clock import to_wire
from shared.database import Tx
from shared.ledger import queries
from shared.models.ledger import OPEN_LOT, PENDING_HOLD, Balance, Debt, Lot, Reservation

_POOLS_SHOWN = 100
_LOTS_SHOWN = 500
_OPEN_SHOWN = 100
_ENTRIES_SHOWN = 10


def show(tx: Tx, account_id: str) -> dict[str, Any]:
    """Return an account with its pools, open lots, holds and debts, and its last ten entries.

    A pool is told by itself, without general; debts are kept in general. What time has ended is
    left out, swept or not. The lists end after 100 pools, 500 lots, 100 holds and 100 debts.
    Raises NotFound (``account_not_found``).
    """
    account = queries.show_account(tx, account_id)
    pools = select(Balance.pool_id).where(Balance.account_id == account_id)
    names = [row.pool_id for row in tx.all(pools.order_by(Balance.pool_id).limit(_POOLS_SHOWN))]
    return {
        **account,
        "pools": [_own(tx, account_id, name) for name in names],
        "lots": _lots(tx, account_id),
        "holds": _holds(tx, account_id),
        "debts": _debts(tx, account_id),
        "entries": queries.history(tx, account_id, limit=_ENTRIES_SHOWN)["entries"],
    }


def _own(tx: Tx, account_id: str, pool_id: str) -> dict[str, str]:
    told = queries.own_balance(tx, account_id, pool_id)
    return {name: value for name, value in told.items() if name != "accountId"}


def _lots(tx: Tx, account_id: str) -> list[dict[str, Any]]:
    rows = tx.all(
        select(*Lot.__table__.c)
        .where(
            Lot.account_id == account_id,
            OPEN_LOT,
            or_(Lot.expires_at.is_(None), Lot.expires_at > tx.now),
        )
        .order_by(Lot.created_at, Lot.id)
        .limit(_LOTS_SHOWN)
    )
    return [queries.describe_lot(row) for row in rows]


def _holds(tx: Tx, account_id: str) -> list[dict[str, Any]]:
    rows = tx.all(
        select(*Reservation.__table__.c)
        .where(
            Reservation.account_id == account_id,
            PENDING_HOLD,
            Reservation.expires_at > tx.now,
        )
        .order_by(Reservation.created_at, Reservation.id)
        .limit(_OPEN_SHOWN)
    )
    return [
        {
            "reservationId": row.id,
            "poolId": row.pool_id,
            "reservedMicro": str(row.total_reserved_micro),
            "overdraftMicro": str(row.overdraft_micro),
            "billingMode": row.billing_mode,
            "createdAt": to_wire(row.created_at),
            "expiresAt": to_wire(row.expires_at),
        }
        for row in rows
    ]


def _debts(tx: Tx, account_id: str) -> list[dict[str, Any]]:
    rows = tx.all(
        select(*Debt.__table__.c)
        .where(Debt.account_id == account_id, Debt.resolved_at.is_(None))
        .order_by(Debt.created_at, Debt.id)
        .limit(_OPEN_SHOWN)
    )
    return [
        {
            "debtId": row.id,
            "openMicro": str(row.debt_micro),
            "originalMicro": str(row.original_micro or row.debt_micro),
            "reservationId": row.source_reservation_id,
            "lotId": row.source_lot_id,
            "paymentId": row.source_payment_id,
            "createdAt": to_wire(row.created_at),
        }
        for row in rows
    ]
