"""Tie a process to its parent, so that nothing outlives a stack that was killed with SIGKILL.

    python -m deploy.local.tether [--signal INT] [--user UID:GID] -- command arguments…

On Linux the kernel is asked (PR_SET_PDEATHSIG) to signal this process when its parent dies; then
the command takes its place, with the same process id. Elsewhere the command simply takes its place.

Two things to know. The kernel means the parent *thread*: a thread that ends takes its children with
it, so `spawn` insists on the main thread. And a change of user clears the request, so the user is
changed here, first. Children of the command are not covered by the kernel: see `follow_parent`.

This file runs as a script with `-I -S`, in 20 ms: it imports the standard library only.
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
TETHERED_PID = "ARRAKIS_TETHER"  # the process id of the command, in its environment


def wrap(
    command: Sequence[str],
    *,
    parent: int | str | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    user: tuple[int, int] | None = None,
    directory: Path | None = None,
) -> list[str]:
    """Return the command line that runs *command* tethered; *user* is (uid, gid)."""
    options = ["--signal", death_signal.name.removeprefix("SIG")]
    if parent is not None:
        options += ["--parent", str(parent)]
    if user is not None:
        options += ["--user", f"{user[0]}:{user[1]}"]
    if directory is not None:
        options += ["--directory", str(directory)]
    return [sys.executable, "-I", "-S", __file__, *options, "--", *command]


def wrap_launch(launch_file: Path, *, parent: str) -> list[str]:
    """Return the command line that runs what `write_launch` wrote, tethered to *parent*."""
    return [sys.executable, "-I", "-S", __file__, "--parent", parent, "--launch", str(launch_file)]


def write_launch(
    path: Path,
    *,
    command: Sequence[str],
    env: Mapping[str, str],
    directory: Path,
    death_signal: signal.Signals,
) -> None:
    """Write what to run as JSON: no quoting rules, and no secret in a list of processes."""
    text = json.dumps(
        {
            "command": list(command),
            "env": dict(env),
            "directory": str(directory),
            "signal": death_signal.name.removeprefix("SIG"),
        }
    )
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def spawn(
    command: Sequence[str],
    *,
    death_signal: signal.Signals = signal.SIGTERM,
    user: tuple[int, int] | None = None,
    **popen: Any,
) -> "subprocess.Popen[bytes]":
    """Start *command* as our child that dies with us. Only from the main thread (see above)."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "Start tethered processes from the main thread: they die with the thread."
        )
    tethered = wrap(command, parent=os.getpid(), death_signal=death_signal, user=user)
    return subprocess.Popen(tethered, **popen)


def follow_parent() -> None:
    """Make each process that this one forks die with it, at once; `inherit/sitecustomize` calls it.

    Without this a granian worker keeps the port, and keeps answering, after a SIGKILL of granian.
    """
    if "--multiprocessing-fork" in sys.orig_argv:  # started by multiprocessing's spawn method
        _die_with(os.getppid())
    pids = {"self": os.getpid()}

    def in_child() -> None:
        _die_with(pids["self"])
        pids["self"] = os.getpid()

    os.register_at_fork(after_in_child=in_child)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        _ask_kernel(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), name="follow-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _ask_kernel(death_signal: signal.Signals) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _become(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _run(command: list[str], *, parent: int, death_signal: signal.Signals) -> NoReturn:
    if sys.platform == "linux":
        _ask_kernel(death_signal)
    if os.getppid() != parent:
        sys.exit("tether: the parent has gone, so this does not start")
    os.environ[TETHERED_PID] = str(os.getpid())
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that is inherited
    try:
        os.execvp(command[0], command)  # noqa: S606  # no shell is what we want
    except OSError as error:
        print(f"tether: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


def main() -> NoReturn:
    parent = os.getppid()
    parser = argparse.ArgumentParser(prog="tether", description="Run a command that dies with us.")
    parser.add_argument("--parent", type=int, help="the process that must still be the parent")
    parser.add_argument("--signal", default="TERM", help="what the command gets then (TERM)")
    parser.add_argument("--user", metavar="UID:GID", help="become this user first (root only)")
    parser.add_argument("--directory", help="go there first")
    parser.add_argument("--launch", type=Path, help="read all that from this JSON file")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    if options.launch:
        launch = json.loads(options.launch.read_text())
        os.environ.update(launch["env"])
        options.command, options.directory = launch["command"], launch["directory"]
        options.signal = launch["signal"]
    if not options.command:
        parser.error("say what to run")
    if options.directory:
        os.chdir(options.directory)
    if options.user:
        uid, gid = options.user.split(":")
        _become(int(uid), int(gid))
    _run(
        options.command,
        parent=parent if options.parent is None else options.parent,
        death_signal=signal.Signals[f"SIG{options.signal}"],
    )


if __name__ == "__main__":
    main()
