"""Backups: one consistent copy while everything writes, verified before it gets its name (188).

SQLite is copied page by page through its own backup interface, out of one snapshot: a plain copy
of the file would miss what is still in its write-ahead log (W74). PostgreSQL is dumped by pg_dump.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from shared import schema
from shared.database import Database
from shared.errors import Invalid, Unavailable
from shared.ledger import integrity
from shared.operations.postgres_programs import libpq, program, run_program

_PAGES_AT_ONCE = 1_000
LEDGER_CHECK = "ledger_verify"
Progress = Callable[[int, int], None]
Verified = tuple[tuple[str, ...], tuple[str, ...]]
"""The checks that were made, and where the invariants of the ledger that are broken."""


@dataclass(frozen=True)
class Backup:
    """A finished copy: where, how large, how it was checked, and what the check found."""

    path: str
    size_bytes: int
    kind: str
    checks: tuple[str, ...]
    breaches: tuple[str, ...] = ()


def make_backup(
    database: Database, target: Path, *, progress: Progress = lambda _done, _all: None
) -> Backup:
    """Copy *database* to *target*, which must not exist, readable by its owner alone.

    Holds all that was committed before it began; writers go on meanwhile. *progress* is told
    pages done and pages in all (SQLite only). A copy that breaks an invariant of the ledger is
    kept and says so in ``breaches``: its original does too. Raises Invalid (``backup_exists``,
    ``backup_folder``), Unavailable (``backup_failed``, ``pg_dump_missing``).
    """
    if target.exists():
        raise Invalid(f"{target} exists already and is not overwritten.", code="backup_exists")
    if not target.parent.is_dir():
        raise Invalid(f"There is no folder {target.parent}.", code="backup_folder")
    with unnamed(target) as copy:
        if database.is_sqlite:
            copy_sqlite(database.engine.url.database, copy, progress)
            checks, breaches = verify_sqlite(copy)
        else:
            checks, breaches = _dump_postgres(database.engine.url, copy), ()
        sync(copy)
        try:
            os.link(copy, target)  # unlike a rename it never overwrites
        except FileExistsError as error:
            raise Invalid(f"{target} exists already.", code="backup_exists") from error
    kind = "sqlite" if database.is_sqlite else "pg_dump"
    return Backup(str(target), target.stat().st_size, kind, checks, breaches)


@contextmanager
def unnamed(target: Path) -> Iterator[Path]:
    """Yield a new empty file beside *target*; it is gone afterwards, with what SQLite adds."""
    copy = target.with_name(f".{target.name}.{os.getpid()}.partial")
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield copy
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def copy_sqlite(path: str | None, copy: Path, progress: Progress) -> None:
    """Copy the database at *path* page by page. Raises Unavailable (``backup_failed``)."""
    if not path or not Path(path).is_file():
        raise Unavailable(f"There is no database at {path}.", code="backup_failed")

    def tell(_status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as source:
            # One snapshot for the whole copy: else each commit of another process begins it anew.
            source.execute("BEGIN")
            source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(copy, isolation_level=None)) as made:
                source.backup(made, pages=_PAGES_AT_ONCE, progress=tell)
    except sqlite3.Error as error:
        raise Unavailable(f"The copy failed: {error}.", code="backup_failed") from error


def verify_sqlite(copy: Path) -> Verified:
    """Check the copy as a database and as a ledger; leave it as one file without a log."""
    try:
        with closing(sqlite3.connect(copy, isolation_level=None)) as made:
            found = [row[0] for row in made.execute("PRAGMA integrity_check")]
            if found != ["ok"] or made.execute("PRAGMA foreign_key_check").fetchone():
                raise Unavailable("The copy is damaged; it was removed.", code="backup_failed")
            database = Database(URL.create("sqlite", database=str(copy)).render_as_string())
            try:
                checks, breaches = verify_ledger(database)
            finally:
                database.dispose()
            made.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise Unavailable(f"The copy cannot be read: {error}.", code="backup_failed") from error
    return ("integrity_check", "foreign_key_check", *checks), breaches


def verify_ledger(database: Database) -> Verified:
    """Verify the ledger in a copy, unless its schema is of another release (runbook 1)."""
    if schema.applied(database) != schema.all_names():
        return (), ()
    with database.reading() as tx:
        breaches = integrity.verify(tx)
    return (LEDGER_CHECK,), tuple(f"{one.invariant}: {one.place}" for one in breaches)


def _dump_postgres(url: URL, copy: Path) -> tuple[str, ...]:
    """Dump in pg_dump's own format, which pg_restore reads, and read its table of contents."""
    options = [f"--dbname={libpq(url)}", "--format=custom", "--no-password"]
    run_program([program("pg_dump"), *options, f"--file={copy}"], password=url.password)
    listed = run_program([program("pg_restore"), "--list", str(copy)])
    if b"TABLE DATA" not in listed or b"credit_ledger" not in listed:
        raise Unavailable("The dump holds no ledger; it was removed.", code="backup_failed")
    return ("pg_restore_list",)


def sync(path: Path) -> None:
    """Bring *path* to the disk, so that a backup that was announced survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
