"""The running system as the story knows it: how to reach it, look into it, and break it.

The story is the same wherever the system runs: as local processes (below), or in containers
(deploy/verify/system.py).
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Protocol

from deploy.local.stack import ROOT, Stack

COMMAND_SECONDS = 60.0


class System(Protocol):
    """What the story needs; names of services are those of docker-compose.yml."""

    api: str
    simulator: str

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets that callers' tokens are signed with, by the names of the settings."""

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement of the runbook on the database."""

    def arrakis(self, *arguments: str) -> tuple[str, int]:
        """Run the operators' command; return what it printed, and its exit status."""

    def pid(self, name: str) -> int:
        """Return the process id of the service *name*, 0 while it is down."""

    def kill(self, name: str) -> str:
        """SIGKILL the service *name*, which its supervisor starts again; return how."""

    def empty_redis(self) -> str:
        """SIGKILL Redis so that it comes back with nothing; return how."""


class LocalSystem:
    """The processes of a local *stack* on SQLite."""

    def __init__(self, stack: Stack, *, api: str, simulator: str) -> None:
        self.api = api
        self.simulator = simulator
        self._stack = stack

    @property
    def secrets(self) -> Mapping[str, str]:
        """The stack's settings, secrets among them."""
        return self._stack.env

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run *statement* on the database file, as `sqlite3` would."""
        connection = sqlite3.connect(self._stack.directory / "sietch.db", timeout=10)
        try:
            with connection:
                return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def arrakis(self, *arguments: str) -> tuple[str, int]:
        """Run the operators' command with the stack's settings."""
        done = subprocess.run(
            [sys.executable, "-m", "shared.cli.main", *arguments],
            cwd=ROOT,
            env=self._stack.environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return done.stdout, done.returncode

    def pid(self, name: str) -> int:
        """Return the process id of *name*, 0 while it is down."""
        return self._stack.pids().get(name, 0)

    def kill(self, name: str) -> str:
        """SIGKILL the process *name*; supervisord starts it again."""
        pid = self._stack.pid_of(name)
        os.kill(pid, signal.SIGKILL)
        return f"kill -9 {pid}  # {name}"

    def empty_redis(self) -> str:
        """Remove the file that Redis would read at its start, and kill it."""
        shutil.rmtree(self._stack.directory / "redis" / "appendonlydir", ignore_errors=True)
        return self.kill("redis")
