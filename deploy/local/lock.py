"""One stack at a time on a directory, and what a stack says when it cannot go on."""

import fcntl
import os
import time
from pathlib import Path

from deploy.local.processes import is_running

POLL_SECONDS = 0.05
ENDING_SECONDS = 60.0


class StackError(Exception):
    """The stack cannot do what it was asked for; the message says why, with the end of a log."""


class StackBusyError(StackError):
    """Another stack runs on the same directory."""


class PortTakenError(StackError):
    """Something else listens on the port of the process *name*."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(f"Port {port} of {name} is taken by another program.")
        self.name = name
        self.port = port


def take_lock(path: Path) -> int:
    """Return a file descriptor that holds the lock *path*, which names its owner's process id.

    If the owner has died, its processes are ending: wait for that. Raises StackBusyError.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + ENDING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 20, 0).strip()
            if (owner and is_running(int(owner))) or time.monotonic() > deadline:
                os.close(lock)
                who = f" (process {owner.decode()})" if owner else ""
                raise StackBusyError(
                    f"A stack already runs on {path.parent.parent}{who}: stop it first."
                ) from None
            time.sleep(POLL_SECONDS)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock
