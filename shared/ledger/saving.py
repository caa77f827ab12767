"""Save what a batch has changed: each table is written once, in the order of its references."""

from collections import defaultdict
from datetime import datetime
from typing import Any

from shared.clock import add_seconds
from shared.database import CachedBalance, Tx, Write, update_rows, write
from shared.ledger.state import LOT_PARTS, Allocation, Book, PoolState, ReservationState
from shared.models.ledger import (
    GENERAL_POOL,
    AccountSeq,
    Balance,
    Debt,
    DebtPayment,
    Entry,
    IdempotencyKey,
    Lot,
    Operation,
    Reservation,
    ReservationLot,
)

_DEPOSIT_KEY_SECONDS = 86_400
_WITH_HOLDS_SECONDS = 5

_OWNED = ("id", "account_id")  # names the account, so that a cluster knows where the row is
CHANGED_FIELDS = (
    "status",
    "total_reserved_micro",
    "overdraft_micro",
    "expires_at",
    "finalized_at",
    "requested_cost_micro",
    "finalized_micro",
    "released_micro",
    "overrun_micro",
    "uncharged_micro",
    "debt_micro",
    "is_late",
    "commons_micro",
    "community_micro",
    "foundation_micro",
    "is_revenue_posted",
)
RESERVATION_FIELDS = (
    "id",
    "account_id",
    "pool_id",
    "billing_mode",
    "created_at",
    "idempotency_key",
    *CHANGED_FIELDS,
)
LOT_FIELDS = (
    "id",
    "account_id",
    "pool_id",
    "source_type",
    "source_id",
    "original_micro",
    *LOT_PARTS,
    "refunded_at",
    "expires_at",
    "created_at",
)
DEBT_FIELDS = (
    "id",
    "account_id",
    "debt_micro",
    "original_micro",
    "source_reservation_id",
    "source_lot_id",
    "source_payment_id",
    "created_at",
    "resolved_at",
)


def save(tx: Tx, book: Book) -> None:
    """Write each changed table once: what refers to a row comes after it."""
    write(
        tx,
        [
            *_lots(book),
            *_reservations(book),
            *_debts(book),
            Write("insert", Entry.__table__, book.entries),
            *_pools(book),
            Write("insert", Operation.__table__, book.new_answers),
            _deposit_keys(book),
        ],
    )
    # The rare lot that ends before its time was written above; a row is not written twice at once.
    ended = [lot for lot in book.lots.values() if lot.is_ended and not lot.is_new]
    update_rows(tx, Lot.__table__, [{"id": lot.id, "expires_at": lot.expires_at} for lot in ended])
    _note_balances(tx, book)


def _deposit_keys(book: Book) -> Write:
    rows = [
        {
            "scope": "deposit",
            "idempotency_key": known["key"],
            "response_hash": known["lot"],
            "created_at": book.now,
            "expires_at": add_seconds(book.now, _DEPOSIT_KEY_SECONDS),
        }
        for known in {known["key"]: known for known in book.deposit_keys}.values()
    ]
    return Write("upsert", IdempotencyKey.__table__, rows, ("scope", "idempotency_key"))


def _lots(book: Book) -> list[Write]:
    lots = book.lots.values()
    new = [
        {
            **{name: getattr(lot, name) for name in LOT_FIELDS},
            "is_open": lot.available_micro + lot.reserved_micro > 0,
        }
        for lot in lots
        if lot.is_new
    ]
    changed = [
        {
            "id": lot.id,
            "account_id": lot.account_id,
            **{
                name: now - before
                for name, now, before in zip(LOT_PARTS, lot.parts(), lot.loaded, strict=True)
            },
            "refunded_at": lot.refunded_at,
            "is_open": lot.available_micro + lot.reserved_micro > 0,
        }
        for lot in lots
        if not lot.is_new and (lot.parts() != lot.loaded or lot.refunded_at == book.now)
    ]
    table = Lot.__table__
    return [Write("insert", table, new), Write("update", table, changed, _OWNED, LOT_PARTS)]


