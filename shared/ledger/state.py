"""The ledger in memory: what a batch of commands has loaded, and what it will write.

Pure data with the bookkeeping that keeps lots, pools and entries in step: credits move only
through :class:`Book`, so a balance cannot change without its lot, nor an entry without a balance.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared.clock import to_wire
from shared.models.ledger import GENERAL_POOL

LOT_PARTS = (
    "available_micro",
    "reserved_micro",
    "consumed_micro",
    "expired_micro",
    "clawed_back_micro",
)
LotParts = tuple[int, int, int, int, int]
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(slots=True)
class LotState:
    """A lot as it is now in this batch."""

    id: str
    account_id: str
    pool_id: str
    source_type: str
    source_id: str | None
    original_micro: int
    expires_at: datetime | None
    created_at: datetime
    available_micro: int = 0
    reserved_micro: int = 0
    consumed_micro: int = 0
    expired_micro: int = 0
    clawed_back_micro: int = 0
    refunded_at: datetime | None = None
    spent_since_refund_micro: int = 0
    is_new: bool = False
    is_ended: bool = False  # in this batch, before the time that it had
    # As loaded: what is written are the differences, so a repair by hand is never overwritten.
    loaded: LotParts = (0, 0, 0, 0, 0)

    def is_due(self, now: datetime) -> bool:
        """Tell whether the lot's time is over at *now*."""
        return self.expires_at is not None and self.expires_at <= now

    def parts(self) -> LotParts:
        """Return the five parts in the order of ``LOT_PARTS``."""
        return (
            self.available_micro,
            self.reserved_micro,
            self.consumed_micro,
            self.expired_micro,
            self.clawed_back_micro,
        )


@dataclass(slots=True)
class Allocation:
    """What one hold took from one lot, and consumed of it."""

    lot: LotState
    reserved_micro: int
    consumed_micro: int = 0
    is_new: bool = True
    is_changed: bool = False


@dataclass(slots=True)
class ReservationState:
    """A hold as it is now in this batch."""

    id: str
    account_id: str
    pool_id: str
    total_reserved_micro: int
    overdraft_micro: int
    status: str
    billing_mode: str
    expires_at: datetime
    created_at: datetime
    idempotency_key: str | None = None
    finalized_at: datetime | None = None
    requested_cost_micro: int | None = None
    finalized_micro: int = 0
    released_micro: int = 0
    overrun_micro: int = 0
    uncharged_micro: int = 0
    debt_micro: int = 0
    is_late: bool = False
    commons_micro: int = 0
    community_micro: int = 0
    foundation_micro: int = 0
    is_revenue_posted: bool = True
    allocations: list[Allocation] = field(default_factory=list)
    is_new: bool = False
    is_changed: bool = False


@dataclass(slots=True)
class DebtState:
    """An open debt, oldest first in its account's list."""

    id: str
    account_id: str
    debt_micro: int
    original_micro: int
    created_at: datetime
    source_reservation_id: str | None = None
    source_lot_id: str | None = None
    source_payment_id: str | None = None
    resolved_at: datetime | None = None
    is_new: bool = False
    is_changed: bool = False


@dataclass(slots=True)
class PoolState:
    """An account's credits in one pool; debts are kept in the general one."""

    available_micro: int = 0
    reserved_micro: int = 0
    debt_micro: int = 0
    version: int = 0
    next_seq: int = 1
    next_expiry: datetime | None = None
    # Balance and sequence are written together, so a pool that has entries always has both rows.
    is_changed: bool = False


@dataclass(slots=True)
class AccountState:
    """An account: its pools, and its open debts if they were loaded."""

    id: str
    pools: dict[str, PoolState] = field(default_factory=dict)
    debts: list[DebtState] = field(default_factory=list)

    def pool(self, pool_id: str) -> PoolState:
        """Return the state of *pool_id* for changing it, empty if the account never had one."""
        if pool_id not in self.pools:
            self.pools[pool_id] = PoolState()
        return self.pools[pool_id]

    def view(self, pool_id: str) -> int:
        """Return what a request on *pool_id* may spend: that pool plus general, less debts."""
        general, own = self.pools.get(GENERAL_POOL), self.pools.get(pool_id)
        micro = general.available_micro if general else 0
        return micro + own.available_micro if own and own is not general else micro

    def balance(self, pool_id: str) -> dict[str, str]:
        """Return the balance of the view of *pool_id* as callers see it (contract 4.3)."""
        seen = [self.pools[name] for name in {pool_id, GENERAL_POOL} if name in self.pools]
        return balance_answer(
            available_micro=self.view(pool_id),
            reserved_micro=sum([pool.reserved_micro for pool in seen]),
            debt_micro=sum([pool.debt_micro for pool in seen]),
        )


