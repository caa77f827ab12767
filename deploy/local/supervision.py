"""How supervisord is told what to run, and asked how it goes."""

import contextlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy.local import tether
from deploy.local.processes import (
    descendants,
    kill_all,
    session_members,
    wait_for_exec,
    wait_gone,
)

ANSWER_SECONDS = 10.0
# supervisord runs through the tether, which left its process id in its environment.
SUPERVISORD_PID = f"%(ENV_{tether.TETHERED_PID})s"
STOP_WAIT_SECONDS = 20  # what a program gets between the signal to stop and SIGKILL
DOWN = frozenset({"BACKOFF", "EXITED", "FATAL"})  # it should run, and does not


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program as supervisord sees it; those of a higher *stage* are stopped first."""

    name: str
    stage: int
    stop_signal: signal.Signals
    launch_file: Path
    log_file: Path


@dataclass(frozen=True, kw_only=True)
class Status:
    """What supervisord says about a program; *pid* is 0 while it is down."""

    name: str
    state: str
    pid: int
    started_at: int
    """Unix time of the last start, 0 if it was never started."""


def configuration(
    programs: Iterable[Program], *, socket_path: Path, run_directory: Path, log_directory: Path
) -> str:
    """Return supervisord's configuration."""
    programs = list(programs)
    sections: list[tuple[str, Mapping[str, object]]] = [
        ("supervisord", _supervisord(run_directory, log_directory)),
        ("unix_http_server", {"file": _escaped(socket_path), "chmod": "0700"}),
        (
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        *((f"program:{program.name}", _program(program)) for program in programs),
    ]
    for stage in sorted({program.stage for program in programs}):
        names = ",".join(program.name for program in programs if program.stage == stage)
        sections.append((f"group:stage{stage}", {"programs": names, "priority": stage}))
    return "\n".join(
        f"[{title}]\n" + "".join(f"{key}={value}\n" for key, value in values.items())
        for title, values in sections
    )


def _supervisord(run_directory: Path, log_directory: Path) -> dict[str, object]:
    settings: dict[str, object] = {
        "nodaemon": "true",
        "silent": "true",
        "nocleanup": "true",
        "logfile": _escaped(log_directory / "supervisord.log"),
        "logfile_maxbytes": "1MB",
        "logfile_backups": 1,
        "pidfile": _escaped(run_directory / "supervisord.pid"),
    }
    if os.geteuid() == 0:
        settings["user"] = "root"  # it asks to be told
    return settings


def _program(program: Program) -> dict[str, object]:
    command = tether.wrap_launch(program.launch_file, parent=SUPERVISORD_PID)
    return {
        "command": " ".join(
            word if word == SUPERVISORD_PID else _escaped(shlex.quote(word)) for word in command
        ),
        "autostart": "false",
        "autorestart": "true",
        "startretries": 1_000_000,
        "startsecs": 1,
        "stopsignal": program.stop_signal.name.removeprefix("SIG"),
        "stopwaitsecs": STOP_WAIT_SECONDS,
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _escaped(program.log_file),
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": 2,
    }


def _escaped(text: object) -> str:
    return str(text).replace("%", "%%")


class Control:
    """supervisord's XML-RPC interface on its Unix socket. Each call has a connection of its own."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path

    def statuses(self) -> dict[str, Status]:
        """Return the status of every program by its name."""
        return {
            info["name"]: Status(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                started_at=info["start"],
            )
            for info in self._call("getAllProcessInfo")
        }

    def wake(self) -> None:
        """Make supervisord look at its programs now: by itself it does so once a second."""
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
            self._call("getState")

    def start(self, program: Program) -> None:
        """Tell supervisord to start *program*; one that is started already is left alone."""
        self._tell("startProcess", program, unless="ALREADY_STARTED")

    def stop(self, program: Program) -> None:
        """Tell supervisord to stop *program*; one that is not running is left alone."""
        self._tell("stopProcess", program, unless="NOT_RUNNING")

    def _tell(self, method: str, program: Program, *, unless: str) -> None:
        try:
            self._call(method, f"stage{program.stage}:{program.name}", False)  # noqa: FBT003  # wait
        except xmlrpc.client.Fault as fault:
            if unless not in fault.faultString:
                raise

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = _UnixTransport(self._socket_path)
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, socket_path: Path) -> None:
        super().__init__()
        self._socket_path = socket_path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._socket_path)
        self._connection = host, connection  # for close()
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: Path) -> None:
        super().__init__("127.0.0.1")
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._socket_path))


def settle(supervisord: "subprocess.Popen[bytes]", control: Control) -> None:
    """Let supervisord restart what has just died: a signal is lost on it between fork and exec."""
    control.wake()  # it sees the dead
    control.wake()  # it has started them again
    wait_for_exec(supervisord.pid)


def end_supervisord(
    supervisord: "subprocess.Popen[bytes]", control: Control, *, stages: int
) -> None:
    """Stop supervisord, which stops its programs; then look for what is left, and end that."""
    settle(supervisord, control)
    family = descendants(supervisord.pid)
    supervisord.terminate()
    deadline = time.monotonic() + STOP_WAIT_SECONDS * stages + 5
    while supervisord.poll() is None:
        if time.monotonic() > deadline:
            family += descendants(supervisord.pid)
            supervisord.kill()
        control.wake()
        time.sleep(0.05)
    # If supervisord was killed, its programs were told to stop by the kernel, and are doing so.
    left = wait_gone(_distinct(family, supervisord.pid), timeout_seconds=STOP_WAIT_SECONDS)
    kill_all(left)
    remaining = wait_gone(_distinct(left, supervisord.pid), timeout_seconds=STOP_WAIT_SECONDS)
    if remaining:
        raise RuntimeError(f"These processes cannot be ended: {remaining}")


def _distinct(family: Iterable[psutil.Process], session: int) -> list[psutil.Process]:
    return list({*family, *session_members(session)})
