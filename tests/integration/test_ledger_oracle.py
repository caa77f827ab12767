"""Random streams of commands, decided by the real ledger and by a naive one: they must agree.

The same streams go to SQLite and PostgreSQL, one command at a time and in batches of random size.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.ledger import accounts, sweeps
from shared.ledger.book import post
from shared.ledger.commands import (
    Adjust,
    Command,
    Extend,
    Finalize,
    Mint,
    Outcome,
    Refund,
    Release,
    Reserve,
)
from shared.ledger.terms import Mode, Terms
from tests.ledger import START, Ledger
from tests.oracle import Oracle, Told

SEEDS = range(1, 7)
ROUNDS = 90
POOLS = ("general", "general", "campaign:a", "campaign:b")
ACCOUNTS = ("account-a", "account-b", "account-c")
RECEIVERS = ("sys-commons", "sys-community-pool", "sys-foundation")
MODES: Sequence[Mode] = ("live", "soft", "shadow", "live", "soft")
TERMS = Terms(ceiling_micro=5_000)
STEPS = (0, 0, 0, 0, 0.5, 1, 1, 1, 7, 30, 60, 300, 300, 3_700)
KINDS = ("mint", "reserve", "reserve", "reserve", "extend", *["ending"] * 4, "correct")


@dataclass(frozen=True)
class Round:
    """Commands of one instant, under one mode, and whether the workers come by afterwards."""

    now: datetime
    terms: Terms
    commands: Sequence[Command]
    is_swept: bool


class Stream:
    """A random stream, the same for the same seed whatever the ledger answers.

    It looks at the oracle's books for holds that can be ended.
    """

    def __init__(self, seed: int, oracle: Oracle) -> None:
        self.chance = random.Random(seed)
        self.oracle = oracle
        self.sizes = (1, 1, 2, 3) if seed % 2 else (1, 5, 10, 20)
        self.now = START
        self.done: list[Command] = []
        self.asked: list[tuple[str, str, int]] = []

    def rounds(self) -> Iterator[Round]:
        """Draw the rounds."""
        terms = TERMS
        for number in range(ROUNDS):
            self.now += timedelta(seconds=self.pick(STEPS))
            if number % 6 == 0:
                terms = replace(terms, mode=MODES[number // 6 % len(MODES)])
            size = self.chance.randint(1, 12)
            drawn = self.crowd() if number % 15 == 0 else [self.command() for _ in range(size)]
            yield Round(self.now, terms, drawn, self.chance.random() < 0.2)

    def pick(self, values: Sequence[Any]) -> Any:
        """Choose one of *values*."""
        return self.chance.choice(values)

    def key(self, share: float) -> str | None:
        """Return one of a few keys, or none."""
        return f"k{self.chance.randint(0, 40)}" if self.chance.random() < share else None

    def command(self) -> Command:
        """Draw a command: a new one, an earlier one again, or an earlier one that was altered."""
        luck = self.chance.random()
        if self.done and luck < 0.15:
            return self.pick(self.done[-40:])  # type: ignore[no-any-return]
        if self.done and luck < 0.2:
            return self.altered(self.pick(self.done[-40:]))
        drawn: Command
        match self.pick(KINDS):
            case "mint":
                drawn = self.mint()
            case "reserve":
                drawn = self.reserve()
            case "extend":
                drawn = self.extend()
            case "correct":
                drawn = self.correct()
            case _:
                drawn = self.ending()
        self.done.append(drawn)
        return drawn

    def altered(self, command: Command) -> Command:
        """Return *command* with other content."""
        match command:
            case Mint():
                return replace(command, lot_id=self.id(), amount_micro=command.amount_micro + 1)
            case Reserve():
                return replace(command, reservation_id=self.id(), pool_id="campaign:b")
            case Finalize():
                return replace(command, actual_cost_micro=command.actual_cost_micro + 1)
            case Extend():
                return replace(command, additional_micro=command.additional_micro + 1)
            case Adjust():
                return replace(command, amount_micro=command.amount_micro + 1)
            case Release() | Refund():
                return replace(command, account_id=self.pick(ACCOUNTS))
        raise AssertionError(command)

    def id(self) -> str:
        """Return an id; their order says nothing about time, so ties show."""
        return f"{self.chance.getrandbits(64):016x}"

    def who(self) -> str:
        """Choose an account, rarely one that does not exist."""
        return "nobody" if self.chance.random() < 0.02 else str(self.pick(ACCOUNTS))

    def amount(self) -> int:
        """Choose an amount, rarely a senseless one."""
        return int(self.pick((*(self.chance.randint(1, 60) for _ in range(30)), 0, -5, 5_001)))

    def mint(self, *, plain: bool = False) -> Mint:
        """Draw a mint, also of a lot that ends at once."""
        ends = self.pick((None, None, None, -5, 0, 30, 60, 300, 400, 4_000, 90_000))
        source = None if plain or self.chance.random() < 0.6 else f"s{self.chance.randint(0, 25)}"
        return Mint(
            self.who(),
            self.id(),
            self.amount() if self.chance.random() < 0.1 else self.pick(self.sizes),
            self.pick(("deposit", "grant")),
            source,
            self.pick(POOLS),
            None if ends is None else self.now + timedelta(seconds=ends),
            idempotency_key=None if plain else self.key(0.2),
        )

    def crowd(self) -> list[Command]:
        """Draw many lots in one place, more than one statement reads, and holds over them."""
        account, pool = self.pick(ACCOUNTS), self.pick(POOLS)
        lots = (self.mint(plain=True) for _ in range(45))
        drawn: list[Command] = [replace(lot, account_id=account, pool_id=pool) for lot in lots]
        for _ in range(4):
            amount = self.chance.randint(5, 40)
            hold = replace(self.reserve(), account_id=account, pool_id=pool, amount_micro=amount)
            cost = amount + self.chance.randint(-5, 40)
            drawn += [hold, Finalize(hold.reservation_id, cost)]
        return drawn

    def reserve(self) -> Reserve:
        """Draw a hold."""
        ttl = self.pick((None, None, 30, 60, 60, 3_600, 86_400))
        drawn = Reserve(
            self.who(), self.id(), self.amount(), self.pick(POOLS), ttl, self.key(0.2), "unused"
        )
        self.asked.append((drawn.reservation_id, drawn.account_id, drawn.amount_micro))
        return drawn

    def hold(self) -> tuple[str, str, int]:
        """Choose a hold that may or may not be there: its id, its account, its amount."""
        open_holds = [
            (hold.id, hold.account, hold.amount)
            for hold in self.oracle.holds.values()
            if hold.state in ("pending", "expired") and hold.ends > self.now - timedelta(hours=1.1)
        ]
        is_there = self.chance.random() < 0.75
        choice = (is_there and open_holds[-15:]) or self.asked[-9:] or [("unknown", "nobody", 5)]
        return self.pick(choice)  # type: ignore[no-any-return]

    def ending(self) -> Command:
        """Draw the end of a hold, at a cost near what it holds."""
        hold_id, owner, amount = self.hold()
        account = self.pick((None, owner, owner, owner, owner, "account-a"))
        if self.chance.random() < 0.2:
            return Release(hold_id, account)
        part = self.chance.randint(0, 60)
        cost = self.pick((0, part, part, amount, amount, amount + part, amount * 4, -1, 5_001))
        return Finalize(hold_id, cost, account, self.key(0.2))

    def extend(self) -> Extend:
        """Draw more for a hold, and perhaps more time."""
        hold_id, owner, _ = self.hold()
        ttl = self.pick((None, None, 30, 600))
        return Extend(
            hold_id, self.amount(), self.id(), ttl, self.pick((None, owner)), self.key(0.2)
        )

    def correct(self) -> Command:
        """Draw a refund of a lot that may or may not be there, or an adjustment."""
        lots = list(self.oracle.lots.values())[-30:]
        if lots and self.chance.random() < 0.5:
            lot = self.pick(lots)
            return Refund(self.pick((lot.account, lot.account, lot.account, "account-b")), lot.id)
        amount = self.amount() * self.pick((1, -1))
        return Adjust(self.who(), self.id(), amount, "test", self.pick(POOLS), self.key(0.2))


def told(outcome: Outcome) -> Told:
    return outcome.answer, outcome.error and outcome.error.code, outcome.is_replay


def run(ledger: Ledger, commands: Sequence[Command], terms: Terms) -> list[Told]:
    with ledger.database.transaction() as tx:
        return [told(outcome) for outcome in post(tx, commands, terms)]


def compare_books(ledger: Ledger, oracle: Oracle, seed: int) -> None:
    """Let the workers finish, then compare every lot, hold, debt and balance."""
    while ledger.sweep() != (0, 0):
        pass
    while sweeps.roll_up_revenue(ledger.database):
        pass
    oracle.settle_time()
    lots = ledger.rows(
        "SELECT id, available_micro, reserved_micro, consumed_micro FROM credit_lots"
        " WHERE source_type <> 'commons_dividend'"
    )
    assert sorted(lots) == sorted((x.id, x.left, x.held, x.gone) for x in oracle.lots.values()), (
        seed
    )
    holds = ledger.rows("SELECT id, status FROM credit_reservations")
    assert sorted(holds) == sorted((x.id, x.state) for x in oracle.holds.values()), seed
    debts = ledger.rows(
        "SELECT account_id, original_micro, CASE WHEN resolved_at IS NULL THEN debt_micro ELSE 0"
        " END FROM credit_debts"
    )
    assert Counter(debts) == Counter((x.account, x.first, x.owed) for x in oracle.debts), seed
    for account in ACCOUNTS:
        for pool in set(POOLS):
            assert ledger.balance(account, pool) == oracle.balance(account, pool), (seed, account)
    assert [ledger.balance(name)[0] for name in RECEIVERS] == oracle.revenue, seed
    assert ledger.breaches() == [], seed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("largest", [1, 64], ids=["one_at_a_time", "in_batches"])
def test_any_stream_is_answered_as_the_oracle_says(ledger: Ledger, seed: int, largest: int) -> None:
    """Behaviours 34-69 and 139-159, in any order, with repeats, at any time."""
    with ledger.database.transaction() as tx:
        for account in ACCOUNTS:
            accounts.create_account(tx, entity_type="agent", entity_id=account, account_id=account)
    oracle, sizes = Oracle(list(ACCOUNTS), START), random.Random(seed)
    seen: Counter[str] = Counter()
    for number, drawn in enumerate(Stream(seed, oracle).rounds()):
        ledger.clock.now = oracle.now = drawn.now
        rest = list(drawn.commands)
        while rest:
            size = sizes.randint(1, largest)
            batch, rest = rest[:size], rest[size:]
            expected = [oracle.tell(command, drawn.terms) for command in batch]
            for command, mine, theirs in zip(
                batch, run(ledger, batch, drawn.terms), expected, strict=True
            ):
                assert mine == theirs, f"seed {seed}, round {number}: {command}"
                seen[mine[1] or ("replay" if mine[2] else type(command).__name__)] += 1
        if drawn.is_swept:
            ledger.sweep()
        if number % 15 == 14:
            compare_books(ledger, oracle, seed)
    # The stream met what it is meant to meet.
    settled = [hold for hold in oracle.holds.values() if hold.answer]
    assert (sum(seen.values()) > 500, len(settled) > 30, seen["Release"] > 7) == (True, True, True)
    assert {hold.answer["late"] for hold in settled if hold.answer} == {False, True}
    assert {hold.mode for hold in settled} == {"shadow", "soft", "live"}
    assert {"replay", "idempotency_conflict", "insufficient_credits"} <= set(seen)
    assert any(debt.owed < debt.first for debt in oracle.debts)
    assert {"Extend", "Refund", "Adjust"} <= set(seen)
