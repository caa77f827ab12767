"""Statements: the entries of an account in a period, between two balances that they explain."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from shared.clock import to_wire
from shared.database import Tx
from shared.errors import Invalid
from shared.ledger.queries import require_account
from shared.models.ledger import Entry

ENTRIES_MAX = 10_000
_SHADOW = ("shadow_charge", "shadow_reserve", "shadow_finalize")


def statement(
    tx: Tx, account_id: str, *, since: datetime, until: datetime, most: int = ENTRIES_MAX
) -> dict[str, Any]:
    """Return what moved from *since* (included) to *until* (not), all pools, oldest first.

    Opening balance plus all entries is the closing balance; each line tells the balance after it.
    A balance is what the account has available, debts subtracted, so holds have left it. What
    shadow mode would have moved is left out. Raises NotFound (``account_not_found``), Invalid
    (``period_is_empty``, and ``period_too_long`` for more than *most* entries).
    """
    require_account(tx, account_id)
    if since >= until:
        raise Invalid("A statement's period ends after it begins.", code="period_is_empty")
    mine = (Entry.account_id == account_id, Entry.entry_type.not_in(_SHADOW))
    opening = int(
        tx.scalar(
            select(func.coalesce(func.sum(Entry.amount_micro), 0)).where(
                *mine, Entry.created_at < since
            )
        )
    )
    rows = tx.all(
        select(*Entry.__table__.c)
        .where(*mine, Entry.created_at >= since, Entry.created_at < until)
        .order_by(Entry.created_at, Entry.id)
        .limit(most + 1)
    )
    if len(rows) > most:
        raise Invalid(
            f"The period has more than {most} entries; ask for a shorter one.",
            code="period_too_long",
        )
    lines, balance = [], opening
    for row in rows:
        balance += row.amount_micro
        lines.append(
            {
                "id": row.id,
                "createdAt": to_wire(row.created_at),
                "entryType": row.entry_type,
                "poolId": row.pool_id,
                "amountMicro": str(row.amount_micro),
                "balanceMicro": str(balance),
                "lotId": row.lot_id,
                "reservationId": row.reservation_id,
                "description": row.description,
            }
        )
    totals: dict[str, int] = {}
    for row in rows:
        totals[row.entry_type] = totals.get(row.entry_type, 0) + row.amount_micro
    assert opening + sum(totals.values()) == balance
    return {
        "accountId": account_id,
        "since": to_wire(since),
        "until": to_wire(until),
        "openingMicro": str(opening),
        "entries": lines,
        "totalsMicro": {name: str(amount) for name, amount in sorted(totals.items())},
        "closingMicro": str(balance),
    }
