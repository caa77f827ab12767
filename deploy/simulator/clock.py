"""The simulator's time: the machine's, or ahead of it, or standing still, as a test needs it."""

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    """One clock for the provider, the facilitator and the chain."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ahead = timedelta(0)
        self._stopped_at: datetime | None = None

    def now(self) -> datetime:
        """Return the present time, in whole milliseconds."""
        with self._lock:
            now = self._stopped_at or datetime.now(UTC) + self._ahead
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def seconds(self) -> int:
        """Return the present time as Unix seconds, rounded down."""
        return int(self.now().timestamp())

    def run(self, *, ahead_seconds: int = 0) -> None:
        """Follow the machine's clock, *ahead_seconds* ahead of it."""
        with self._lock:
            self._ahead, self._stopped_at = timedelta(seconds=ahead_seconds), None

    def stop(self, unix_seconds: int) -> None:
        """Stand still at *unix_seconds*."""
        with self._lock:
            self._stopped_at = datetime.fromtimestamp(unix_seconds, UTC)
