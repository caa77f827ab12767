"""The ledger without a database: books in memory, streams of commands on them, what must hold."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from hypothesis import strategies as st

from shared.ledger.commands import (
    Command,
    ExpireHold,
    ExpireLot,
    Finalize,
    Mint,
    Outcome,
    Release,
    Reserve,
)
from shared.ledger.rules import apply, pass_time
from shared.ledger.state import AccountState, Book
from shared.ledger.terms import Terms

Mode = Literal["shadow", "soft", "live"]

START = datetime(2026, 3, 15, 12, tzinfo=UTC)
ACCOUNT = "account-1"
OTHER = "account-2"
CAMPAIGN = "campaign:spring"
TERMS: dict[str, Terms] = {
    "shadow": Terms(mode="shadow"),
    "soft": Terms(mode="soft"),
    "live": Terms(mode="live"),
}


def new_book() -> Book:
    """Return a book of two accounts without credits, at noon."""
    return Book(now=START, accounts={name: AccountState(name) for name in (ACCOUNT, OTHER)})


def later(seconds: float) -> datetime:
    """Return the instant *seconds* after a new book's."""
    return START + timedelta(seconds=seconds)


def do(book: Book, command: Command, mode: Mode = "live") -> Outcome:
    """Let time pass to the book's instant, then decide *command*, as a batch of one does."""
    pass_time(book, book.reservations.values())
    return apply(book, command, TERMS[mode])


def answer(book: Book, command: Command, mode: Mode = "live") -> dict[str, Any]:
    """Decide *command*, which must not be refused, and return the answer."""
    return do(book, command, mode).unwrap()


def refusal(book: Book, command: Command, mode: Mode = "live") -> str:
    """Decide *command*, which must be refused, and return the code."""
    error = do(book, command, mode).error
    assert error is not None
    return error.code


def balance(book: Book, account_id: str = ACCOUNT, pool_id: str = "general") -> tuple[int, ...]:
    """Return available, reserved and debt."""
    told = book.accounts[account_id].balance(pool_id)
    return tuple(int(told[name]) for name in ("availableMicro", "reservedMicro", "debtMicro"))


def parts(book: Book, lot_id: str) -> tuple[int, int, int]:
    """Return a lot's available, reserved and consumed."""
    return book.lots[lot_id].parts()[:3]


def entries(book: Book, account_id: str = ACCOUNT) -> list[tuple[str, int, int, int]]:
    """Return an account's own entries: type, amount, balance before and after."""
    return [
        (e["entry_type"], e["amount_micro"], e["pre_balance_micro"], e["post_balance_micro"])
        for e in book.entries
        if e["account_id"] == account_id
    ]


def assert_sound(book: Book) -> None:
    """Check all that must hold at every moment, whatever was decided."""
    for lot in book.lots.values():
        assert min(lot.parts()) >= 0
        assert lot.available_micro + lot.reserved_micro + lot.consumed_micro == lot.original_micro
        assert lot.expired_micro <= lot.consumed_micro
    _assert_holds_are_covered(book)
    for account in book.accounts.values():
        _assert_pools_add_up(book, account)
        _assert_entries_add_up(book, account)


def _assert_holds_are_covered(book: Book) -> None:
    held: dict[str, int] = defaultdict(int)
    for hold in book.reservations.values():
        is_shadow = hold.billing_mode == "shadow"
        reserved = sum(a.reserved_micro for a in hold.allocations)
        consumed = sum(a.consumed_micro for a in hold.allocations)
        assert not is_shadow or hold.allocations == []
        if hold.status == "pending":
            assert is_shadow or reserved == hold.total_reserved_micro - hold.overdraft_micro
            for allocation in hold.allocations:
                held[allocation.lot.id] += allocation.reserved_micro
        shares = (hold.commons_micro, hold.community_micro, hold.foundation_micro)
        if not is_shadow:
            assert consumed == hold.finalized_micro - hold.debt_micro
            assert sum(shares) == hold.finalized_micro
    assert {lot.id: lot.reserved_micro for lot in book.lots.values() if lot.reserved_micro} == held


