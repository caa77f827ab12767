"""Save what a batch has changed: each table is written once, in the order of its references."""

from typing import Any

from shared.clock import add_seconds
from shared.database import CachedBalance, Tx, insert_rows, update_rows, upsert_rows
from shared.ledger.state import LOT_PARTS, Allocation, Book, ReservationState
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
    """Write each changed table once."""
    _save_lots(tx, book)
    _save_reservations(tx, book)
    _save_debts(tx, book)
    insert_rows(tx, Entry.__table__, book.entries)
    _save_pools(tx, book)
    _note_balances(tx, book)
    insert_rows(tx, Operation.__table__, book.new_answers)
    upsert_rows(
        tx,
        IdempotencyKey.__table__,
        [
            {
                "scope": "deposit",
                "idempotency_key": known["key"],
                "response_hash": known["lot"],
                "created_at": book.now,
                "expires_at": add_seconds(book.now, _DEPOSIT_KEY_SECONDS),
            }
            for known in {known["key"]: known for known in book.deposit_keys}.values()
        ],
        key=("scope", "idempotency_key"),
    )


def _save_lots(tx: Tx, book: Book) -> None:
    lots = book.lots.values()
    insert_rows(
        tx,
        Lot.__table__,
        [
            {
                **{name: getattr(lot, name) for name in LOT_FIELDS},
                "is_open": lot.available_micro + lot.reserved_micro > 0,
            }
            for lot in lots
            if lot.is_new
        ],
    )
    update_rows(
        tx,
        Lot.__table__,
        [
            {
                "id": lot.id,
                **{
                    name: now - before
                    for name, now, before in zip(LOT_PARTS, lot.parts(), lot.loaded, strict=True)
                },
                "refunded_at": lot.refunded_at,
                "is_open": lot.available_micro + lot.reserved_micro > 0,
            }
            for lot in lots
            if not lot.is_new and (lot.parts() != lot.loaded or lot.refunded_at == book.now)
        ],
        added=LOT_PARTS,
    )
    ended = [lot for lot in lots if lot.is_ended and not lot.is_new]
    rows = [{"id": lot.id, "expires_at": lot.expires_at} for lot in ended]
    update_rows(tx, Lot.__table__, rows)


def _save_reservations(tx: Tx, book: Book) -> None:
    reservations = book.reservations.values()
    insert_rows(
        tx,
        Reservation.__table__,
        [{n: getattr(r, n) for n in RESERVATION_FIELDS} for r in reservations if r.is_new],
    )
    update_rows(
        tx,
        Reservation.__table__,
        [
            {"id": r.id, **{n: getattr(r, n) for n in CHANGED_FIELDS}}
            for r in reservations
            if r.is_changed and not r.is_new
        ],
    )
    pairs = [(r, a) for r in reservations for a in r.allocations]
    insert_rows(
        tx,
        ReservationLot.__table__,
        [{**_allocation_row(r, a), "created_at": book.now} for r, a in pairs if a.is_new],
    )
    update_rows(
        tx,
        ReservationLot.__table__,
        [_allocation_row(r, a) for r, a in pairs if a.is_changed and not a.is_new],
        key=("reservation_id", "lot_id"),
    )


def _allocation_row(reservation: ReservationState, allocation: Allocation) -> dict[str, Any]:
    return {
        "reservation_id": reservation.id,
        "lot_id": allocation.lot.id,
        "reserved_micro": allocation.reserved_micro,
        "consumed_micro": allocation.consumed_micro,
    }


def _save_debts(tx: Tx, book: Book) -> None:
    insert_rows(
        tx,
        Debt.__table__,
        [{n: getattr(d, n) for n in DEBT_FIELDS} for d in book.debts if d.is_new],
    )
    update_rows(
        tx,
        Debt.__table__,
        [
            {"id": d.id, "debt_micro": d.debt_micro, "resolved_at": d.resolved_at}
            for d in book.debts
            if d.is_changed and not d.is_new
        ],
    )
    insert_rows(tx, DebtPayment.__table__, book.debt_payments)


def _note_balances(tx: Tx, book: Book) -> None:
    """Tell caches the views that have changed: of an account's every pool if general has."""
    for account in book.accounts.values():
        changed = {pool_id for pool_id, pool in account.pools.items() if pool.is_changed}
        shown = account.pools if GENERAL_POOL in changed else changed
        ends = [pool.next_expiry for pool in account.pools.values() if pool.next_expiry]
        ends += [
            hold.expires_at
            for hold in book.reservations.values()
            if hold.account_id == account.id and hold.status == "pending"
        ]
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


def _save_pools(tx: Tx, book: Book) -> None:
    for account in book.accounts.values():
        for pool in account.pools.values():
            pool.version += pool.is_changed
    pools = [
        (account.id, pool_id, pool)
        for account in book.accounts.values()
        for pool_id, pool in account.pools.items()
        if pool.is_changed
    ]
    upsert_rows(
        tx,
        Balance.__table__,
        [
            {
                "account_id": account_id,
                "pool_id": pool_id,
                "available_micro": pool.available_micro,
                "reserved_micro": pool.reserved_micro,
                "debt_micro": pool.debt_micro,
                "version": pool.version,
                "updated_at": book.now,
            }
            for account_id, pool_id, pool in pools
        ],
        key=("account_id", "pool_id"),
    )
    upsert_rows(
        tx,
        AccountSeq.__table__,
        [
            {"account_id": account_id, "pool_id": pool_id, "next_seq": pool.next_seq}
            for account_id, pool_id, pool in pools
        ],
        key=("account_id", "pool_id"),
    )
