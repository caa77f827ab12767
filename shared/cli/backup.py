"""``arrakis backup`` and ``restore``: copies that can be relied on, and are tried (runbook 1)."""

import sys
from pathlib import Path

import click
from sqlalchemy import make_url

from shared.cli.desk import on_host, open_database
from shared.cli.output import as_json, progress, tell
from shared.config import OperatorSettings
from shared.operations import restore as restoring
from shared.operations.backup import make_backup

_BAD_NEWS = 1


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@as_json
@on_host
def backup(settings: OperatorSettings, file: Path, *, is_json: bool) -> None:
    """Copy the database to FILE while everything runs, and verify the copy.

    SQLite: FILE is a database; PostgreSQL: what pg_restore reads. `arrakis restore` puts either
    back, and with --verify only tries it. FILE is never overwritten; exit 1 if the copy breaks
    an invariant of the ledger (it is kept), 3 if it could not be made.

    \b
    Example:
        arrakis backup data/sietch.db.bak-$(date +%Y%m%d%H%M%S)
    """
    with progress("Copying pages") as so_far:
        made = make_backup(open_database(settings), file, progress=so_far)
    facts = {
        "path": made.path,
        "sizeBytes": made.size_bytes,
        "kind": made.kind,
        "checks": list(made.checks),
        "breaches": list(made.breaches),
    }
    lines = [
        f"{made.path}: {made.size_bytes} bytes, checked by {', '.join(made.checks)}.",
        *(f"The ledger is not sound: {breach}" for breach in made.breaches),
    ]
    tell(facts, is_json=is_json, text="\n".join(lines))
    if made.breaches:
        sys.exit(_BAD_NEWS)


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--verify", "is_trial", is_flag=True, help="Into a scratch database, then drop it.")
@as_json
@on_host
def restore(settings: OperatorSettings, file: Path, *, is_trial: bool, is_json: bool) -> None:
    """Put the backup FILE into the database that DATABASE_URL names, and verify it.

    That database must be empty: nothing is overwritten. With --verify the backup is only tried,
    beside it, and the database stays as it is. Exit 1 if the ledger in it is not sound, 3 if it
    cannot be restored.

    \b
    Example:
        arrakis restore --verify data/sietch.db.bak-20261122181500
    """
    do = restoring.rehearse if is_trial else restoring.restore
    with progress("Copying pages") as so_far:
        found = do(make_url(settings.database_url), file, progress=so_far)
    facts = {
        "path": str(file),
        "isTrial": is_trial,
        "accounts": found.accounts,
        "entries": found.entries,
        "checks": list(found.checks),
        "breaches": list(found.breaches),
        "isCurrent": found.is_current,
    }
    done = "can be restored" if is_trial else "is restored"
    held = f"{found.accounts} accounts, {found.entries} entries"
    lines = [
        f"{file} {done}: {held}, checked by {', '.join(found.checks)}.",
        *(f"The ledger is not sound: {breach}" for breach in found.breaches),
    ]
    if not found.is_current:
        lines.append("It is of an earlier release: arrakis migrate, then arrakis ledger verify.")
    tell(facts, is_json=is_json, text="\n".join(lines))
    if found.breaches:
        sys.exit(_BAD_NEWS)
