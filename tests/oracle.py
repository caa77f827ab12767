"""A second, naive ledger to compare the real one with: lists, loops and the words of the contract.

It shares no code with the rules. It is told the time, and settles what is due before it answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from shared.ledger.commands import (
    Adjust,
    Command,
    Extend,
    Finalize,
    Mint,
    Refund,
    Release,
    Reserve,
)
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
    lost: int = 0  # of what is gone: what expired or was clawed back, so nobody spent it
    is_refunded: bool = False


@dataclass
class Hold:
    """Credits set aside: how much of which lot, by the lot's id."""

    id: str
    account: str
    pool: str
    amount: int
    mode: str
    ends: datetime
    parts: dict[str, int] = field(default_factory=dict)
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
    lots: dict[str, Lot] = field(default_factory=dict)
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
                case Mint() | Reserve() | Extend() | Refund() | Adjust():
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
        for lot in self.lots.values():
            if lot.is_refunded or (lot.ends and lot.ends <= self.now):
                lot.gone += lot.left
                lot.lost += lot.left
                lot.left = 0

    def balance(self, account: str, pool: str) -> tuple[int, int, int]:
        """Return available, reserved and debt of the view of *pool*."""
        lots = self.lots.values()
        seen = [x for x in lots if x.account == account and x.pool in (pool, "general")]
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

    def _once(self, command: Any, terms: Terms) -> Told:
        if isinstance(command, Extend):
            account = self._find(command).account
        elif (account := command.account_id) not in self.accounts:
            raise No("account_not_found")
        key, content = self._request(command)
        name = (type(command).__name__, account, key)
        if name in self.known:
            return self._again(name, content), None, True
        answer = getattr(self, f"_{type(command).__name__.lower()}")(command, terms)
        self.known[name] = (content, answer)
        return answer, None, False

    def _request(self, command: Any) -> tuple[str, tuple[object, ...]]:
        """Return the key of a request, and what a repeat of it must have in common with it."""
        match command:
            case Mint(idempotency_key=key, source_id=source):
                content = (command.source_type, source, command.expires_at)
                content += (command.amount_micro, command.pool_id)
                return key or source or command.lot_id, content
            case Reserve(idempotency_key=key):
                content = (command.ttl_seconds, command.description, command.details)
                content += (command.amount_micro, command.pool_id)
                return key or command.reservation_id, content
            case Extend(idempotency_key=key):
                content = (command.reservation_id, command.additional_micro, command.ttl_seconds)
                return key or command.extension_id, content
            case Adjust(idempotency_key=key):
                content = (command.amount_micro, command.reason, command.pool_id)
                return key or command.adjustment_id, content
        return command.lot_id, ()

    def _check(self, amount: int, terms: Terms, lowest: int = 1) -> None:
        if amount < lowest:
            raise No("invalid_amount")
        if amount > terms.ceiling_micro:
            raise No("amount_above_ceiling")

    def _again(self, name: tuple[str, str, str], content: object) -> dict[str, Any]:
        before, answer = self.known[name]
        if before != content:
            raise No("idempotency_conflict")
        return answer

    def _mint(self, command: Mint, terms: Terms) -> dict[str, Any]:
        self._check(command.amount_micro, terms)
        if command.source_id:
            if (command.source_type, command.source_id) in self.sources:
                raise No("already_credited")
            self.sources.add((command.source_type, command.source_id))
        paid = self._add_lot(command, command.lot_id, command.expires_at)
        return {
            "lotId": command.lot_id,
            "accountId": command.account_id,
            "poolId": command.pool_id,
            "amountMicro": str(command.amount_micro),
            "debtPaidMicro": str(paid),
            "balance": self._told(command.account_id, command.pool_id),
        }

    def _add_lot(self, command: Mint | Adjust, lot_id: str, ends: datetime | None) -> int:
        account, paid = command.account_id, 0
        lot = Lot(lot_id, account, command.pool_id, self.now, ends, command.amount_micro)
        self.lots[lot_id] = lot
        if not (lot.ends and lot.ends <= self.now):
            for debt in self.debts:
                if debt.account == lot.account:
                    part = min(debt.owed, lot.left)
                    debt.owed -= part
                    lot.left -= part
                    lot.gone += part
                    paid += part
        self.settle_time()
        return paid

    def _owe(self, account: str, amount: int) -> None:
        if amount:
            self.debts.append(Debt(account, amount, amount))

    def _refund(self, command: Refund, _terms: Terms) -> dict[str, Any]:
        lot = self.lots.get(command.lot_id)
        if lot is None or lot.account != command.account_id:
            raise No("lot_not_found")
        left, spent = lot.left, lot.gone - lot.lost
        lot.is_refunded = True
        self.settle_time()
        self._owe(lot.account, spent)
        return {
            "lotId": lot.id,
            "accountId": lot.account,
            "clawedBackMicro": str(left),
            "debtMicro": str(spent),
            "heldMicro": str(lot.held),
            "balance": self._told(lot.account, lot.pool),
        }

    def _adjust(self, command: Adjust, terms: Terms) -> dict[str, Any]:
        account, missing, lot_id = command.account_id, -command.amount_micro, None
        self._check(abs(command.amount_micro), terms)
        if missing < 0:
            lot_id, missing = command.adjustment_id, 0
            self._add_lot(command, lot_id, None)
        else:
            missing = self._spend(account, command.pool_id, missing)
        return {
            "adjustmentId": command.adjustment_id,
            "accountId": account,
            "amountMicro": str(command.amount_micro),
            "debtMicro": str(missing),
            "lotId": lot_id,
            "balance": self._told(account, command.pool_id),
        }

    def _in_order(self, lots: Iterable[Lot], pool: str) -> list[Lot]:
        never = datetime.max.replace(tzinfo=self.now.tzinfo)
        by_age = sorted(lots, key=lambda lot: (lot.ends or never, lot.made, lot.id))
        return sorted(by_age, key=lambda lot: lot.pool != pool)

    def _usable(self, account: str, pool: str) -> list[Lot]:
        mine = [x for x in self.lots.values() if x.account == account and not x.is_refunded]
        return self._in_order((x for x in mine if x.left and x.pool in (pool, "general")), pool)

    def _spend(self, account: str, pool: str, amount: int) -> int:
        """Spend from lots as far as they reach; the rest becomes a debt and is returned."""
        for lot in self._usable(account, pool):
            used = min(lot.left, amount)
            lot.left -= used
            lot.gone += used
            amount -= used
        self._owe(account, amount)
        return amount

    def _reserve(self, command: Reserve, terms: Terms) -> dict[str, Any]:
        self._check(command.amount_micro, terms)
        ends = self.now + timedelta(seconds=command.ttl_seconds or terms.reserve_ttl_seconds)
        hold = Hold(
            command.reservation_id, command.account_id, command.pool_id, 0, terms.mode, ends
        )
        plan = self._take(hold, command.amount_micro)
        self.holds[hold.id] = hold
        return self._describe(hold, plan)

    def _extend(self, command: Extend, terms: Terms) -> dict[str, Any]:
        hold = self._find(command)
        if hold.state != "pending":
            raise No("reservation_not_pending")
        self._check(command.additional_micro, terms)
        self._check(command.additional_micro + hold.amount, terms)
        plan = self._take(hold, command.additional_micro)
        if command.ttl_seconds:
            hold.ends = max(hold.ends, self.now + timedelta(seconds=command.ttl_seconds))
        return self._describe(hold, plan if hold.mode == "shadow" else hold.parts)

    def _take(self, hold: Hold, amount: int) -> dict[str, int]:
        missing, plan = amount, {}
        for lot in self._usable(hold.account, hold.pool):
            if part := min(lot.left, missing):
                plan[lot.id] = part
                missing -= part
        is_short = missing > 0 or self.balance(hold.account, hold.pool)[0] < amount
        if hold.mode == "live" and is_short:
            raise No("insufficient_credits")
        hold.amount += amount
        for name, part in plan.items() if hold.mode != "shadow" else ():
            self.lots[name].left -= part
            self.lots[name].held += part
            hold.parts[name] = hold.parts.get(name, 0) + part
        return plan

    def _describe(self, hold: Hold, parts: dict[str, int]) -> dict[str, Any]:
        lots = self._in_order((self.lots[name] for name in parts), hold.pool)
        return {
            "reservationId": hold.id,
            "accountId": hold.account,
            "poolId": hold.pool,
            "reservedMicro": str(hold.amount),
            "status": "pending",
            "billingMode": hold.mode,
            "expiresAt": _wire(hold.ends),
            "balance": self._told(hold.account, hold.pool),
            "allocations": [{"lotId": x.id, "reservedMicro": str(parts[x.id])} for x in lots],
        }

    def _give_back(self, hold: Hold) -> None:
        for name, part in hold.parts.items():
            self.lots[name].held -= part
            self.lots[name].left += part

    def _find(self, command: Finalize | Release | Extend) -> Hold:
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
        is_again = hold.state == "released"
        if hold.state == "pending":
            self._give_back(hold)
        hold.state = "released"
        return {"reservationId": hold.id, "releasedMicro": str(hold.amount)}, None, is_again

    def _finalize(self, command: Finalize, terms: Terms) -> Told:
        hold, cost, key = self._find(command), command.actual_cost_micro, command.idempotency_key
        name, content = ("Finalize", hold.account, key or ""), (hold.id, cost)
        if key and name in self.known:
            self._again(name, content)
        if hold.state == "finalized":
            if hold.asked != cost:
                raise No("idempotency_conflict")
            self.known[name] = (content, hold.answer or {})
            return hold.answer, None, True
        if hold.state == "released":
            raise No("reservation_released")
        self._check(cost, terms, lowest=0)
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
        back = []
        held = self._in_order((self.lots[name] for name in hold.parts), hold.pool)
        for lot in [] if is_late else held:
            part = hold.parts[lot.id]
            used = min(part, amount)
            lot.held -= part
            lot.gone += used
            lot.left += part - used
            amount -= used
            back.append((lot, used if lot.is_refunded else 0))
        self.settle_time()
        owed = self._spend(hold.account, hold.pool, amount)
        for lot, used in back:  # what was spent of a lot whose payment went back
            self._owe(lot.account, used)
        return owed
