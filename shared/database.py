"""The database: the engine, the only commit in the code, and all that SQLite does differently."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, TypeVar

from sqlalchemy import Connection, Row
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.sql import Executable
from tenacity import Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_random_exponential

from shared import tracing
from shared.clock import Clock, system_clock
from shared.engine import READ_ONLY, make_engine, statements_of
from shared.errors import Unavailable
from shared.parameters import array_literal

T = TypeVar("T")

_BUSY_STATES = {"55P03", "57014"}  # lock_not_available, query_canceled
_UNIQUE_STATE = "23505"
_SQLITE_UNIQUE = {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
# BUSY, LOCKED (its one lock is everybody's), READONLY, IOERR, FULL, CANTOPEN, PROTOCOL
_SQLITE_AWAY = {5, 6, 8, 10, 13, 14, 15}


@dataclass(frozen=True)
class Message:
    """A wake-up for the workers: the name of a task. It carries nothing, the rows are the jobs."""

    task: str


@dataclass(frozen=True)
class CachedBalance:
    """A balance as a transaction leaves it, for a cache to keep until *good_until* at most.

    ``version`` grows with every change, so the later of two is the one with the higher version.
    """

    account_id: str
    pool_id: str
    available_micro: int
    reserved_micro: int
    debt_micro: int
    version: int
    good_until: datetime | None = None


@dataclass
class Tx:
    """One open transaction: its connection, its instant, and what others learn after the commit."""

    connection: Connection
    now: datetime
    clock: Clock
    messages: list[Message] = field(default_factory=list)
    balances: list[CachedBalance] = field(default_factory=list)

    def restart_clock(self) -> None:
        """Set the transaction's instant again, after it waited for a lock.

        Whoever held the lock before has written earlier times, so times follow the lock's order.
        """
        self.now = max(self.now, self.clock())

    def all(self, statement: Executable, **parameters: Any) -> Sequence[Row[Any]]:
        """Return every row of *statement*."""
        return self.connection.execute(statement, parameters).all()

    def first(self, statement: Executable, **parameters: Any) -> Row[Any] | None:
        """Return the first row of *statement*, or None."""
        return self.connection.execute(statement, parameters).first()

    def scalar(self, statement: Executable, **parameters: Any) -> Any:
        """Return the first column of the first row, or None."""
        return self.connection.execute(statement, parameters).scalar()

    def run(self, statement: Executable, **parameters: Any) -> int:
        """Execute *statement* and return the number of rows that it changed."""
        return self.connection.execute(statement, parameters).rowcount


class Database:
    """The engine with the one way to open a transaction. Safe to share between threads.

    Each of *after_commit* is called with a transaction that wrote, once it is committed. What they
    do may be lost: they must not raise, and nothing may depend on them.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock = system_clock,
        pool_size: int = 20,
        after_commit: Sequence[Callable[[Tx], None]] = (),
    ) -> None:
        self.engine = make_engine(url, pool_size)
        self.clock = clock
        self._after_commit = tuple(after_commit)

    @property
    def is_sqlite(self) -> bool:
        """True for the embedded database."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def transaction(self, *, lock_timeout_ms: int | None = None) -> Iterator[Tx]:
        """Open a transaction that commits at the end of the block, or not at all.

        Raises DatabaseBusy if a row is locked for longer than *lock_timeout_ms* (PostgreSQL;
        default two seconds), Unavailable if the database is away or refused to go on; then nothing
        can be said of a commit that had already begun, so callers repeat by key.
        """
        with _translated(), self._traced("transaction") as span, self.engine.begin() as connection:
            before = statements_of(connection)
            if lock_timeout_ms is not None and not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(lock_timeout_ms)}")
            tx = Tx(connection, self.clock(), self.clock)
            yield tx
            span.note(statements=statements_of(connection) - before)
        for tell in self._after_commit:
            tell(tx)

    @contextmanager
    def reading(self) -> Iterator[Tx]:
        """Open a transaction for reading only: it takes no lock and never waits for a writer."""
        with _translated(), self._traced("reading"), self.engine.connect() as raw:
            options: dict[str, Any] = {READ_ONLY: True}
            if not self.is_sqlite:  # one snapshot for all statements, as SQLite has it anyway
                options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            connection = raw.execution_options(**options)
            with connection.begin():
                yield Tx(connection, self.clock(), self.clock)

    def _traced(self, name: str) -> AbstractContextManager[tracing.Span]:
        return tracing.span(name, kind="client", **{"db.system.name": self.engine.dialect.name})

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def leave_to_parent(self) -> None:
        """Begin with connections of one's own in a forked child.

        The parent's are left as they are: to close one here would end it there, too.
        """
        self.engine.dispose(close=False)


class DatabaseBusy(Unavailable):
    """What the transaction needs is locked by another one for too long. Others may go through."""

    code = "database_busy"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        cause = getattr(error, "orig", None)
        if getattr(cause, "sqlstate", None) in _BUSY_STATES:
            raise DatabaseBusy(
                "Another transaction holds what this one needs; send the same request again."
            ) from error
        if isinstance(cause, sqlite3.Error) and _sqlite_code(cause) not in _SQLITE_AWAY:
            raise  # on SQLite a mistake of ours comes as an OperationalError, too
        raise Unavailable(
            "The database does not answer; send the same request again.",
            code="database_unavailable",
        ) from error


def _sqlite_code(cause: Any) -> int | None:
    code = getattr(cause, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the rest of an extended code says why


def patiently(operation: Callable[[], T]) -> T:
    """Run a whole transaction, and again where that can help: three times at most.

    It helps after a lost connection or a deadlock, and after a UNIQUE violation: that is a lost
    race, another transaction took the key between our read and our write, and a repeat reads it.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_worth_repeating),
        stop=stop_after_attempt(3),
        wait=wait_random_exponential(multiplier=0.02, max=0.3),
        before_sleep=lambda state: tracing.note(retries=state.attempt_number),
        reraise=True,
    )
    return retrying(operation)


