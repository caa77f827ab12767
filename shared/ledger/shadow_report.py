"""What shadow mode would have done: who would have been refused, and how much charged (runbook 2).

The figures of all accounts come from one statement over the holds; who would have been refused is
walked account by account, in pages, so memory depends on neither the accounts nor the entries.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, case, func, or_, select

from shared.clock import to_wire
from shared.database import Tx
from shared.ledger.queries import require_account
from shared.models.ledger import GENERAL_POOL, REHEARSAL_ACCOUNT, Entry, Reservation


def shadow_summary(
    tx: Tx,
    *,
    account_id: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
    after: str | None = None,
    read_at_once: int = 5_000,
) -> dict[str, Any]:
    """Return what was reserved and finalized in shadow, in all and of each account (behaviour 6.5).

    Of one account if *account_id* is given, else of *limit* accounts in the order of their ids,
    those after *after*; the rehearsal's is left out. It is about holds made from *since* on.

    A reserve *would have been refused* if it asked for more than the account would have had: what
    was really available to its pool at that moment (its entry tells), less the charges that live
    mode would have made before it, that is the finalized costs, capped at their holds, of those
    earlier reserves that would have been granted. Charges in the same pool and in ``general``
    count, from the moment of their finalize; open holds do not. An extension counts as a reserve.
    The *shortfall* is how much more the account would have needed. ``shown`` sums up the
    accounts of this page. Entries are read *read_at_once*.
    """
    scope = [Reservation.billing_mode == "shadow"]
    if account_id is not None:
        require_account(tx, account_id)
        scope.append(Reservation.account_id == account_id)
    else:
        scope.append(Reservation.account_id != REHEARSAL_ACCOUNT)
    if since is not None:
        scope.append(Reservation.created_at >= since)
    whole = tx.first(_FIGURES.where(*scope))
    assert whole is not None
    paged = _BY_ACCOUNT.where(*scope)
    if after is not None:
        paged = paged.where(Reservation.account_id > after)
    rows = tx.all(paged.limit(limit + 1))
    page = rows[:limit]
    walks = {row.account_id: _walk(tx, row.account_id, since, read_at_once) for row in page}
    return {
        "accountId": account_id,
        "since": to_wire(since) if since else None,
        **_describe(whole),
        "shown": _totals(walks.values()),
        "accounts": [
            {"accountId": row.account_id, **_describe(row), **walks[row.account_id].told()}
            for row in page
        ],
        "nextCursor": page[-1].account_id if len(rows) > limit else None,
    }


@dataclass
class _Walk:
    """One account's reserves in their order, with the charges that live would have made."""

    refused: int = 0
    largest_shortfall_micro: int = 0
    charged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    to_come: list[tuple[datetime, str, int]] = field(default_factory=list)

    def step(self, entry: Row[Any]) -> None:
        """Decide on the next reserve as live mode would have."""
        while self.to_come and self.to_come[0][0] <= entry.created_at:
            _, pool_id, charge_micro = heapq.heappop(self.to_come)
            self.charged[pool_id] += charge_micro
        pools = {entry.pool_id, GENERAL_POOL}
        left = entry.pre_balance_micro - sum(self.charged[pool_id] for pool_id in pools)
        shortfall = entry.amount_micro - left
        if shortfall > 0:
            self.refused += 1
            self.largest_shortfall_micro = max(self.largest_shortfall_micro, shortfall)
        elif entry.status == "finalized" and entry.created_at == entry.held_at:
            charge = (entry.finalized_at, entry.pool_id, entry.finalized_micro)
            heapq.heappush(self.to_come, charge)

    def told(self) -> dict[str, Any]:
        """Return what was found as callers see it."""
        return {
            "wouldRefuse": self.refused,
            "largestShortfallMicro": str(self.largest_shortfall_micro),
        }


def _totals(walks: Collection[_Walk]) -> dict[str, Any]:
    return {
        "accounts": len(walks),
        "accountsRefused": sum(walk.refused > 0 for walk in walks),
        "wouldRefuse": sum(walk.refused for walk in walks),
        "largestShortfallMicro": str(
            max((walk.largest_shortfall_micro for walk in walks), default=0)
        ),
    }


def _walk(tx: Tx, account_id: str, since: datetime | None, read_at_once: int) -> _Walk:
    walk = _Walk()
    for entry in _reserves(tx, account_id, since, read_at_once):
        walk.step(entry)
    return walk


def _reserves(
    tx: Tx, account_id: str, since: datetime | None, read_at_once: int
) -> Iterator[Row[Any]]:
    """Yield an account's reserves and extensions, oldest first, read in pages."""
    statement = _RESERVES.where(Entry.account_id == account_id).limit(read_at_once)
    if since is not None:
        statement = statement.where(Reservation.created_at >= since, Entry.created_at >= since)
    rows = tx.all(statement)
    while rows:
        yield from rows
        if len(rows) < read_at_once:
            return
        last = rows[-1]
        rows = tx.all(
            statement.where(
                or_(
                    Entry.created_at > last.created_at,
                    and_(Entry.created_at == last.created_at, Entry.id > last.id),
                )
            )
        )


def _describe(row: Row[Any]) -> dict[str, Any]:
    return {
        "reserves": int(row.reserves),
        "finalizes": int(row.finalizes),
        "reservedMicro": str(int(row.reserved)),
        "finalizedMicro": str(int(row.charged)),
        "estimatedMicro": str(int(row.estimated)),
        "actualMicro": str(int(row.actual)),
        "actualPerEstimated": _ratio(int(row.actual), int(row.estimated)),
        "ended": int(row.ended),
        "lost": int(row.lost),
        "errorRate": _ratio(int(row.lost), int(row.ended)),
    }


def _ratio(part: int, whole: int) -> str | None:
    """Return part / whole with four decimals, rounded down; None of nothing."""
    if whole == 0:
        return None
    parts = part * 10_000 // whole
    return f"{parts // 10_000}.{parts % 10_000:04d}"


def _sum(value: Any, *conditions: Any) -> Any:
    chosen = case((and_(*conditions), value), else_=0) if conditions else value
    return func.coalesce(func.sum(chosen), 0)


_IS_FINALIZED = Reservation.status == "finalized"
_COLUMNS = (
    func.count().label("reserves"),
    _sum(1, _IS_FINALIZED).label("finalizes"),
    _sum(Reservation.total_reserved_micro).label("reserved"),
    _sum(Reservation.finalized_micro).label("charged"),
    _sum(Reservation.total_reserved_micro, _IS_FINALIZED).label("estimated"),
    _sum(Reservation.requested_cost_micro, _IS_FINALIZED).label("actual"),
    _sum(1, Reservation.status != "pending").label("ended"),
    _sum(1, Reservation.status == "expired").label("lost"),
)
_FIGURES: Select[Any] = select(*_COLUMNS)
_BY_ACCOUNT: Select[Any] = (
    select(Reservation.account_id, *_COLUMNS)
    .group_by(Reservation.account_id)
    .order_by(Reservation.account_id)
)
_RESERVES = (
    select(
        Entry.id,
        Entry.created_at,
        Entry.pool_id,
        Entry.amount_micro,
        Entry.pre_balance_micro,
        Reservation.created_at.label("held_at"),
        Reservation.status,
        Reservation.finalized_at,
        Reservation.finalized_micro,
    )
    .join(Reservation, Reservation.id == Entry.reservation_id)
    .where(Entry.entry_type == "shadow_reserve")
    .order_by(Entry.created_at, Entry.id)
)
