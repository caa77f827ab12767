"""Backups made while everything writes: nothing that was committed is missing (188, W74, R3)."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from shared.database import Database
from shared.errors import Invalid
from shared.ledger.integrity import verify
from shared.operations import backup as backups
from shared.operations import postgres_programs
from tests.command import arrakis, told
from tests.harness import ROOT, unique, wait_until
from tests.ledger import Ledger

# A process that mints and spends without a pause, and tells each lot that was committed.
WRITER = """
import sys
from tests.ledger import Ledger
ledger = Ledger(sys.argv[1])
account = ledger.account()
for number in range(1_000_000):
    lot = ledger.mint(account, 1_000)
    ledger.finalize(ledger.reserve(account, 500), 400)
    print(lot, flush=True)
"""


@contextmanager
def writing(url: str) -> Iterator[list[str]]:
    """Let another process write; yields the growing list of lots that it has committed."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    committed: list[str] = []
    assert process.stdout is not None
    output = process.stdout

    def listen() -> None:
        for line in output:  # one by one, so that the list grows while the writer lives
            committed.append(line.strip())  # noqa: PERF401

    reader = threading.Thread(target=listen)
    reader.start()
    try:
        wait_until("the writer writes", lambda: len(committed) > 20, seconds=30)
        yield committed
    finally:
        process.kill()
        process.wait()
        reader.join()
        output.close()


def restored(ledger: Ledger, copy: Path) -> str:
    """Return the URL of a database restored from *copy*, as docs/runbook.md says."""
    if ledger.database.is_sqlite:
        return f"sqlite:///{copy}"
    name = unique("restored").replace("-", "_")
    engine = create_engine(ledger.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = ledger.database.engine.url.set(database=name)
    program = postgres_programs.program("pg_restore")
    subprocess.run([program, f"--dbname={postgres_programs.libpq(url)}", str(copy)], check=True)
    return url.render_as_string(hide_password=False)


def test_a_backup_during_writes_restores_every_committed_row(
    ledger: Ledger, tmp_path: Path
) -> None:
    copies = []
    with writing(ledger.url) as committed:
        for number in range(2):
            before = len(committed)
            copy = tmp_path / f"{number}.bak"
            code, found = told("backup", str(copy), DATABASE_URL=ledger.url)
            assert (code, found["breaches"]) == (0, [])
            copies.append((copy, before))
        wait_until("it went on writing", lambda: len(committed) > before)
    for copy, before in copies:
        database = Database(restored(ledger, copy))
        with database.reading() as tx:
            lots = {row.id for row in tx.all(text("SELECT id FROM credit_lots"))}
            assert verify(tx) == []
        database.dispose()
        assert set(committed[:before]) <= lots
        assert before > 20


def test_the_copy_is_one_private_file_that_was_verified(ledger: Ledger, tmp_path: Path) -> None:
    copy = tmp_path / "a.bak"
    ledger.funded(5)
    code, found = told("backup", str(copy), DATABASE_URL=ledger.url)
    assert (code, found["sizeBytes"]) == (0, copy.stat().st_size)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".bak")] == ["a.bak"]
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    checks = {
        "sqlite": ["integrity_check", "foreign_key_check", "ledger_verify"],
        "pg_dump": ["pg_restore_list"],
    }
    assert found["checks"] == checks[found["kind"]]


def test_nothing_is_overwritten(ledger: Ledger, tmp_path: Path) -> None:
    copy = tmp_path / "a.bak"
    copy.write_text("precious")
    code, output, complaint = arrakis("backup", str(copy), DATABASE_URL=ledger.url)
    assert (code, output, "backup_exists" in complaint) == (2, "", True)
    assert copy.read_text() == "precious"
    nowhere = arrakis("backup", str(tmp_path / "no" / "a.bak"), DATABASE_URL=ledger.url)
    assert (nowhere[0], "backup_folder" in nowhere[2]) == (2, True)


def test_a_file_that_appears_meanwhile_is_not_overwritten_either(
    ledger: Ledger, tmp_path: Path
) -> None:
    copy = tmp_path / "a.bak"
    if not ledger.database.is_sqlite:
        copy.write_text("precious")
        with pytest.raises(Invalid):
            backups.make_backup(ledger.database, copy)
        return

    def appear(_done: int, _pages: int) -> None:
        copy.write_text("precious")

    with pytest.raises(Invalid) as refused:
        backups.make_backup(ledger.database, copy, progress=appear)
    assert refused.value.code == "backup_exists"
    assert copy.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".a")] == []


def test_a_copy_of_an_unsound_ledger_is_kept_and_says_so(ledger: Ledger, tmp_path: Path) -> None:
    account = ledger.funded(100)
    ledger.sql("UPDATE credit_balances SET available_micro = 101 WHERE account_id = :a", a=account)
    ledger.is_sound_at_end = False
    code, found = told("backup", str(tmp_path / "a.bak"), DATABASE_URL=ledger.url)
    is_checked = ledger.database.is_sqlite
    assert (code, bool(found["breaches"])) == ((1, True) if is_checked else (0, False))
    assert (tmp_path / "a.bak").exists()


def test_a_database_of_an_older_release_is_copied_before_its_migration(tmp_path: Path) -> None:
    """Runbook 1: the backup comes before the migration."""
    source = tmp_path / "old.db"
    with sqlite3.connect(source) as made:
        made.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY)")
        made.execute("INSERT INTO migrations VALUES ('021_crypto_payments')")
    made.close()
    copy = tmp_path / "old.bak"
    code, found = told("backup", str(copy), DATABASE_URL=f"sqlite:///{source}")
    assert (code, found["checks"]) == (0, ["integrity_check", "foreign_key_check"])
    opened = sqlite3.connect(copy)
    assert opened.execute("SELECT name FROM migrations").fetchall() == [("021_crypto_payments",)]
    opened.close()


def test_what_is_away_or_damaged_is_told_with_exit_3(tmp_path: Path) -> None:
    target = str(tmp_path / "a.bak")
    away = "postgresql+psycopg://nobody:secret-word@127.0.0.1:1/none"
    code, output, complaint = arrakis("backup", target, DATABASE_URL=away)
    assert (code, output, "backup_failed" in complaint) == (3, "", True)
    assert "secret-word" not in complaint
    (tmp_path / "bad.db").write_bytes(os.urandom(8192))
    for source in ("bad.db", "missing.db"):
        done = arrakis("backup", target, "--json", DATABASE_URL=f"sqlite:///{tmp_path}/{source}")
        assert (done[0], done[1]) == (3, ""), json.dumps(done)
    assert not (tmp_path / "missing.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.db"]
