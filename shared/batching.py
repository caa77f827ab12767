"""Batches without a thread of their own: whoever finds nobody at work leads, the rest wait.

When nobody waits a call goes at once, in its caller's own thread. While a batch runs, later callers
queue; the first of them then takes all that wait (at most 256 items) into the next one. So there is
no hand-off when idle, and under load a transaction is shared by many.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import structlog

from shared import tracing
from shared.database import DatabaseBusy
from shared.errors import Unavailable

log = structlog.get_logger()
_BATCH_MAX = 256
_LINGER_FROM, _LINGER_SECONDS = 4, 0.0003
WAITING_MAX = 2_000
_WAIT_SECONDS = 40.0  # longer than any statement may take
_ALONE_LOCK_TIMEOUT_MS = 250  # the batch has waited already; now a locked row costs little

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Call(Generic[Item, Result]):
    """One caller's items, its results, and the signal that either is there or it must lead."""

    __slots__ = ("error", "items", "leads", "results", "signal", "trace")

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items
        self.results: list[Result] | None = None
        self.error: BaseException | None = None
        self.leads = False
        # A lock that is held until the signal comes: an Event is one too, but made of Python.
        self.signal = threading.Lock()
        self.signal.acquire()
        self.trace = tracing.here()

    def wake(self) -> None:
        """Let the caller look at its results; only who leads does so."""
        if self.signal.locked():
            self.signal.release()


class Batcher(Generic[Item, Result]):
    """Carries callers' items to the database in batches; safe to call from any thread.

    *together* carries out the items of many callers in one transaction, all or none. *alone* is
    given those of one caller: one that was by itself, or each of a batch that failed. It waits for
    a row's lock no longer than its second argument says (milliseconds, None for as long as usual).
    Both return a result for each item, in order; what *alone* raises is raised in that caller.
    *name* is that of the span around a batch.
    """

    def __init__(
        self,
        name: str,
        together: Callable[[Sequence[Item]], list[Result]],
        alone: Callable[[Sequence[Item], int | None], list[Result]],
        *,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._name = name
        self._together = together
        self._alone = alone
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        self._waiting: deque[_Call[Item, Result]] = deque()
        self._is_busy = False
        self._last_batch = 0

    def carry_out(self, items: Sequence[Item]) -> list[Result]:
        """Carry out *items* in order, together or not; return a result each.

        Raises Unavailable if too many wait, or if a batch hangs: nothing is known then.
        """
        call: _Call[Item, Result] = _Call(items)
        with self._lock:
            if len(self._waiting) >= self._waiting_max:
                raise Unavailable("Too many requests are waiting.", code="overloaded")
            self._waiting.append(call)
            call.leads = not self._is_busy
            self._is_busy = True
        if not call.leads and not call.signal.acquire(timeout=_WAIT_SECONDS):
            self._give_up(call)
        if call.leads:
            self._lead()
        if call.error is not None:
            raise call.error
        assert call.results is not None
        return call.results

    def _give_up(self, call: _Call[Item, Result]) -> None:
        """Stop waiting for a transaction that hangs, unless it is this call's turn by now."""
        with self._lock:
            if call.leads or call.results is not None:
                return
            if call in self._waiting:
                self._waiting.remove(call)
        raise Unavailable("The database does not answer in time.", code="database_unavailable")

    def _lead(self) -> None:
        """Run one batch, then hand the lead to the next caller that waits, or become idle."""
        self._linger()
        with self._lock:
            batch = self._take_batch()
            self._last_batch = len(batch)
        try:
            with tracing.span(
                self._name,
                links=[call.trace for call in batch],
                calls=len(batch),
                items=sum(len(call.items) for call in batch),
            ):
                self._run(batch)
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].wake()
                else:
                    self._is_busy = False
            for call in batch:
                call.wake()

    def _linger(self) -> None:
        """Under load, wait a moment for those whom the last batch answered: they come again.

        A batch costs little more than a single call, so fewer and larger ones carry more.
        """
        if self._last_batch < _LINGER_FROM:
            return
        end = time.monotonic() + _LINGER_SECONDS
        while len(self._waiting) < self._last_batch and time.monotonic() < end:
            time.sleep(_LINGER_SECONDS / 10)

    def _take_batch(self) -> list[_Call[Item, Result]]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].items)
        while self._waiting and size + len(self._waiting[0].items) <= _BATCH_MAX:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].items)
        return batch

    def _run(self, batch: list[_Call[Item, Result]]) -> None:
        """Run *batch* in one transaction; if that fails, each call alone, so that none hurts
        another. Once the database does not answer, the rest need not find that out by waiting."""
        lock_timeout_ms = None
        if len(batch) > 1:
            lock_timeout_ms = _ALONE_LOCK_TIMEOUT_MS
            try:
                results = self._together([item for call in batch for item in call.items])
            except Exception:
                log.warning("batch_failed", calls=len(batch), exc_info=True)
            else:
                taken = 0
                for call in batch:
                    call.results = results[taken : taken + len(call.items)]
                    taken += len(call.items)
                return
        away: Unavailable | None = None
        for call in batch:
            if away is not None:
                call.error = Unavailable(away.message, code=away.code)
            else:
                away = self._run_alone(call, lock_timeout_ms)
            call.wake()

    def _run_alone(
        self, call: _Call[Item, Result], lock_timeout_ms: int | None
    ) -> Unavailable | None:
        """Give *call* its results or its error; return the latter if the database is away."""
        try:
            call.results = self._alone(call.items, lock_timeout_ms)
        except DatabaseBusy as error:
            call.error = error
        except Unavailable as error:
            call.error = error
            return error
        except BaseException as error:  # noqa: BLE001  it is raised in the caller's thread
            call.error = error
        return None
