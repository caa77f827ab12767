"""The executor: one writer a process that carries all waiting commands in one transaction.

When nobody waits a command goes at once, in its caller's own thread. While a transaction runs,
later callers queue; the first of them then takes all that wait (at most 256) into the next one.
So there is no hand-off when idle, and a hot account costs no lock waits under load.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

import structlog

from shared import tracing
from shared.database import Database, DatabaseBusy, patiently
from shared.errors import ArrakisError, Unavailable
from shared.ledger.book import post
from shared.ledger.commands import Command, Outcome
from shared.ledger.terms import TermsCache

log = structlog.get_logger()
_BATCH_MAX = 256
_LINGER_FROM, _LINGER_SECONDS = 4, 0.0003
_WAITING_MAX = 2_000
_WAIT_SECONDS = 40.0  # longer than any statement may take
_ALONE_LOCK_TIMEOUT_MS = 250  # the batch has waited already; now a locked account costs little


class _Call:
    """One caller's commands, its outcomes, and the signal that either is there or it must lead."""

    __slots__ = ("commands", "error", "leads", "outcomes", "signal", "trace")

    def __init__(self, commands: Sequence[Command]) -> None:
        self.commands = commands
        self.outcomes: list[Outcome] | None = None
        self.error: BaseException | None = None
        self.leads = False
        self.signal = threading.Event()
        self.trace = tracing.here()


class Executor:
    """Carries commands to the database; safe to call from any thread."""

    def __init__(
        self, database: Database, terms: TermsCache, *, waiting_max: int = _WAITING_MAX
    ) -> None:
        self._database = database
        self._terms = terms
        self._waiting_max = waiting_max
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._is_busy = False
        self._last_batch = 0

    def execute(self, command: Command) -> Outcome:
        """Carry out one command durably and return its outcome.

        Raises Unavailable if the database does not answer: nothing is known then, and the same
        command may be sent again, because its ids and keys make it the same.
        """
        return self.execute_all([command])[0]

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """Carry out *commands* in order, together or not; return an outcome each."""
        call = _Call(commands)
        with self._lock:
            if len(self._waiting) >= self._waiting_max:
                raise Unavailable("Too many requests are waiting.", code="overloaded")
            self._waiting.append(call)
            call.leads = not self._is_busy
            self._is_busy = True
        if not call.leads and not call.signal.wait(_WAIT_SECONDS):
            self._give_up(call)
        if call.leads:
            self._lead()
        if call.error is not None:
            raise call.error
        assert call.outcomes is not None
        return call.outcomes

    def _give_up(self, call: _Call) -> None:
        """Stop waiting for a transaction that hangs, unless it is this call's turn by now."""
        with self._lock:
            if call.leads or call.outcomes is not None:
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
                "ledger batch",
                links=[call.trace for call in batch],
                calls=len(batch),
                commands=sum(len(call.commands) for call in batch),
            ):
                self._run(batch)
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].signal.set()
                else:
                    self._is_busy = False
            for call in batch:
                call.signal.set()

    def _linger(self) -> None:
        """Under load, wait a moment for those whom the last batch answered: they come again.

        A batch costs little more than a single call, so fewer and larger ones carry more.
        """
        if self._last_batch < _LINGER_FROM:
            return
        end = time.monotonic() + _LINGER_SECONDS
        while len(self._waiting) < self._last_batch and time.monotonic() < end:
            time.sleep(_LINGER_SECONDS / 10)

    def _take_batch(self) -> list[_Call]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].commands)
        while self._waiting and size + len(self._waiting[0].commands) <= _BATCH_MAX:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].commands)
        return batch

    def _run(self, batch: list[_Call]) -> None:
        """Run *batch* in one transaction; if that fails, each call alone, so that none hurts
        another. Once the database does not answer, the rest need not find that out by waiting."""
        lock_timeout_ms = None
        if len(batch) > 1:
            lock_timeout_ms = _ALONE_LOCK_TIMEOUT_MS
            try:
                outcomes = self._post([c for call in batch for c in call.commands], None)
            except Exception:
                log.warning("batch_failed", commands=len(batch), exc_info=True)
            else:
                taken = 0
                for call in batch:
                    call.outcomes = outcomes[taken : taken + len(call.commands)]
                    taken += len(call.commands)
                return
        away: Unavailable | None = None
        for call in batch:
            if away is not None:
                call.error = Unavailable(away.message, code=away.code)
            else:
                away = self._run_alone(call, lock_timeout_ms)
            call.signal.set()

    def _run_alone(self, call: _Call, lock_timeout_ms: int | None) -> Unavailable | None:
        """Give *call* its outcomes or its error; return the latter if the database is away."""
        try:
            call.outcomes = self._post_alone(call.commands, lock_timeout_ms)
        except DatabaseBusy as error:
            call.error = error
        except Unavailable as error:
            call.error = error
            return error
        except BaseException as error:  # noqa: BLE001  it is raised in the caller's thread
            call.error = error
        return None

    def _post_alone(
        self, commands: Sequence[Command], lock_timeout_ms: int | None
    ) -> list[Outcome]:
        """Carry out one caller's commands together; if that fails, each by itself."""
        try:
            return patiently(partial(self._post, commands, lock_timeout_ms))
        except Unavailable:
            raise
        except Exception:
            if len(commands) == 1:
                raise
            log.warning("call_failed", commands=len(commands), exc_info=True)
        outcomes = []
        for command in commands:
            try:
                outcomes += patiently(partial(self._post, [command], lock_timeout_ms))
            except Unavailable:
                raise
            except Exception:
                log.exception("command_failed", operation=command.operation)
                fault = ArrakisError("This is our fault; nothing was changed.")
                outcomes.append(Outcome(error=fault))
        return outcomes

    def _post(self, commands: Sequence[Command], lock_timeout_ms: int | None) -> list[Outcome]:
        terms = self._terms.current()
        with self._database.transaction(lock_timeout_ms=lock_timeout_ms) as tx:
            return post(tx, commands, terms)
