"""A worker that makes no progress, or grows without end, ends itself; another one is started.

The rows are the jobs, so nothing is lost by that: leases lapse and the next worker goes on.
"""

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()
_LOOK_SECONDS = 5.0
STUCK_SECONDS = 300.0  # no run takes a tenth of it
_EXIT_STUCK = 70
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Watchdog:
    """Watches one process: how long its oldest run takes, and how much memory it holds."""

    longest_run_seconds: Callable[[], float]
    memory_limit_mb: int
    stuck_seconds: float = STUCK_SECONDS
    look_seconds: float = _LOOK_SECONDS

    def watch(self, stopping: threading.Event) -> None:
        """Look until *stopping*. A stuck process exits at once; a large one stops as asked to."""
        while not stopping.wait(self.look_seconds):
            seconds = self.longest_run_seconds()
            if seconds > self.stuck_seconds:
                log.critical("worker_stuck", seconds=round(seconds))
                sys.stdout.flush()
                os._exit(_EXIT_STUCK)
            size = resident_mb()
            if size > self.memory_limit_mb:
                log.warning("worker_too_large", resident_mb=size, limit_mb=self.memory_limit_mb)
                os.kill(os.getpid(), signal.SIGTERM)  # a warm stop: what runs is finished
                return


def resident_mb() -> int:
    """Return how much memory the process holds; where /proc is missing, the most it ever held."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 1024**2
    return pages * resource.getpagesize() // 1024**2
