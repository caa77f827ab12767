"""The operators' command as tests run it: its exit code, what it says.

In this process, because a process of its own takes most of a second; `in_a_process` is for what
only a real one shows: that nothing of the tests is around it, and many at once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from shared.cli.main import main
from tests.harness import ROOT

NO_REDIS = "redis://127.0.0.1:1/0"


@contextmanager
def logs_restored() -> Iterator[None]:
    """Put the configuration of the logs back at the end."""
    before, is_configured = structlog.get_config(), structlog.is_configured()
    try:
        yield
    finally:
        if is_configured:
            structlog.configure(**before)
        else:
            structlog.reset_defaults()


def arrakis(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command with only *environment*; return exit code, output and complaints."""
    only = {**dict.fromkeys(os.environ), "REDIS_URL": NO_REDIS, **environment}
    with (
        logs_restored(),
        CliRunner().isolation(env=only) as (output, complaints, _),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["arrakis", *arguments])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        return code, output.getvalue().decode(), _own(complaints.getvalue().decode())


def _own(complaints: str) -> str:
    """Leave out what an API logged that a test serves in this process meanwhile."""
    lines = complaints.splitlines(keepends=True)
    return "".join(line for line in lines if not line.endswith("service=api\n"))


def in_a_process(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command as operators do; return exit code, output and complaints."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli.main", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "REDIS_URL": NO_REDIS, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def told(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Run the command with --json; return its exit code and what it told."""
    code, output, complaints = arrakis(*arguments, "--json", **environment)
    assert output, complaints
    found: dict[str, Any] = json.loads(output)
    return code, found