def _is_worth_repeating(error: BaseException) -> bool:
    if isinstance(error, IntegrityError):
        state = getattr(error.orig, "sqlstate", None)
        name = getattr(error.orig, "sqlite_errorname", None)
        return state == _UNIQUE_STATE or name in _SQLITE_UNIQUE
    return isinstance(error, Unavailable) and not isinstance(error, DatabaseBusy)


@dataclass(frozen=True)
class Write:
    """Rows of one table to be written: all name the same columns.

    ``insert`` them; ``update`` the other columns of the rows that *key* names, where those in
    *added* grow by the value; or ``upsert``: insert them, or update where *key* is there already.
    """

    verb: Literal["insert", "update", "upsert"]
    table: Any
    rows: Sequence[Mapping[str, Any]]
    key: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def write(tx: Tx, writes: Sequence[Write]) -> None:
    """Carry out *writes*, no two of which touch one row, in as few statements as possible.

    On PostgreSQL one, with a CTE each: references between them are checked at its end.
    """
    wanted = [one for one in writes if one.rows]
    if tx.connection.dialect.name == "sqlite":
        for one in wanted:
            text, binders = _sqlite_write(one.table, *_form(one))
            tx.connection.exec_driver_sql(
                text, [{n: b(r[n]) if b else r[n] for n, b in binders} for r in one.rows]
            )
    elif wanted:
        text = _postgres_writes(tuple((one.table, *_form(one)) for one in wanted))
        parameters = {
            f"{name}{place}": array_literal(values)
            for place, one in enumerate(wanted)
            for name, values in _columns(one.rows)
        }
        tx.connection.exec_driver_sql(text, parameters)