def balance_answer(*, available_micro: int, reserved_micro: int, debt_micro: int) -> dict[str, str]:
    """Write a balance for callers; settled is what would be there if no hold were open."""
    return {
        "availableMicro": str(available_micro),
        "reservedMicro": str(reserved_micro),
        "debtMicro": str(debt_micro),
        "settledMicro": str(available_micro + reserved_micro),
    }


def describe_hold(
    account: AccountState, reservation: ReservationState, plan: list[tuple[LotState, int]]
) -> dict[str, Any]:
    """Write the answer to a reserve or an extend."""
    return {
        "reservationId": reservation.id,
        "accountId": account.id,
        "poolId": reservation.pool_id,
        "reservedMicro": str(reservation.total_reserved_micro),
        "status": reservation.status,
        "billingMode": reservation.billing_mode,
        "expiresAt": to_wire(reservation.expires_at),
        "balance": account.balance(reservation.pool_id),
        "allocations": [{"lotId": lot.id, "reservedMicro": str(part)} for lot, part in plan],
    }


def describe_finalize(reservation: ReservationState) -> dict[str, Any]:
    """Write the answer to a finalize from what the reservation keeps of it, for ever the same."""
    assert reservation.finalized_at is not None
    return {
        "reservationId": reservation.id,
        "accountId": reservation.account_id,
        "finalizedMicro": str(reservation.finalized_micro),
        "releasedMicro": str(reservation.released_micro),
        "overrunMicro": str(reservation.overrun_micro),
        "unchargedMicro": str(reservation.uncharged_micro),
        "debtMicro": str(reservation.debt_micro),
        "billingMode": reservation.billing_mode,
        "late": reservation.is_late,
        "finalizedAt": to_wire(reservation.finalized_at),
    }


@dataclass(slots=True)
class KnownAnswer:
    """An answer that was given before, with the content that it answered."""

    fingerprint: str
    answer: dict[str, Any]


@dataclass
class Book:
    """Everything that a batch has loaded, changed and will write."""

    now: datetime
    accounts: dict[str, AccountState] = field(default_factory=dict)
    lots: dict[str, LotState] = field(default_factory=dict)
    lots_of: dict[str, list[LotState]] = field(default_factory=dict)
    sources: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    reservations: dict[str, ReservationState] = field(default_factory=dict)
    answers: dict[tuple[str, str, str], KnownAnswer] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)
    debts: list[DebtState] = field(default_factory=list)
    debt_payments: list[dict[str, Any]] = field(default_factory=list)
    new_answers: list[dict[str, Any]] = field(default_factory=list)
    deposit_keys: list[dict[str, Any]] = field(default_factory=list)

    def add_lot(self, lot: LotState) -> None:
        """Take *lot* in, loaded or new."""
        self.lots[lot.id] = lot
        self.lots_of.setdefault(lot.account_id, []).append(lot)
        if lot.is_new and lot.expires_at is not None:
            pool = self.accounts[lot.account_id].pool(lot.pool_id)
            pool.next_expiry = min(pool.next_expiry or lot.expires_at, lot.expires_at)
        if lot.source_id is not None:
            self.sources[(lot.source_type, lot.source_id)] = (lot.id, lot.original_micro)

    def spendable(self, account_id: str, pool_id: str) -> list[LotState]:
        """Return the lots that a request on *pool_id* may use, in redemption order.

        Requested pool first, then expiring before lasting, earliest expiry, oldest, and the id
        as tie-break (behaviour 5.3.4, W11). A request on general never touches another pool.
        """
        usable = [
            lot
            for lot in self.lots_of.get(account_id, ())
            if lot.available_micro > 0
            and lot.refunded_at is None
            and lot.pool_id in (pool_id, GENERAL_POOL)
            and not lot.is_due(self.now)
        ]
        usable.sort(key=lambda lot: redemption_key(lot, pool_id))
        return usable

    def move(
        self, lot: LotState, *, available: int = 0, reserved: int = 0, consumed: int = 0
    ) -> None:
        """Move credits between the parts of *lot*; what enters or leaves it shows in original."""
        lot.available_micro += available
        lot.reserved_micro += reserved
        lot.consumed_micro += consumed
        assert min(lot.available_micro, lot.reserved_micro, lot.consumed_micro) >= 0
        pool = self.accounts[lot.account_id].pool(lot.pool_id)
        pool.available_micro += available
        pool.reserved_micro += reserved
        pool.is_changed = True

    def owe(self, account_id: str, amount_micro: int) -> None:
        """Raise (or lower, when negative) what the account owes; debts live in general."""
        pool = self.accounts[account_id].pool(GENERAL_POOL)
        pool.available_micro -= amount_micro
        pool.debt_micro += amount_micro
        pool.is_changed = True


def redemption_key(lot: LotState, pool_id: str) -> tuple[bool, datetime, datetime, str]:
    """Return what lots are sorted by when *pool_id* is asked for (behaviour 5.3.4)."""
    return (lot.pool_id != pool_id, lot.expires_at or _NEVER, lot.created_at, lot.id)
