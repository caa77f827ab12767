"""Lines to a stream: each whole, whichever threads write, and in one write those that meet.

A write lets other threads run, so with a lock around it everyone who logs would wait for everyone
else. Here nobody does: who finds the stream idle writes what all have left for him meanwhile.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

_WAITING_MAX = 1_000  # then nobody reads them, and who writes more waits for a moment
_PATIENCE_SECONDS = 1.0


class Lines:
    """A stream of text in UTF-8; safe to write to from any thread, from signals and after a fork.

    *lost* is told how many lines could not be written: no disk left, or nobody reads. Nobody is
    refused for that.
    """

    def __init__(self, stream: BinaryIO, lost: Callable[[int], None]) -> None:
        self._stream = stream
        self._lost = lost
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # A parent writes its lines itself; its lock may be held by a thread that is not here.
        self._waiting: deque[str] = deque()
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """Write *line*, which ends with a newline."""
        waiting, lock = self._waiting, self._lock
        waiting.append(line)
        patience = 0.0 if len(waiting) <= _WAITING_MAX else _PATIENCE_SECONDS
        while waiting and lock.acquire(timeout=patience):
            try:
                self._write([waiting.popleft() for _ in range(len(waiting))])
            finally:
                lock.release()

    def flush(self) -> None:
        """Do nothing: no line is kept back."""

    def _write(self, lines: list[str]) -> None:
        try:
            # Half a character of UTF-16, which JSON may contain, is written as JSON spells it.
            self._stream.write("".join(lines).encode(errors="backslashreplace"))
            self._stream.flush()
        except (OSError, ValueError):  # the latter if it is closed, as at a process's end
            self._lost(len(lines))

    # What structlog calls, by the level of the line.
    debug = info = warning = error = critical = write