def insert_rows(tx: Tx, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert *rows*, which all name the same columns, with one statement."""
    write(tx, [Write("insert", table, rows)])


def update_rows(
    tx: Tx,
    table: Any,
    rows: Sequence[Mapping[str, Any]],
    *,
    key: tuple[str, ...] = ("id",),
    added: tuple[str, ...] = (),
) -> None:
    """Set the other columns of the rows that *key* names; those in *added* grow by the value."""
    write(tx, [Write("update", table, rows, key, added)])


def upsert_rows(
    tx: Tx, table: Any, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> None:
    """Insert *rows*, or set their other columns where *key* is there already."""
    write(tx, [Write("upsert", table, rows, key)])


def insert_new(
    tx: Tx, table: Any, rows: Sequence[Mapping[str, Any]], *, key: tuple[str, ...]
) -> set[str]:
    """Insert those of *rows* whose *key* is not there yet, the first of equals; return their ids.

    Who inserts many keys sorts *rows* by them, so that no two transactions wait for each other.
    """
    names = tuple(rows[0])
    tail = f" ON CONFLICT ({', '.join(key)}) DO NOTHING RETURNING id"
    if tx.connection.dialect.name == "sqlite":
        text, binders = _sqlite_write(table, names, (), "insert", ())
        each = ({n: b(row[n]) if b else row[n] for n, b in binders} for row in rows)
        found = (tx.connection.exec_driver_sql(text + tail, values).scalar() for values in each)
        return {id_ for id_ in found if id_ is not None}
    parameters = {f"{name}0": array_literal(values) for name, values in _columns(rows)}
    text = _postgres_writes(((table, names, (), "insert", ()),)) + tail
    return set(tx.connection.exec_driver_sql(text, parameters).scalars())


def _columns(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield each column's name and its values; a row has two columns at least."""
    names = tuple(rows[0])
    return zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True)


def _form(one: Write) -> tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]:
    return tuple(one.rows[0]), one.key, one.verb, one.added


@lru_cache(maxsize=256)
def _sqlite_write(
    table: Any, names: tuple[str, ...], key: tuple[str, ...], verb: str, added: tuple[str, ...]
) -> Any:
    from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect  # noqa: PLC0415  SQLite only

    dialect = sqlite_dialect()
    binders = [(n, table.c[n].type.dialect_impl(dialect).bind_processor(dialect)) for n in names]
    listed, values = ", ".join(names), ", ".join(f":{n}" for n in names)
    changes = ", ".join(
        f"{n} = {n} + :{n}" if n in added else f"{n} = :{n}" for n in names if n not in key
    )
    if verb == "update":
        matches = " AND ".join(f"{k} = :{k}" for k in key)
        return f"UPDATE {table.name} SET {changes} WHERE {matches}", binders
    text = f"INSERT INTO {table.name} ({listed}) VALUES ({values})"
    return text + _on_conflict(names, key, verb), binders


@lru_cache(maxsize=256)
def _postgres_writes(writes: tuple[Any, ...]) -> str:
    *others, last = [_postgres_write(place, one) for place, one in enumerate(writes)]
    named = [f"w{place} AS ({one})" for place, one in enumerate(others)]
    return f"WITH {', '.join(named)} {last}" if named else last


def _postgres_write(place: int, one: tuple[Any, ...]) -> str:
    table, names, key, verb, added = one
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call] # untyped in SQLAlchemy
    arrays = ", ".join(f"%({n}{place})s::{table.c[n].type.compile(dialect)}[]" for n in names)
    listed = ", ".join(names)
    if verb == "update":
        changes = ", ".join(
            f"{n} = t.{n} + v.{n}" if n in added else f"{n} = v.{n}" for n in names if n not in key
        )
        matches = " AND ".join(f"t.{k} = v.{k}" for k in key)
        return (
            f"UPDATE {table.name} AS t SET {changes} "
            f"FROM unnest({arrays}) AS v ({listed}) WHERE {matches}"
        )
    text = f"INSERT INTO {table.name} ({listed}) SELECT * FROM unnest({arrays})"
    return text + _on_conflict(names, key, verb)


def _on_conflict(names: tuple[str, ...], key: tuple[str, ...], verb: str) -> str:
    if verb == "insert":
        return ""
    changes = ", ".join(f"{n} = excluded.{n}" for n in names if n not in key)
    return f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
