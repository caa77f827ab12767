"""Load what commands need: sets of rows, a constant number of statements.

Locks are taken in one order everywhere: reservations by id, then accounts by id. An account's
row guards its lots, balances, sequences and debts, so those are read after it is locked.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, func, literal_column, null, select, text

from shared.database import Tx
from shared.ledger.commands import (
    Adjust,
    Command,
    ExpireHold,
    ExpireLot,
    Extend,
    Finalize,
    Mint,
    Refund,
    Release,
    Reserve,
    Revoke,
)
from shared.ledger.saving import LOT_FIELDS, RESERVATION_FIELDS
from shared.ledger.state import (
    AccountState,
    Allocation,
    Book,
    DebtState,
    KnownAnswer,
    LotState,
    PoolState,
    ReservationState,
)
from shared.models.ledger import (
    GENERAL_POOL,
    OPEN_LOT,
    PENDING_HOLD,
    Account,
    AccountSeq,
    Balance,
    Debt,
    Lot,
    Operation,
    Reservation,
    ReservationLot,
)
from shared.models.types import UtcTime
from shared.parameters import TextSet, member_of

_OF_ACCOUNTS = (Mint, Reserve, Refund, Revoke, Adjust, ExpireLot)
_OF_HOLDS = (Extend, Finalize, Release, ExpireHold)
_KEYED = (Mint, Reserve, Extend, Refund, Revoke, Adjust)
_FIRST_LOTS = 16
_MORE_LOTS = 8


def load(tx: Tx, commands: Sequence[Command]) -> Book:
    """Lock and read all that *commands* need."""
    book = Book(now=tx.now)
    wanted = {c.account_id for c in commands if isinstance(c, _OF_ACCOUNTS)}
    named = {c.reservation_id for c in commands if isinstance(c, _OF_HOLDS)}
    if named:
        _load_reservations(book, tx.all(_RESERVATIONS, ids=named))
    wanted |= {r.account_id for r in book.reservations.values()}
    _load_accounts(tx, book, sorted(wanted))
    book.now = tx.now
    _load_answers(tx, book, commands)
    if named:
        _load_allocations(tx, book, named)
    lot_ids = [c.lot_id for c in commands if isinstance(c, (ExpireLot, Refund, Revoke))]
    if lot_ids:
        named_lots = tx.all(_LOTS_BY_ID, ids=lot_ids)
        _add_lots(book, (row for row in named_lots if row.account_id in book.accounts))
    _load_sources(tx, book, commands)
    _load_debts(tx, book, [c.account_id for c in commands if isinstance(c, (Mint, Adjust))])
    needs = _needs(book, commands)
    _load_due_holds(tx, book, {account_id for account_id, _ in needs})
    _load_spendable(tx, book, needs)
    return book


def _load_reservations(book: Book, rows: Iterable[Any]) -> None:
    for row in rows:
        book.reservations[row.id] = ReservationState(
            **dict(zip(RESERVATION_FIELDS, row, strict=True))
        )


def _load_due_holds(tx: Tx, book: Book, account_ids: set[str]) -> None:
    """Read the holds that are due of accounts that are about to spend, swept or not.

    The account's lock guards them. One that is locked is being settled by a command that waits
    for this account; to wait for it would be a deadlock, so it is left to that command.
    """
    known = [book.accounts[i] for i in account_ids if i in book.accounts]
    holding = [a.id for a in known if any(pool.reserved_micro for pool in a.pools.values())]
    if holding:
        rows = tx.all(_DUE_HOLDS, accounts=holding, now=tx.now)
        due = [row for row in rows if row.id not in book.reservations]
        _load_reservations(book, due)
        _load_allocations(tx, book, [row.id for row in due])


def _load_accounts(tx: Tx, book: Book, ids: Sequence[str]) -> None:
    # The lock comes alone, and the values after it: a statement that waited for a lock would
    # still see other tables as they were before the wait.
    for row in tx.all(_ACCOUNTS, ids=ids):
        book.accounts[row.id] = AccountState(row.id)
    tx.restart_clock()
    for row in tx.all(_POOLS, ids=ids, now=tx.now):
        book.accounts[row.account_id].pools[row.pool_id] = PoolState(
            available_micro=row.available_micro,
            reserved_micro=row.reserved_micro,
            debt_micro=row.debt_micro,
            version=row.version,
            next_seq=row.next_seq or 1,
            next_expiry=row.next_expiry,
        )


def _load_answers(tx: Tx, book: Book, commands: Iterable[Command]) -> None:
    keys = {c.key for c in commands if isinstance(c, _KEYED)}
    keys |= {c.idempotency_key for c in commands if isinstance(c, Finalize) and c.idempotency_key}
    if not keys:
        return
    for row in tx.all(_ANSWERS, keys=sorted(keys)):
        book.answers[(row.account_id, row.operation, row.idempotency_key)] = KnownAnswer(
            row.fingerprint, json.loads(row.answer)
        )


def _load_allocations(tx: Tx, book: Book, holds: Collection[str]) -> None:
    for row in tx.all(_ALLOCATIONS, ids=holds) if holds else ():
        if row.id not in book.lots:
            book.add_lot(_lot_state(row[3:]))
        book.reservations[row.reservation_id].allocations.append(
            Allocation(book.lots[row.id], row.held_micro, row.used_micro, is_new=False)
        )


def _load_sources(tx: Tx, book: Book, commands: Iterable[Command]) -> None:
    named = [c for c in commands if isinstance(c, Mint) and c.source_id is not None]
    sources, types = [c.source_id for c in named], sorted({c.source_type for c in named})
    for row in tx.all(_SOURCES, ids=sources, types=types) if sources else ():
        book.sources[(row.source_type, row.source_id)] = (row.id, row.original_micro)


def _load_debts(tx: Tx, book: Book, account_ids: Iterable[str]) -> None:
    owing = [account_id for account_id in account_ids if _owes(book, account_id)]
    for row in tx.all(_DEBTS, ids=owing) if owing else ():
        book.accounts[row.account_id].debts.append(
            DebtState(
                id=row.id,
                account_id=row.account_id,
                debt_micro=row.debt_micro,
                original_micro=row.original_micro or row.debt_micro,
                created_at=row.created_at,
            )
        )


def _owes(book: Book, account_id: str) -> bool:
    account = book.accounts.get(account_id)
    return account is not None and account.pool(GENERAL_POOL).debt_micro > 0


def _needs(book: Book, commands: Sequence[Command]) -> dict[tuple[str, str], int]:
    """Return how much may be taken from each (account, pool) beyond what holds already took.

    A mint, a refund or a revocation takes nothing, but answers with a balance, so what is due
    must be read.
    """
    needs: dict[tuple[str, str], int] = defaultdict(int)
    reserves = {c.reservation_id: c for c in commands if isinstance(c, Reserve)}
    for command in commands:
        place: Mint | Adjust | Reserve | ReservationState | LotState | None = None
        if isinstance(command, Mint):
            place, amount = command, 0
        elif isinstance(command, (Refund, Revoke)):
            place, amount = book.lots.get(command.lot_id), 0
        elif isinstance(command, Reserve):
            place, amount = command, command.amount_micro
        elif isinstance(command, Adjust):
            place, amount = command, max(0, -command.amount_micro)
        elif isinstance(command, (Extend, Finalize)):
            known = book.reservations.get(command.reservation_id)
            hold = known or reserves.get(command.reservation_id)
            amount = _beyond_hold(hold, command, book)
            place = hold if amount else None
        if place is not None:
            for pool in {place.pool_id, GENERAL_POOL}:
                needs[(place.account_id, pool)] += amount
    return needs


def _beyond_hold(
    hold: ReservationState | Reserve | None, command: Extend | Finalize, book: Book
) -> int:
    if isinstance(command, Extend):
        return command.additional_micro
    if isinstance(hold, Reserve):  # of this same batch
        return max(0, command.actual_cost_micro - hold.amount_micro)
    if hold is None or hold.billing_mode == "shadow" or hold.status in ("finalized", "released"):
        return 0
    if hold.status == "expired" or hold.expires_at <= book.now:
        return command.actual_cost_micro
    held = sum(allocation.reserved_micro for allocation in hold.allocations)
    # An operator's repair may have taken from a live hold what its lots had covered.
    is_short = hold.billing_mode == "soft" or hold.overdraft_micro > 0
    return max(0, command.actual_cost_micro - held) if is_short else 0


def _load_spendable(tx: Tx, book: Book, needs: dict[tuple[str, str], int]) -> None:
    """Read each pool's lots in redemption order until they cover the need, and all now due.

    An account can have ten thousand lots: only as many are read as are wanted.
    """
    # What takes nothing, such as a mint, needs only what is due; that is read without a limit.
    limit = _FIRST_LOTS if any(needs.values()) else 0
    while needs:
        rows = _spendable_rows(tx, sorted(needs), limit)
        _add_lots(book, rows)
        found: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in rows:
            if row.expires_at is None or row.expires_at > tx.now:
                found[(row.account_id, row.pool_id)].append(row)
        needs = {
            pair: amount
            for pair, amount in needs.items()
            if not _is_covered(found[pair], amount, limit)
        }
        limit *= _MORE_LOTS


def _is_covered(rows: Sequence[Any], amount_micro: int, limit: int) -> bool:
    """Tell whether *rows*, read with *limit*, are all of a pool or its first up to the amount."""
    expiring: list[int] = [row.available_micro for row in rows if row.expires_at is not None]
    lasting: list[int] = [row.available_micro for row in rows if row.expires_at is None]
    if len(expiring) == limit:  # more may expire, and those come before any that lasts
        return sum(expiring) >= amount_micro
    return len(lasting) < limit or sum(expiring + lasting) >= amount_micro


def _spendable_rows(tx: Tx, pairs: Sequence[tuple[str, str]], limit: int) -> list[Any]:
    if tx.connection.dialect.name == "sqlite":  # it has no LATERAL; a statement costs it little
        return [
            row
            for account_id, pool_id in pairs
            for row in tx.all(
                _SPENDABLE_SQLITE, account_id=account_id, pool_id=pool_id, now=tx.now, limit=limit
            )
        ]
    accounts, pools = [a for a, _ in pairs], [p for _, p in pairs]
    return list(
        tx.all(
            _SPENDABLE_POSTGRES,
            accounts=accounts,
            pools=pools,
            now=tx.now,
            limit=limit,
        )
    )


def _add_lots(book: Book, rows: Iterable[Any]) -> None:
    for row in rows:
        if row.id not in book.lots:
            book.add_lot(_lot_state(row))


def _lot_state(values: Iterable[Any]) -> LotState:
    lot = LotState(**dict(zip(LOT_FIELDS, values, strict=True)))
    lot.loaded = lot.parts()
    return lot


_LOT_COLUMNS = tuple(getattr(Lot, name) for name in LOT_FIELDS)
_RESERVATIONS = (
    select(*(getattr(Reservation, name) for name in RESERVATION_FIELDS))
    .where(member_of(Reservation.id, "ids"))
    .order_by(Reservation.id)
    .with_for_update(key_share=True)
)
# The sums keep a planner from walking all that the account ever held, or all in order.
_DUE_HOLDS = (
    select(*(getattr(Reservation, name) for name in RESERVATION_FIELDS))
    .where(
        PENDING_HOLD,
        Reservation.expires_at <= bindparam("now", type_=UtcTime()),
        member_of(Reservation.account_id + literal_column("''"), "accounts"),
    )
    .order_by(Reservation.id + literal_column("''"))
    .with_for_update(key_share=True, skip_locked=True)
)
_ACCOUNTS = (
    select(Account.id)
    .where(member_of(Account.id, "ids"))
    .order_by(Account.id)
    .with_for_update(key_share=True)
)
_POOLS = (
    select(
        Balance.account_id,
        Balance.pool_id,
        Balance.available_micro,
        Balance.reserved_micro,
        Balance.debt_micro,
        Balance.version,
        AccountSeq.next_seq,
        # A cached balance is good until a lot of the pool runs out. One step in an index.
        select(func.min(Lot.expires_at, type_=UtcTime()))
        .where(
            Lot.account_id == Balance.account_id,
            Lot.pool_id == Balance.pool_id,
            OPEN_LOT,
            Lot.expires_at > bindparam("now", type_=UtcTime()),
        )
        .scalar_subquery()
        .label("next_expiry"),
    )
    .outerjoin(
        AccountSeq,
        and_(AccountSeq.account_id == Balance.account_id, AccountSeq.pool_id == Balance.pool_id),
    )
    .where(member_of(Balance.account_id, "ids"))
)
_ANSWERS = select(
    Operation.account_id,
    Operation.operation,
    Operation.idempotency_key,
    Operation.fingerprint,
    Operation.answer,
).where(member_of(Operation.idempotency_key, "keys"))
_ALLOCATIONS = (
    select(
        ReservationLot.reservation_id,
        ReservationLot.reserved_micro.label("held_micro"),
        ReservationLot.consumed_micro.label("used_micro"),
        *_LOT_COLUMNS,
    )
    .join(Lot, Lot.id == ReservationLot.lot_id)
    .where(member_of(ReservationLot.reservation_id, "ids"))
    .order_by(ReservationLot.reservation_id, ReservationLot.lot_id)
)
_LOTS_BY_ID = select(*_LOT_COLUMNS).where(member_of(Lot.id, "ids"))
# The type leads the index; without it every lot would be walked.
_SOURCES = select(Lot.id, Lot.source_type, Lot.source_id, Lot.original_micro).where(
    member_of(Lot.source_type, "types"), member_of(Lot.source_id, "ids")
)
_DEBTS = (
    select(Debt.id, Debt.account_id, Debt.debt_micro, Debt.original_micro, Debt.created_at)
    .where(member_of(Debt.account_id, "ids"), Debt.resolved_at == null())
    .order_by(Debt.created_at, Debt.id)
)

# Three short index walks for each pool: lots now due, those that expire, the lasting ones.
_BRANCHES = """
    SELECT * FROM (SELECT {columns} FROM credit_lots WHERE {match} AND expires_at <= :now
     AND available_micro > 0) AS due
    UNION ALL
    SELECT * FROM (SELECT {columns} FROM credit_lots WHERE {match} AND expires_at > :now
     AND available_micro > 0 ORDER BY expires_at, created_at, id LIMIT :limit) AS expiring
    UNION ALL
    SELECT * FROM (SELECT {columns} FROM credit_lots WHERE {match} AND expires_at IS NULL
     AND available_micro > 0 ORDER BY created_at, id LIMIT :limit) AS lasting
"""


def _spendable_statement(template: str, match: str, *lists: str) -> Any:
    listed = ", ".join(LOT_FIELDS)
    branches = _BRANCHES.format(columns=listed, match=match)
    statement = text(template.format(branches=branches)).bindparams(
        bindparam("now", type_=UtcTime()), *(bindparam(name, type_=TextSet()) for name in lists)
    )
    return statement.columns(*(Lot.__table__.c[name] for name in LOT_FIELDS))


_SPENDABLE_POSTGRES = _spendable_statement(
    "SELECT l.* FROM unnest(:accounts, :pools) AS w (a, p), LATERAL ({branches}) AS l",
    "account_id = w.a AND pool_id = w.p AND is_open",
    "accounts",
    "pools",
)
_SPENDABLE_SQLITE = _spendable_statement(
    "{branches}", "account_id = :account_id AND pool_id = :pool_id AND is_open"
)
