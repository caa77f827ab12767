"""What time does to the ledger: holds and lots run out, revenue is rolled up, old keys go.

Each sweep is bounded, may run twice at once, and leaves the rest to the next tick.
"""

from collections import defaultdict
from collections.abc import Sequence

import structlog
from sqlalchemy import bindparam, delete, func, select, text, update

from shared.database import Database, DatabaseBusy, Tx, insert_rows, update_rows, upsert_rows
from shared.errors import Unavailable
from shared.ids import new_id
from shared.ledger import queries
from shared.ledger.book import post
from shared.ledger.commands import Command, ExpireHold, ExpireLot
from shared.ledger.terms import Terms, TermsCache
from shared.models.ledger import (
    GENERAL_POOL,
    OPEN_LOT,
    PENDING_HOLD,
    UNPOSTED_REVENUE,
    Account,
    Balance,
    Entry,
    IdempotencyKey,
    Lot,
    Reservation,
)
from shared.models.types import UtcTime
from shared.parameters import constant, member_of

log = structlog.get_logger()
_BATCH = 200
_ALONE_LOCK_TIMEOUT_MS = 250
_REVENUE_BATCH = 2_000
_KEY_BATCH = 1_000


def expire_holds(database: Database, terms: TermsCache) -> int:
    """End due holds; return how many were ended (W13, W14).

    The holds are found without a lock and decided under it: a finalize that came between wins.
    """
    with database.reading() as tx:
        due = [ExpireHold(row.id) for row in tx.all(_DUE_HOLDS, now=tx.now)]
    return _post_each(database, terms, due)


def expire_lots(database: Database, terms: TermsCache) -> int:
    """Take what is left of due lots; return how many were closed."""
    with database.reading() as tx:
        due = [ExpireLot(row.account_id, row.id) for row in tx.all(_DUE_LOTS, now=tx.now)]
    return _post_each(database, terms, due)


def _post_each(database: Database, terms: TermsCache, commands: Sequence[Command]) -> int:
    """Post *commands* in one transaction; if that fails each alone, so that none stops the rest.

    Returns how many ended what they name: a hold that is not sound stays as it is.
    """
    current = terms.current()
    try:
        return _post_together(database, current, commands)
    except Exception as error:
        if isinstance(error, Unavailable) and not isinstance(error, DatabaseBusy):
            raise
        log.warning("sweep_batch_failed", commands=len(commands), exc_info=True)
    done = 0
    for command in commands:
        try:
            done += _post_together(database, current, [command], _ALONE_LOCK_TIMEOUT_MS)
        except DatabaseBusy:
            continue  # its turn comes with a later tick
        except Unavailable:
            raise
        except Exception:
            log.exception("sweep_failed", operation=command.operation)
    return done


def _post_together(
    database: Database,
    terms: Terms,
    commands: Sequence[Command],
    lock_timeout_ms: int | None = None,
) -> int:
    if not commands:
        return 0
    with database.transaction(lock_timeout_ms=lock_timeout_ms) as tx:
        outcomes = post(tx, commands, terms)
    ended = [
        command
        for command, outcome in zip(commands, outcomes, strict=True)
        if outcome.unwrap().get("status") != "pending"
    ]
    if ended:
        log.info(
            "expired",
            reservation_ids=[one.reservation_id for one in ended if isinstance(one, ExpireHold)],
            lot_ids=[one.lot_id for one in ended if isinstance(one, ExpireLot)],
        )
    return len(ended)


def roll_up_revenue(database: Database) -> int:
    """Add posted revenue entries to their receivers' lots and balances; return the charges done.

    The entries were written with the charge; here they become spendable (contract 4.7, W52).
    One lot a receiver and day holds them.
    """
    with database.transaction() as tx:
        taken = tx.all(_UNPOSTED)
        if not taken:
            return 0
        ids = [row.id for row in taken]
        totals = _totals(tx, ids)
        tx.all(_LOCK_ACCOUNTS, ids=sorted(totals))
        for account_id, amount in sorted(totals.items()):
            _add_revenue(tx, account_id, amount)
            tx.balances.append(queries.current_balance(tx, account_id, GENERAL_POOL))
        tx.run(
            update(Reservation)
            .where(member_of(Reservation.id, "ids"))
            .values(is_revenue_posted=True),
            ids=ids,
        )
    return len(taken)