def _assert_pools_add_up(book: Book, account: AccountState) -> None:
    owed = sum(debt.debt_micro for debt in account.debts if debt.resolved_at is None)
    lots = [lot for lot in book.lots.values() if lot.account_id == account.id]
    for name, pool in account.pools.items():
        own = [lot for lot in lots if lot.pool_id == name]
        debt = owed if name == "general" else 0
        assert pool.available_micro == sum(lot.available_micro for lot in own) - debt
        assert pool.reserved_micro == sum(lot.reserved_micro for lot in own)
        assert pool.debt_micro == debt


def _assert_entries_add_up(book: Book, account: AccountState) -> None:
    own = [e for e in book.entries if e["account_id"] == account.id]
    for name in {e["pool_id"] for e in own}:
        numbers = [e["entry_seq"] for e in own if e["pool_id"] == name]
        assert numbers == list(range(1, len(numbers) + 1))
        assert account.pools[name].next_seq == len(numbers) + 1
    for entry in own:
        change = entry["post_balance_micro"] - entry["pre_balance_micro"]
        is_shadow = entry["entry_type"].startswith("shadow_")
        assert change == (0 if is_shadow else entry["amount_micro"])
        assert not is_shadow or entry["amount_micro"] >= 0
    total = sum(e["amount_micro"] for e in own if not e["entry_type"].startswith("shadow_"))
    assert total == sum(pool.available_micro for pool in account.pools.values())


@dataclass(frozen=True)
class Step:
    """One drawn command: what to do, for whom, how much, and how much time passes before it."""

    kind: str
    amount: int
    number: int
    mode: Mode
    account_id: str
    pool_id: str
    seconds: int


def steps(pools: Sequence[str] = ("general", CAMPAIGN)) -> st.SearchStrategy[list[Step]]:
    """Draw streams of commands that meet holds and lots in every state."""
    one = st.builds(
        Step,
        kind=st.sampled_from(
            (
                "mint",
                "mint",
                "reserve",
                "reserve",
                "reserve",
                "finalize",
                "finalize",
                "release",
                "expire_hold",
                "expire_lot",
            )
        ),
        amount=st.integers(0, 40),
        number=st.integers(0, 12),
        mode=st.sampled_from(["shadow", "soft", "soft", "live", "live"]),
        account_id=st.sampled_from([ACCOUNT, ACCOUNT, ACCOUNT, OTHER]),
        pool_id=st.sampled_from(list(pools)),
        seconds=st.sampled_from([0, 0, 0, 1, 60, 300, 1_800]),
    )
    return st.lists(one, min_size=5, max_size=40)


def command_of(step: Step, place: int) -> Command:
    """Return the command that *step* stands for as number *place* of its stream."""
    match step.kind:
        case "mint":
            expires = later(60 * step.number) if step.number % 3 else None
            return Mint(
                step.account_id, f"lot-{place}", step.amount, "deposit", f"source-{step.number}",
                pool_id=step.pool_id, expires_at=expires, idempotency_key=f"key-{place // 2}",
            )  # fmt: skip
        case "reserve":
            key = f"key-{step.number}" if step.number > 9 else None
            ttl = 60 * (step.number % 4) or None
            return Reserve(
                step.account_id,
                f"hold-{place}",
                step.amount,
                step.pool_id,
                ttl,
                idempotency_key=key,
            )
        case "finalize":
            key = f"key-{step.number}" if step.number > 9 else None
            hold = f"hold-{place - step.number}"
            return Finalize(hold, step.amount, step.account_id, idempotency_key=key)
        case "release":
            return Release(f"hold-{place - step.number}", step.account_id, "unused")
        case "expire_hold":
            return ExpireHold(f"hold-{place - step.number}")
    return ExpireLot(step.account_id, f"lot-{place - step.number}")
