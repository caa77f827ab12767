"""Backups are put back, or only tried: into empty databases, verified, and nothing overwritten."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from shared.ledger.integrity import INVARIANTS
from shared.operations.backup import make_backup
from shared.operations.restore import restore
from tests.command import arrakis, told
from tests.harness import unique
from tests.ledger import Ledger


@pytest.fixture
def backup(ledger: Ledger, tmp_path: Path) -> Path:
    """A backup of a ledger with a payment's life in it."""
    account = ledger.funded(1_000)
    ledger.finalize(ledger.reserve(account, 500), 400)
    copy = tmp_path / "a.bak"
    make_backup(ledger.database, copy)
    return copy


def empty_beside(ledger: Ledger, folder: Path) -> str:
    """Return the URL of an empty database of the ledger's kind."""
    if ledger.database.is_sqlite:
        return f"sqlite:///{folder}/new/empty.db"
    name = unique("empty").replace("-", "_")
    engine = create_engine(ledger.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return ledger.database.engine.url.set(database=name).render_as_string(hide_password=False)


def databases(ledger: Ledger) -> set[str]:
    """Return the names of the databases of the server, none of SQLite."""
    if ledger.database.is_sqlite:
        return set()
    return {name for (name,) in ledger.rows("SELECT datname FROM pg_database")}


def test_a_backup_is_put_back_row_by_row(ledger: Ledger, backup: Path, tmp_path: Path) -> None:
    url = empty_beside(ledger, tmp_path)
    code, found = told("restore", str(backup), DATABASE_URL=url)
    assert (code, found["breaches"], found["isCurrent"]) == (0, [], True)
    assert found["checks"][-1] == "ledger_verify"
    again = Ledger(url)
    assert again.everything() == ledger.everything()
    assert found["entries"] == again.rows("SELECT COUNT(*) FROM credit_ledger")[0][0]
    again.database.dispose()


def test_a_restored_ledger_is_verified_once(ledger: Ledger, backup: Path, tmp_path: Path) -> None:
    walked: list[str] = []

    def watch(*arguments: Any) -> None:
        walked.extend(name for name, query in INVARIANTS.items() if query in arguments[2])

    event.listen(Engine, "before_cursor_execute", watch)
    try:
        url = make_url(empty_beside(ledger, tmp_path))
        restored = restore(url, backup)
    finally:
        event.remove(Engine, "before_cursor_execute", watch)
    assert walked == list(INVARIANTS)
    assert (restored.checks.count("ledger_verify"), restored.is_current) == (1, True)


def test_a_backup_is_tried_and_nothing_stays(ledger: Ledger, backup: Path, tmp_path: Path) -> None:
    before, names = ledger.everything(), databases(ledger)
    code, output, _ = arrakis("restore", "--verify", str(backup), DATABASE_URL=ledger.url)
    assert code == 0
    assert "can be restored: " in output
    assert "ledger_verify" in output
    assert ledger.everything() == before
    assert databases(ledger) == names


def test_nothing_is_overwritten(ledger: Ledger, backup: Path) -> None:
    before = ledger.everything()
    code, output, complaint = arrakis("restore", str(backup), DATABASE_URL=ledger.url)
    assert (code, output, "database_not_empty" in complaint) == (1, "", True)
    assert ledger.everything() == before


def test_an_unsound_ledger_is_found_by_the_trial(ledger: Ledger, tmp_path: Path) -> None:
    account = ledger.funded(100)
    ledger.sql("UPDATE credit_balances SET available_micro = 101 WHERE account_id = :a", a=account)
    ledger.is_sound_at_end = False
    copy = tmp_path / "unsound.bak"
    make_backup(ledger.database, copy)
    code, found = told("restore", "--verify", str(copy), DATABASE_URL=ledger.url)
    assert code == 1
    assert found["breaches"]


def test_a_damaged_backup_is_refused(ledger: Ledger, backup: Path, tmp_path: Path) -> None:
    names = databases(ledger)
    backup.write_bytes(backup.read_bytes()[: backup.stat().st_size // 2])
    code, _, complaint = arrakis("restore", "--verify", str(backup), DATABASE_URL=ledger.url)
    assert (code, "backup_failed" in complaint) == (3, True), complaint
    assert databases(ledger) == names


def test_what_is_no_backup_of_this_kind_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    other = tmp_path / "other.bak"
    other.write_bytes(b"PGDMP" if ledger.database.is_sqlite else b"SQLite format 3\0")
    for file, why in (
        (other, "backup_of_another_kind"),
        (tmp_path / "missing.bak", "no_backup"),
        (Path(__file__), "no_backup"),
    ):
        code, _, complaint = arrakis("restore", str(file), DATABASE_URL=ledger.url)
        assert (code, why in complaint) == (2, True), complaint
