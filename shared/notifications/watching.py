"""Watching accounts: which have become low, and whose credits are about to expire.

It reads what the ledger has written, page by page, and never slows a reserve or a finalize down.
"""

import threading
from typing import Any

from sqlalchemy import bindparam, exists, func, select, text

from shared.clock import add_seconds, to_wire
from shared.database import Database, Tx, patiently, upsert_rows
from shared.models.ledger import OPEN_LOT, Account, Balance, Lot
from shared.models.notifications import BalanceWatch, Event
from shared.models.types import UtcTime
from shared.notifications.outbox import EventType, emit, has_subscribers
from shared.notifications.policy import load_policy

_PAGE, _LOTS = 500, 200
_HOUR_SECONDS = 3600


class AccountWatch:
    """Goes through all accounts in the order of their ids, a page a call, again and again.

    Where it is, is kept in memory: after a restart it begins anew, which does no harm.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._after = ""

    def look(self) -> int:
        """Look at a page of accounts and at a batch of lots; return how many there were.

        0 means that all were seen, that nobody wants to know, or that another thread looks.
        """
        if not self._lock.acquire(blocking=False):
            return 0
        try:
            return self._look_at_balances() + tell_of_expiring(self._database)
        finally:
            self._lock.release()

    def _look_at_balances(self) -> int:
        with self._database.reading() as tx:
            threshold = load_policy(tx).low_balance_threshold_micro
            if not threshold or not has_subscribers(tx, EventType.LOW_BALANCE):
                return 0
            page = tx.all(_BALANCES, after=self._after)
        crossed = [row for row in page if bool(row.was_low) != (row.available_micro < threshold)]
        if crossed:
            patiently(lambda: self._note(crossed, threshold))
        self._after = page[-1].account_id if len(page) == _PAGE else ""
        return len(page) if self._after else 0

    def _note(self, crossed: list[Any], threshold: int) -> None:
        with self._database.transaction() as tx:
            for row in crossed:
                _note_crossing(tx, row.account_id, row.available_micro, threshold)


def _note_crossing(tx: Tx, account_id: str, available_micro: int, threshold: int) -> None:
    """Note that an account has become low, and tell of it; or that it is low no longer."""
    known = tx.first(_WATCHED, account=account_id)
    is_low = available_micro < threshold
    if is_low == (known is not None and known.is_low):
        return  # another worker was faster
    crossings = (known.crossings if known is not None else 0) + is_low
    row = {
        "account_id": account_id,
        "is_low": is_low,
        "crossings": crossings,
        "changed_at": tx.now,
    }
    upsert_rows(tx, BalanceWatch.__table__, [row], key=("account_id",))
    if is_low:
        emit(
            tx,
            EventType.LOW_BALANCE,
            key=f"{EventType.LOW_BALANCE}:{account_id}:{crossings}",
            data={
                "accountId": account_id,
                "availableMicro": str(available_micro),
                "thresholdMicro": str(threshold),
            },
        )


def tell_of_expiring(database: Database) -> int:
    """Tell of a batch of lots that will expire soon with something left, each once."""
    with database.reading() as tx:
        hours = load_policy(tx).expiry_notice_hours
        if not hours or not has_subscribers(tx, EventType.GRANT_EXPIRING):
            return 0
        until = add_seconds(tx.now, hours * _HOUR_SECONDS)
        lots = tx.all(_EXPIRING, now=tx.now, until=until)
    if lots:
        with database.transaction() as tx:
            for lot in lots:
                emit(
                    tx,
                    EventType.GRANT_EXPIRING,
                    key=f"{EventType.GRANT_EXPIRING}:{lot.id}",
                    data={
                        "accountId": lot.account_id,
                        "lotId": lot.id,
                        "poolId": lot.pool_id,
                        "sourceType": lot.source_type,
                        "availableMicro": str(lot.available_micro),
                        "expiresAt": to_wire(lot.expires_at),
                    },
                )
    return len(lots)


_AVAILABLE = func.sum(Balance.available_micro).label("available_micro")
# The page first: so that the database sums no more accounts than it shows.
_ACCOUNTS = (
    select(Account.id)
    .where(
        Account.id > text(":after"),
        Account.entity_type.not_in(("foundation", "commons", "protocol")),
        Account.id != "sys-community-pool",
        exists().where(Balance.account_id == Account.id),
    )
    .order_by(Account.id)
    .limit(_PAGE)
    .subquery()
)
_BALANCES = (
    select(Balance.account_id, _AVAILABLE, BalanceWatch.is_low.label("was_low"))
    .join(_ACCOUNTS, _ACCOUNTS.c.id == Balance.account_id)
    .outerjoin(BalanceWatch, BalanceWatch.account_id == Balance.account_id)
    .group_by(Balance.account_id, BalanceWatch.is_low)
    .order_by(Balance.account_id)
)
_WATCHED = (
    select(BalanceWatch.is_low, BalanceWatch.crossings)
    .where(BalanceWatch.account_id == text(":account"))
    .with_for_update()
)
_NOW, _UNTIL = bindparam("now", type_=UtcTime()), bindparam("until", type_=UtcTime())
_EXPIRING = (
    select(
        Lot.id, Lot.account_id, Lot.pool_id, Lot.source_type, Lot.available_micro, Lot.expires_at
    )
    .where(
        OPEN_LOT,
        Lot.expires_at > _NOW,
        Lot.expires_at <= _UNTIL,
        Lot.available_micro > 0,
        ~exists().where(Event.key == f"{EventType.GRANT_EXPIRING}:" + Lot.id),
    )
    .order_by(Lot.expires_at, Lot.id)
    .limit(_LOTS)
)
