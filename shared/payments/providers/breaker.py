"""A circuit breaker: while a provider is down nobody waits for it, and it is not pressed.

Our own, because pybreaker 1.4 holds its lock during the call (one call at a time for the whole
process) and reads the wall clock; what is left of it without listeners and storages is this.
"""

import threading
from collections.abc import Callable

FAILURES_TO_OPEN = 5
OPEN_SECONDS = 30.0


class Breaker:
    """Opens after five failures in a row; after thirty seconds one call may try and close it.

    Of this process only. Safe to share between threads.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def seconds_to_wait(self) -> float:
        """Return 0.0 if the caller may go on, else for how long the provider is left alone.

        Whoever is let through must tell how it went. The one that may try after the pause pushes
        the end of the pause away: others find it open, and a try that never reports costs no more
        than another pause.
        """
        with self._lock:
            if self._failures < FAILURES_TO_OPEN:
                return 0.0
            now = self._clock()
            if now < self._open_until:
                return self._open_until - now
            self._open_until = now + OPEN_SECONDS
            return 0.0

    def succeeded(self) -> bool:
        """Note that the provider answered; True if that closed the circuit."""
        with self._lock:
            was_open = self._failures >= FAILURES_TO_OPEN
            self._failures = 0
            return was_open

    def failed(self) -> bool:
        """Note that the provider failed; True if that opened the circuit, or opened it again."""
        with self._lock:
            self._failures += 1
            is_open = self._failures >= FAILURES_TO_OPEN
            if is_open:
                self._open_until = self._clock() + OPEN_SECONDS
            return is_open
