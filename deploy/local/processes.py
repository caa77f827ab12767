"""Which processes are left, and how to end them."""

import contextlib
import os
import time
from collections.abc import Iterable

import psutil


def is_alive(process: psutil.Process) -> bool:
    """Say whether *process* still runs; one that only waits to be reaped (a zombie) does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_running(pid: int) -> bool:
    """Say whether a process *pid* is alive."""
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int) -> list[psutil.Process]:
    """Return the children of *pid*, their children and so on; none if it is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for_exec(pid: int, *, timeout_seconds: float = 1.0) -> None:
    """Wait until no child of *pid* is a mere copy of it, between its fork and its exec.

    Such a copy has the signal handlers of *pid*: a signal to stop would be lost on it.
    """
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            parent = psutil.Process(pid)
            command = parent.cmdline()
            if all(_command_of(child) != command for child in parent.children()):
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.005)


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def session_members(session: int) -> list[psutil.Process]:
    """Return the processes of a session but for its leader, wherever they hang in the tree."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if process.pid != session and os.getsid(process.pid) == session:
                members.append(process)
    return members


def wait_gone(
    processes: Iterable[psutil.Process], *, timeout_seconds: float
) -> list[psutil.Process]:
    """Wait until none of *processes* is alive; return those that are when the time is up."""
    deadline = time.monotonic() + timeout_seconds
    while alive := [process for process in processes if is_alive(process)]:
        if time.monotonic() >= deadline:
            return alive
        processes = alive
        time.sleep(0.02)
    return []


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL each of *processes* that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