def _totals(tx: Tx, reservation_ids: list[str]) -> dict[str, int]:
    # From the entries, not from today's configuration: receivers may have changed since.
    totals: dict[str, int] = defaultdict(int)
    for row in tx.all(_REVENUE_ENTRIES, ids=reservation_ids):
        totals[row.account_id] += int(row.amount_micro)
    return totals


def _add_revenue(tx: Tx, account_id: str, amount_micro: int) -> None:
    source_id = f"revenue-{account_id}-{tx.now:%Y-%m-%d}"
    lot = tx.first(_LOT_OF_DAY, source_id=source_id)
    if lot is None:
        row = {
            "id": new_id(tx.now),
            "account_id": account_id,
            "pool_id": GENERAL_POOL,
            "source_type": "commons_dividend",
            "source_id": source_id,
            "original_micro": amount_micro,
            "available_micro": amount_micro,
            "is_open": True,
            "created_at": tx.now,
        }
        insert_rows(tx, Lot.__table__, [row])
    else:
        grown = {
            "id": lot.id,
            "original_micro": amount_micro,
            "available_micro": amount_micro,
            "is_open": True,
        }
        update_rows(tx, Lot.__table__, [grown], added=("original_micro", "available_micro"))
    balance = tx.first(_BALANCE, account_id=account_id)
    row = {
        "account_id": account_id,
        "pool_id": GENERAL_POOL,
        "available_micro": (balance.available_micro if balance else 0) + amount_micro,
        "version": (balance.version if balance else 0) + 1,
        "updated_at": tx.now,
    }
    upsert_rows(tx, Balance.__table__, [row], key=("account_id", "pool_id"))


def sweep_idempotency_keys(database: Database) -> int:
    """Delete keys that the runbook's table shows no longer, in bounded batches; return how many.

    Correctness does not rest on them: answers are remembered in ``credit_operations`` for ever.
    """
    deleted = 0
    while True:
        with database.transaction() as tx:
            old = select(IdempotencyKey.scope, IdempotencyKey.idempotency_key).where(
                IdempotencyKey.expires_at < tx.now
            )
            rows = tx.all(old.limit(_KEY_BATCH))
            for row in rows:
                tx.run(
                    delete(IdempotencyKey).where(
                        IdempotencyKey.scope == row.scope,
                        IdempotencyKey.idempotency_key == row.idempotency_key,
                        IdempotencyKey.expires_at < tx.now,
                    )
                )
        deleted += len(rows)
        if len(rows) < _KEY_BATCH:
            return deleted


_NOW = bindparam("now", type_=UtcTime())
_DUE_HOLDS = (
    select(Reservation.id)
    .where(PENDING_HOLD, Reservation.expires_at <= _NOW)
    .order_by(Reservation.expires_at)
    .limit(constant(_BATCH))
)
_DUE_LOTS = (
    select(Lot.id, Lot.account_id)
    .where(OPEN_LOT, Lot.available_micro > 0, Lot.expires_at <= _NOW)
    .order_by(Lot.expires_at)
    .limit(constant(_BATCH))
)
_UNPOSTED = (
    select(Reservation.id)
    .where(UNPOSTED_REVENUE)
    .order_by(Reservation.finalized_at)
    .limit(constant(_REVENUE_BATCH))
    .with_for_update(skip_locked=True)
)
_REVENUE_ENTRIES = (
    select(Entry.account_id, func.sum(Entry.amount_micro).label("amount_micro"))
    .where(
        member_of(Entry.reservation_id, "ids"),
        Entry.entry_type.in_(("commons_contribution", "revenue_share")),
    )
    .group_by(Entry.account_id)
)
_LOCK_ACCOUNTS = (
    select(Account.id)
    .where(member_of(Account.id, "ids"))
    .order_by(Account.id)
    .with_for_update(key_share=True)
)
_LOT_OF_DAY = select(Lot.id).where(
    Lot.source_type == "commons_dividend", Lot.source_id == text(":source_id")
)
_BALANCE = select(Balance.available_micro, Balance.version).where(
    Balance.account_id == text(":account_id"), Balance.pool_id == GENERAL_POOL
)
