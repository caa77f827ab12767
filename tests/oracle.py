"""A second, naive ledger to compare the real one with: lists, loops and the words of the contract.

It shares no code with the rules. It is told the time, and settles what is due before it answers.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from shared.ledger.commands import Command, Finalize, Mint, Release, Reserve
from shared.ledger.terms import Terms

Told = tuple[dict[str, Any] | None, str | None, bool]
"""An answer, or the code of a refusal, and whether the answer was given before."""


class No(Exception):
    """A refusal."""


@dataclass
class Lot:
    """Credits of one source."""

    id: str
    account: str
    pool: str
    made: datetime
    ends: datetime | None
    left: int
    held: int = 0
    gone: int = 0


@dataclass
class Hold:
    """Credits set aside: how much of which lot."""

    id: str
    account: str
    pool: str
    amount: int
    mode: str
    ends: datetime
    parts: list[tuple[Lot, int]]
    state: str = "pending"
    asked: int | None = None
    answer: dict[str, Any] | None = None


@dataclass
class Debt:
    """What an account owes."""

    account: str
    first: int
    owed: int


def _wire(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


@dataclass
class Oracle:
    """What the ledger should be."""

    accounts: list[str]
    now: datetime
    lots: list[Lot] = field(default_factory=list)
    holds: dict[str, Hold] = field(default_factory=dict)
    debts: list[Debt] = field(default_factory=list)
    sources: set[tuple[str, str]] = field(default_factory=set)
    known: dict[tuple[str, str, str], tuple[object, dict[str, Any]]] = field(default_factory=dict)
    revenue: list[int] = field(default_factory=lambda: [0, 0, 0])

    def tell(self, command: Command, terms: Terms) -> Told:
        """Carry out *command*."""
        self.settle_time()
        try:
            match command:
                case Mint() | Reserve():
                    return self._once(command, terms)
                case Finalize():
                    return self._finalize(command, terms)
                case Release():
                    return self._release(command)
        except No as refusal:
            return None, str(refusal), False
        raise AssertionError(command)

    def settle_time(self) -> None:
        """End all holds and lots whose time is over."""
        for hold in self.holds.values():
            if hold.state == "pending" and hold.ends <= self.now:
                self._give_back(hold)
                hold.state = "expired"
        for lot in self.lots:
            if lot.ends and lot.ends <= self.now:
                lot.gone += lot.left
                lot.left = 0

    def balance(self, account: str, pool: str) -> tuple[int, int, int]:
        """Return available, reserved and debt of the view of *pool*."""
        seen = [x for x in self.lots if x.account == account and x.pool in (pool, "general")]
        owed = sum(debt.owed for debt in self.debts if debt.account == account)
        return sum(lot.left for lot in seen) - owed, sum(lot.held for lot in seen), owed

    def _told(self, account: str, pool: str) -> dict[str, str]:
        available, reserved, owed = self.balance(account, pool)
        return {
            "availableMicro": str(available),
            "reservedMicro": str(reserved),
            "debtMicro": str(owed),
            "settledMicro": str(available + reserved),
        }

    def _once(self, command: Mint | Reserve, terms: Terms) -> Told:
        if command.account_id not in self.accounts:
            raise No("account_not_found")
        content: tuple[object, ...]
        if isinstance(command, Mint):
            key = command.idempotency_key or command.source_id or command.lot_id
            content = (command.source_type, command.source_id, command.expires_at)
        else:
            key = command.idempotency_key or command.reservation_id
            content = (command.ttl_seconds, command.description, command.details)
        content += (command.amount_micro, command.pool_id)
        name = (type(command).__name__, command.account_id, key)
        if name in self.known:
            return self._again(name, content), None, True
        if command.amount_micro <= 0:
            raise No("invalid_amount")
        if command.amount_micro > terms.ceiling_micro:
            raise No("amount_above_ceiling")
        answer = self._mint(command) if isinstance(command, Mint) else self._reserve(command, terms)
        self.known[name] = (content, answer)
        return answer, None, False

    def _again(self, name: tuple[str, str, str], content: object) -> dict[str, Any]:
        before, answer = self.known[name]
        if before != content:
            raise No("idempotency_conflict")
        return answer

    def _mint(self, command: Mint) -> dict[str, Any]:
        if command.source_id:
            if (command.source_type, command.source_id) in self.sources:
                raise No("already_credited")
            self.sources.add((command.source_type, command.source_id))
        lot = Lot(
            command.lot_id, command.account_id, command.pool_id, self.now, command.expires_at,
            command.amount_micro,
        )  # fmt: skip
        self.lots.append(lot)
        paid = 0
        if not (lot.ends and lot.ends <= self.now):
            for debt in self.debts:
                if debt.account == lot.account:
                    part = min(debt.owed, lot.left)
                    debt.owed -= part
                    lot.left -= part
                    lot.gone += part
                    paid += part
        self.settle_time()
        return {
            "lotId": lot.id,
            "accountId": lot.account,
            "poolId": lot.pool,
            "amountMicro": str(command.amount_micro),
            "debtPaidMicro": str(paid),
            "balance": self._told(lot.account, lot.pool),
        }

    def _usable(self, account: str, pool: str) -> list[Lot]:
        never = datetime.max.replace(tzinfo=self.now.tzinfo)
        usable = [x for x in self.lots if x.account == account and x.left and x.pool == pool]
        usable.sort(key=lambda lot: (lot.ends or never, lot.made, lot.id))
        return usable + (self._usable(account, "general") if pool != "general" else [])

    def _reserve(self, command: Reserve, terms: Terms) -> dict[str, Any]:
        account, pool, missing = command.account_id, command.pool_id, command.amount_micro
        plan = []
        for lot in self._usable(account, pool):
            part = min(lot.left, missing)
            if part:
                plan.append((lot, part))
            missing -= part
        is_short = missing > 0 or self.balance(account, pool)[0] < command.amount_micro
        if terms.mode == "live" and is_short:
            raise No("insufficient_credits")
        parts = [] if terms.mode == "shadow" else plan
        for lot, part in parts:
            lot.left -= part
            lot.held += part
        ends = self.now + timedelta(seconds=command.ttl_seconds or terms.reserve_ttl_seconds)
        self.holds[command.reservation_id] = Hold(
            command.reservation_id, account, pool, command.amount_micro, terms.mode, ends, parts
        )
        return {
            "reservationId": command.reservation_id,
            "accountId": account,
            "poolId": pool,
            "reservedMicro": str(command.amount_micro),
            "status": "pending",
            "billingMode": terms.mode,
            "expiresAt": _wire(ends),
            "balance": self._told(account, pool),
            "allocations": [{"lotId": lot.id, "reservedMicro": str(n)} for lot, n in plan],
        }

    def _give_back(self, hold: Hold) -> None:
        for lot, part in hold.parts:
            lot.held -= part
            lot.left += part

    def _find(self, command: Finalize | Release) -> Hold:
        hold = self.holds.get(command.reservation_id)
        if hold is None:
            raise No("reservation_not_found")
        if command.account_id not in (None, hold.account):
            raise No("account_mismatch")
        return hold

    def _release(self, command: Release) -> Told:
        hold = self._find(command)
        if hold.state == "finalized":
            raise No("reservation_finalized")
        is_again = hold.state != "pending"
        if not is_again:
            self._give_back(hold)
            hold.state = "released"
        return {"reservationId": hold.id, "releasedMicro": str(hold.amount)}, None, is_again

    def _finalize(self, command: Finalize, terms: Terms) -> Told:
        hold, cost, key = self._find(command), command.actual_cost_micro, command.idempotency_key
        name, content = ("Finalize", hold.account, key or ""), (hold.id, cost)
        if name in self.known:
            self._again(name, content)
        if hold.state == "finalized":
            if hold.asked != cost:
                raise No("idempotency_conflict")
            return hold.answer, None, True
        if hold.state == "released":
            raise No("reservation_released")
        if cost < 0:
            raise No("invalid_amount")
        if cost > terms.ceiling_micro:
            raise No("amount_above_ceiling")
        if self.now >= hold.ends + timedelta(seconds=terms.late_finalize_grace_seconds):
            raise No("reservation_expired")
        hold.answer = self._settle(hold, cost, terms)
        if key:
            self.known[name] = (content, hold.answer)
        return hold.answer, None, False

    def _settle(self, hold: Hold, cost: int, terms: Terms) -> dict[str, Any]:
        is_late = hold.state == "expired"
        excess = max(0, cost - hold.amount)
        charged = cost if hold.mode == "soft" else cost - excess
        owed = 0
        if hold.mode != "shadow":
            owed = self._charge(hold, charged, is_late=is_late)
            shares = [
                charged * rate // 10_000
                for rate in (terms.commons_rate_bps, terms.community_rate_bps)
            ]
            for place, share in enumerate([*shares, charged - sum(shares)]):
                self.revenue[place] += share
        hold.state, hold.asked = "finalized", cost
        return {
            "reservationId": hold.id,
            "accountId": hold.account,
            "finalizedMicro": str(charged),
            "releasedMicro": str(max(0, hold.amount - charged)),
            "overrunMicro": str(0 if hold.mode == "live" else excess),
            "unchargedMicro": str(excess if hold.mode == "live" else 0),
            "debtMicro": str(owed),
            "billingMode": hold.mode,
            "late": is_late,
            "finalizedAt": _wire(self.now),
        }

    def _charge(self, hold: Hold, amount: int, *, is_late: bool) -> int:
        for lot, part in [] if is_late else hold.parts:  # they were taken in redemption order
            used = min(part, amount)
            lot.held -= part
            lot.gone += used
            lot.left += part - used
            amount -= used
        self.settle_time()
        for lot in self._usable(hold.account, hold.pool):
            used = min(lot.left, amount)
            lot.left -= used
            lot.gone += used
            amount -= used
        if amount:
            self.debts.append(Debt(hold.account, amount, amount))
        return amount
