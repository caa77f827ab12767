"""Cached balances against the database, as the API itself would answer (W63, W64).

The cache is read before the database: then nothing in it can be newer, unless the database was
restored. What differs is looked at once more after a while, so that a change on its way to Redis is
no drift.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog
from sqlalchemy import bindparam, select

from shared.balance_cache import AMOUNTS
from shared.balance_upkeep import Held, View
from shared.database import CachedBalance, Tx
from shared.ledger import queries
from shared.models.ledger import GENERAL_POOL, Account, Balance
from shared.observability import BALANCE_DRIFT
from shared.parameters import member_of
from shared.reconciliation.desk import Desk
from shared.reconciliation.findings import Finding, Report

log = structlog.get_logger()
_ACCOUNTS_AT_ONCE = 500
_SETTLE_SECONDS = 1.0


def check_cache(desk: Desk, report: Report, after: str | None) -> str | None:
    """Compare the cached balances of the accounts that come after the id *after*.

    What is wrong is corrected. Raises Unavailable if Redis is away.
    """
    report.counts.update(accountsChecked=0, balancesChecked=0, accountsDrifted=0)
    with desk.database.reading() as tx:
        ids = [row.id for row in tx.all(_ACCOUNTS, after=after or "")]
        pools = tx.all(_POOLS, ids=ids) if ids else ()
    views = {(account, GENERAL_POOL) for account in ids}
    views |= {(row.account_id, row.pool_id) for row in pools}
    held = desk.cached.look(sorted(views))
    drifted = _find_drift(desk, held)
    report.counts["accountsChecked"] += len({account for account, _ in held})
    report.counts["balancesChecked"] += len(held)
    report.counts["accountsDrifted"] += len({account for account, _ in drifted})
    for found, truth in drifted.values():
        report.add(_correct(desk, found, truth))
    return ids[-1] if len(ids) == _ACCOUNTS_AT_ONCE else None


def _find_drift(desk: Desk, held: Mapping[View, Held]) -> dict[View, tuple[Held, CachedBalance]]:
    """Return what is wrong in *held*, and still is after a while, with what is right."""
    with desk.database.reading() as tx:
        suspects = {view: truth.version for view, truth in _differing(tx, held)}
    if not suspects:
        return {}
    desk.pause(_SETTLE_SECONDS)
    again = desk.cached.look(list(suspects))
    with desk.database.reading() as tx:
        return {
            view: (again[view], truth)
            for view, truth in _differing(tx, again)
            # What was true when the wait began has arrived; only what came since is on its way.
            if not suspects[view] <= again[view].version < truth.version
        }


def _differing(tx: Tx, held: Mapping[View, Held]) -> Iterator[tuple[View, CachedBalance]]:
    """Yield the views of *held* that are not what the database says, with that."""
    rows: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in tx.all(_BALANCES, ids=sorted({account for account, _ in held})) if held else ():
        rows[row.account_id][row.pool_id] = row
    for view, found in held.items():
        account_id, pool_id = view
        parts = [rows[account_id][p] for p in {pool_id, GENERAL_POOL} if p in rows[account_id]]
        is_booked = found.version == sum(part.version for part in parts)
        if is_booked and found.amounts == _sum(parts):
            continue
        # Holds and lots whose time is over count as ended before they are booked.
        truth = queries.current_balance(tx, account_id, pool_id)
        if found.amounts != _amounts(truth):
            yield view, truth


def _sum(parts: Iterable[Any]) -> dict[str, int]:
    listed = list(parts)
    return {name: sum(getattr(part, name) for part in listed) for name in AMOUNTS}


def _amounts(balance: CachedBalance) -> dict[str, int]:
    return {name: getattr(balance, name) for name in AMOUNTS}


def _correct(desk: Desk, found: Held, truth: CachedBalance) -> Finding:
    is_corrected = desk.cached.correct(found, truth)
    BALANCE_DRIFT.labels("found").inc()
    if is_corrected:
        BALANCE_DRIFT.labels("corrected").inc()
    place = f"{truth.account_id} {truth.pool_id}"
    log.warning(
        "billing.reconcile.drift",
        account_id=truth.account_id,
        pool_id=truth.pool_id,
        is_corrected=is_corrected,
    )
    proposal = (
        "It was overwritten with the right one."
        if is_corrected
        else f"It has changed since. If it is wrong: arrakis cache reset {truth.account_id}"
    )
    return Finding(
        "cached_balance_differs",
        "warn",
        place,
        f"The cached balance of {place} was not that of the database.",
        proposal,
        {
            "cached": _told(found.amounts) if found.amounts else None,
            "stored": _told(_amounts(truth)),
            "cachedVersion": found.version,
            "storedVersion": truth.version,
            "corrected": is_corrected,
        },
    )


def _told(amounts: Mapping[str, int]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


_ACCOUNTS = (
    select(Account.id)
    .where(Account.id > bindparam("after"))
    .order_by(Account.id)
    .limit(_ACCOUNTS_AT_ONCE)
)
_POOLS = select(Balance.account_id, Balance.pool_id).where(member_of(Balance.account_id, "ids"))
_BALANCES = select(
    Balance.account_id, Balance.pool_id, Balance.version, *(getattr(Balance, n) for n in AMOUNTS)
).where(member_of(Balance.account_id, "ids"))