def _reservations(book: Book) -> list[Write]:
    reservations = book.reservations.values()
    table, parts = Reservation.__table__, ReservationLot.__table__
    new = [{n: getattr(r, n) for n in RESERVATION_FIELDS} for r in reservations if r.is_new]
    changed = [
        {n: getattr(r, n) for n in (*_OWNED, *CHANGED_FIELDS)}
        for r in reservations
        if r.is_changed and not r.is_new
    ]
    pairs = [(r, a) for r in reservations for a in r.allocations]
    new_parts = [{**_allocation_row(r, a), "created_at": book.now} for r, a in pairs if a.is_new]
    changed_parts = [_allocation_row(r, a) for r, a in pairs if a.is_changed and not a.is_new]
    return [
        Write("insert", table, new),
        Write("update", table, changed, _OWNED),
        Write("insert", parts, new_parts),
        Write("update", parts, changed_parts, ("reservation_id", "lot_id")),
    ]


def _allocation_row(reservation: ReservationState, allocation: Allocation) -> dict[str, Any]:
    return {
        "reservation_id": reservation.id,
        "lot_id": allocation.lot.id,
        "reserved_micro": allocation.reserved_micro,
        "consumed_micro": allocation.consumed_micro,
    }


def _debts(book: Book) -> list[Write]:
    new = [{n: getattr(d, n) for n in DEBT_FIELDS} for d in book.debts if d.is_new]
    changed = [
        {"id": d.id, "debt_micro": d.debt_micro, "resolved_at": d.resolved_at}
        for d in book.debts
        if d.is_changed and not d.is_new
    ]
    return [
        Write("insert", Debt.__table__, new),
        Write("update", Debt.__table__, changed, ("id",)),
        Write("insert", DebtPayment.__table__, book.debt_payments),
    ]


def _note_balances(tx: Tx, book: Book) -> None:
    """Tell caches the views that have changed: of an account's every pool if general has."""
    holds: dict[str, list[datetime]] = defaultdict(list)
    for hold in book.reservations.values():
        if hold.status == "pending":
            holds[hold.account_id].append(hold.expires_at)
    for account in book.accounts.values():
        changed = {pool_id for pool_id, pool in account.pools.items() if pool.is_changed}
        shown = account.pools if GENERAL_POOL in changed else changed
        ends = [pool.next_expiry for pool in account.pools.values() if pool.next_expiry]
        ends += holds[account.id]
        if any(pool.reserved_micro for pool in account.pools.values()):
            # Other holds than this batch's may run out sooner, so what is told is told briefly.
            ends.append(add_seconds(book.now, _WITH_HOLDS_SECONDS))
        for pool_id in shown:
            parts = [account.pool(name) for name in {pool_id, GENERAL_POOL}]
            tx.balances.append(
                CachedBalance(
                    account_id=account.id,
                    pool_id=pool_id,
                    available_micro=account.view(pool_id),
                    reserved_micro=sum(part.reserved_micro for part in parts),
                    debt_micro=account.pool(GENERAL_POOL).debt_micro,
                    version=sum(part.version for part in parts),
                    good_until=min(ends, default=None),
                )
            )


def _changed_pools(book: Book) -> list[tuple[str, str, PoolState]]:
    """Return the pools that have changed, each with its next version."""
    changed = [
        (account.id, pool_id, pool)
        for account in book.accounts.values()
        for pool_id, pool in account.pools.items()
        if pool.is_changed
    ]
    for _, _, pool in changed:
        pool.version += 1
    return changed


def _pools(book: Book) -> list[Write]:
    changed = _changed_pools(book)
    balances = [
        {
            "account_id": account_id,
            "pool_id": pool_id,
            "available_micro": pool.available_micro,
            "reserved_micro": pool.reserved_micro,
            "debt_micro": pool.debt_micro,
            "version": pool.version,
            "updated_at": book.now,
        }
        for account_id, pool_id, pool in changed
    ]
    sequences = [
        {"account_id": account_id, "pool_id": pool_id, "next_seq": pool.next_seq}
        for account_id, pool_id, pool in changed
    ]
    key = ("account_id", "pool_id")
    return [
        Write("upsert", Balance.__table__, balances, key),
        Write("upsert", AccountSeq.__table__, sequences, key),
    ]
