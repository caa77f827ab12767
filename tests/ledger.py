"""The ledger as tests drive it: a real database, an executor, and a clock that they set."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from shared.database import Database
from shared.errors import ArrakisError
from shared.ledger import accounts, queries, sweeps
from shared.ledger.commands import Command, Finalize, Mint, Outcome, Release, Reserve
from shared.ledger.executor import Executor
from shared.ledger.integrity import Breach, verify
from shared.ledger.terms import TermsCache
from tests.harness import make_id, set_config, unique

START = datetime(2026, 3, 15, 14, 30, 45, 123456, tzinfo=UTC)
CAMPAIGN = "campaign:spring"


class SettableClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, *, seconds: float = 0, hours: float = 0) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds, hours=hours)


class Ledger:
    """One database with its executor; every method is one transaction."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = SettableClock()
        self.database = Database(url, clock=self.clock)
        self.is_sound_at_end = True
        self.configure(billing_mode="live")

    def configure(self, **values: str) -> None:
        """Change settings by SQL; they are in force at once, because a new cache reads them."""
        set_config(self.database, **values)
        self.terms = TermsCache(self.database)
        self.executor = Executor(self.database, self.terms)

    def account(self) -> str:
        """Create an account."""
        with self.database.transaction() as tx:
            return accounts.create_account(tx, entity_type="person", entity_id=unique("p"))[0]

    def funded(self, *amounts: int, **more: Any) -> str:
        """Create an account with a lot of each amount."""
        account = self.account()
        for amount in amounts:
            self.mint(account, amount, **more)
        return account

    def answer(self, command: Command) -> dict[str, Any]:
        """Carry out *command*, which must not be refused."""
        return self.executor.execute(command).unwrap()

    def outcome(self, command: Command) -> Outcome:
        """Carry out *command*."""
        return self.executor.execute(command)

    def refusal(self, command: Command) -> tuple[type[ArrakisError], str]:
        """Carry out *command*, which must be refused; return the kind of error and its code."""
        error = self.executor.execute(command).error
        assert error is not None
        return type(error), error.code

    def mint(self, account: str, amount: int, source: str = "grant", **more: Any) -> str:
        """Mint a lot and return its id."""
        return str(self.answer(Mint(account, make_id(), amount, source, **more))["lotId"])

    def reserve(self, account: str, amount: int, **more: Any) -> str:
        """Hold credits and return the reservation's id."""
        return str(self.answer(Reserve(account, make_id(), amount, **more))["reservationId"])

    def finalize(self, hold: str, cost: int, **more: Any) -> dict[str, Any]:
        """Settle a hold."""
        return self.answer(Finalize(hold, cost, **more))

    def release(self, hold: str) -> dict[str, Any]:
        """Give a hold back."""
        return self.answer(Release(hold))

    def sweep(self) -> tuple[int, int]:
        """End what is due; return the numbers of holds and lots."""
        holds = sweeps.expire_holds(self.database, self.terms)
        return holds, sweeps.expire_lots(self.database, self.terms)

    def rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query as plain tuples."""
        with self.database.reading() as tx:
            return [tuple(row) for row in tx.all(text(statement), **parameters)]

    def sql(self, statement: str, **parameters: Any) -> int:
        """Change rows by hand, as an operator does; return how many."""
        with self.database.transaction() as tx:
            return tx.run(text(statement), **parameters)

    def balance(self, account: str, pool: str = "general") -> tuple[int, int, int]:
        """Return available, reserved and debt as callers read them."""
        with self.database.reading() as tx:
            told = queries.balance(tx, account, pool)
        available, reserved = int(told["availableMicro"]), int(told["reservedMicro"])
        assert int(told["settledMicro"]) == available + reserved
        return available, reserved, int(told["debtMicro"])

    def history(self, account: str, **more: Any) -> dict[str, Any]:
        """Return a page of an account's history."""
        with self.database.reading() as tx:
            return queries.history(tx, account, **more)

    def lots(self, account: str) -> list[tuple[int, int, int]]:
        """Return available, reserved and consumed of each lot, oldest first."""
        return self.rows(
            "SELECT available_micro, reserved_micro, consumed_micro FROM credit_lots"
            " WHERE account_id = :account ORDER BY created_at, id",
            account=account,
        )

    def entries(self, account: str, pool: str = "general") -> list[tuple[str, int, int, int]]:
        """Return an account's entries of one pool: type, amount, balance before and after."""
        found = self.rows(
            "SELECT entry_seq, entry_type, amount_micro, pre_balance_micro, post_balance_micro"
            " FROM credit_ledger WHERE account_id = :account AND pool_id = :pool"
            " AND entry_seq IS NOT NULL ORDER BY entry_seq",
            account=account,
            pool=pool,
        )
        assert [row[0] for row in found] == list(range(1, len(found) + 1))
        return [(row[1], row[2], row[3], row[4]) for row in found]

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of money, to show that a refusal has changed none."""
        tables = (
            "credit_lots", "credit_balances", "credit_ledger", "credit_account_seq",
            "credit_reservations", "reservation_lots", "credit_debts", "credit_debt_payments",
            "credit_operations", "billing_idempotency_keys",
        )  # fmt: skip
        return {name: sorted(self.rows(f"SELECT * FROM {name}"), key=repr) for name in tables}

    def breaches(self) -> list[Breach]:
        """Return what breaks an invariant of the ledger."""
        with self.database.reading() as tx:
            return verify(tx)
