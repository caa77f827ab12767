"""Starts of the API's process as tests watch them: with which code it ends, and what it says.

Nearly all of a start is imports that read no setting. So one process has done them, and each start
is a fork of it that loads `services.api.wsgi`, where everything else happens.
"""

import importlib
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_SECONDS = 60.0
_OUTPUT = ("stdout", "stderr")
_READY = multiprocessing.get_context("forkserver")
_READY.set_forkserver_preload(
    ["services.api.app", "shared.alerts.counts", "shared.messaging", "shared.schema"]
)


@dataclass(frozen=True)
class Started:
    """How a start went."""

    returncode: int | None
    stdout: str
    stderr: str


def start(environment: Mapping[str, str]) -> Started:
    """Load the API's process as granian does, with *environment* and nothing of ours beside it."""
    ours = {name for name in os.environ if name.startswith(("BILLING_", "ARRAKIS_", "DATABASE_"))}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    with TemporaryDirectory() as directory:
        process = _READY.Process(target=_load, args=({**clean, **environment}, directory))
        process.start()
        process.join(_SECONDS)
        process.kill()
        said = [(Path(directory) / name).read_text() for name in _OUTPUT]
    return Started(process.exitcode, *said)


def _load(environment: dict[str, str], directory: str) -> None:
    for descriptor, name in enumerate(_OUTPUT, 1):
        os.dup2(os.open(Path(directory) / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    importlib.import_module("services.api.wsgi")
