"""Restoring a backup: into an empty database only, verified before it is said to be there.

A backup that was never restored is a hope, so it can also be tried: into a scratch database, which
is dropped again (runbook 1, rollback).
"""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from shared.database import Database
from shared.errors import Conflict, Invalid, Unavailable
from shared.operations.backup import (
    LEDGER_CHECK,
    Progress,
    Verified,
    copy_sqlite,
    sync,
    unnamed,
    verify_ledger,
)
from shared.operations.backup import verify_sqlite as verify_copy
from shared.operations.postgres_programs import libpq, program, run_program

_MAGIC = {b"SQLite format 3\0": "sqlite", b"PGDMP": "postgresql"}


@dataclass(frozen=True)
class Restored:
    """What a backup held: how it was checked, what the check found, and what is in it."""

    checks: tuple[str, ...]
    breaches: tuple[str, ...]
    accounts: int
    entries: int
    is_current: bool


def restore(url: URL, source: Path, *, progress: Progress = lambda _done, _all: None) -> Restored:
    """Put the backup *source* into the empty database at *url*, and verify it.

    ``is_current`` is false if it is of an earlier release: it must be migrated, and is not
    verified before. Raises Invalid (``no_backup``, ``backup_of_another_kind``), Conflict
    (``database_not_empty``), Unavailable (``backup_failed``, ``pg_dump_missing``).
    """
    kind = url.get_backend_name()
    own = _kind_of(source)
    if own != kind:
        raise Invalid(
            f"{source} is a backup of {own}, and DATABASE_URL names a {kind} database.",
            code="backup_of_another_kind",
        )
    if kind == "sqlite":
        checks, breaches = _restore_sqlite(Path(url.database or ""), source, progress)
    else:
        checks, breaches = _restore_postgres(url, source)
    database = Database(url.render_as_string(hide_password=False))
    try:
        with database.reading() as tx:
            accounts = tx.scalar(text("SELECT COUNT(*) FROM credit_accounts"))
            entries = tx.scalar(text("SELECT COUNT(*) FROM credit_ledger"))
    finally:
        database.dispose()
    return Restored(checks, breaches, accounts, entries, LEDGER_CHECK in checks)


def rehearse(url: URL, source: Path, *, progress: Progress = lambda _done, _all: None) -> Restored:
    """Restore *source* into a scratch database beside the one at *url*, verify it and drop it."""
    with _scratch(url) as beside:
        return restore(beside, source, progress=progress)


@contextmanager
def _scratch(url: URL) -> Iterator[URL]:
    if url.get_backend_name() == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield url.set(database=str(Path(folder) / "scratch.db"))
        return
    name = f"arrakis_scratch_{secrets.token_hex(8)}"
    _administer(url, f"CREATE DATABASE {name}")
    try:
        yield url.set(database=name)
    finally:
        _administer(url, f"DROP DATABASE {name} WITH (FORCE)")


def _administer(url: URL, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", hide_parameters=True)
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise Unavailable(
            f"A scratch database cannot be made or dropped: {cause}.", code="backup_failed"
        ) from error
    finally:
        engine.dispose()


def _kind_of(source: Path) -> str:
    try:
        with source.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise Invalid(f"{source} cannot be read: {error.strerror}.", code="no_backup") from error
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    raise Invalid(f"{source} is no backup of ours.", code="no_backup")


def _restore_sqlite(target: Path, source: Path, progress: Progress) -> Verified:
    left = [path for path in (target, Path(f"{target}-wal")) if path.exists()]
    if left:
        raise _not_empty(f"{left[0]} is there")
    target.parent.mkdir(parents=True, exist_ok=True)
    with unnamed(target) as copy:
        copy_sqlite(str(source), copy, progress)
        verified = verify_copy(copy)
        sync(copy)
        try:
            os.link(copy, target)  # unlike a rename it never overwrites
        except FileExistsError as error:
            raise _not_empty(f"{target} is there") from error
    return verified


def _restore_postgres(url: URL, source: Path) -> Verified:
    database = Database(url.render_as_string(hide_password=False))
    try:
        with database.reading() as tx:
            tables = inspect(tx.connection).get_table_names()
        if tables:
            raise _not_empty(f"it has {len(tables)} tables")
        options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
        command = [program("pg_restore"), *options, f"--dbname={libpq(url)}", str(source)]
        run_program(command, password=str(url.password) if url.password else None)
        with database.transaction() as tx:
            tx.run(text("ANALYZE"))  # the checks walk all tables, and need to know their sizes
        checks, breaches = verify_ledger(database)
    finally:
        database.dispose()
    return ("pg_restore", *checks), breaches


def _not_empty(why: str) -> Conflict:
    return Conflict(
        f"The database that DATABASE_URL names is not empty ({why}), and nothing is overwritten. "
        "Name a new one.",
        code="database_not_empty",
    )
