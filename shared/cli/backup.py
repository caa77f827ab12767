"""``arrakis backup``: a copy that can be relied on, made while everything runs (runbook 1)."""

import sys
from pathlib import Path

import click

from shared.cli.desk import on_host, open_database
from shared.cli.output import as_json, progress, tell
from shared.config import OperatorSettings
from shared.operations.backup import make_backup

_BAD_NEWS = 1


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@as_json
@on_host
def backup(settings: OperatorSettings, file: Path, *, is_json: bool) -> None:
    """Copy the database to FILE while everything runs, and verify the copy.

    SQLite: FILE is a database, put back by copying it over data/sietch.db while all is stopped.
    PostgreSQL: FILE is what pg_restore reads. FILE is never overwritten; exit 1 if the copy breaks
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
