"""The operators' command as tests run it: its exit code, what it says.

In this process, because a process of its own takes most of a second; `in_a_process` is for what
only a real one shows: that nothing of the tests is around it, and many at once.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from shared.cli.main import main
from tests.harness import ROOT

NO_REDIS = "redis://127.0.0.1:1/0"


def arrakis(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command with only *environment*; return exit code, output and complaints."""
    logs, is_set = structlog.get_config(), structlog.is_configured()
    only = {**dict.fromkeys(os.environ), "REDIS_URL": NO_REDIS, **environment}
    with (
        CliRunner().isolation(env=only) as (output, complaints, _),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["arrakis", *arguments])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            structlog.configure(**logs) if is_set else structlog.reset_defaults()
        sys.stdout.flush()
        sys.stderr.flush()
        return code, output.getvalue().decode(), complaints.getvalue().decode()


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
