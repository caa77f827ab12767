"""Random streams of commands: the same for the same seed, whatever the ledger answers."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from shared.ledger.commands import Adjust, Command, Extend, Finalize, Mint, Refund, Release, Reserve
from shared.ledger.terms import Mode, Terms
from tests.ledger import START
from tests.oracle import Oracle

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
