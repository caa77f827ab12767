"""The engine of the database: how each kind is connected to, and how its transactions begin."""

from pathlib import Path
from typing import Any

import psycopg._queries as psycopg_queries
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

from shared import tracing

READ_ONLY = "arrakis_read_only"
# Statements take sets of unknown size, so a plan for each would cost more than it gains; and what
# is read is in memory or on a disk without a head, so an index beats a walk of a whole small table.
_POSTGRES_OPTIONS = (
    "-c timezone=UTC -c statement_timeout=30000 -c lock_timeout=2000"
    " -c idle_in_transaction_session_timeout=30000"
    " -c plan_cache_mode=force_generic_plan -c random_page_cost=1.1"
)
_BUSY_TIMEOUT_MS = 5_000  # behaviour 30; whole transactions are tried three times
# A host that vanished without a word is noticed within seconds, not after the kernel's two hours.
_POSTGRES_SOCKET = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_STATEMENTS = "arrakis_statements"
# The driver reads longer statements anew each time; ours are few, and the longest is the hottest.
psycopg_queries.MAX_CACHED_STATEMENT_LENGTH = 65_536
psycopg_queries.MAX_CACHED_STATEMENT_PARAMS = 1_000


def make_engine(url: str, pool_size: int) -> Engine:
    """Return an engine for *url*; statements are counted if somebody traces."""
    engine = _engine_of(url, pool_size)
    if tracing.is_on():
        event.listen(engine, "before_cursor_execute", _count_statement)
    return engine


def statements_of(connection: Connection) -> int:
    """Return how many statements *connection* has carried, 0 if nobody traces."""
    count: int = connection.info.get(_STATEMENTS, 0)
    return count


def _count_statement(connection: Connection, *_: object) -> None:
    connection.info[_STATEMENTS] = statements_of(connection) + 1


def _engine_of(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        parsed,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_recycle=1800,
        connect_args={"options": _POSTGRES_OPTIONS, **_POSTGRES_SOCKET},
        hide_parameters=True,  # logs and stored errors must not carry keys and amounts
    )


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a commit that was answered survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # The driver's own BEGIN is off: a deferred one lets two readers fail when both come to write.
    reads = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
