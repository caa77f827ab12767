"""The operators' command as tests run it: a real process, its exit code, what it says."""

import json
import subprocess
import sys
from typing import Any

from tests.harness import ROOT

NO_REDIS = "redis://127.0.0.1:1/0"


def arrakis(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the command with only *environment*; return exit code, output and complaints."""
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
