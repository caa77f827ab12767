"""What the workers do: every kind of work, in bounded runs, with a heartbeat for each."""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from services.workers.schedule import EVERY_SECONDS, EXPECTED_TICKS
from shared import tracing
from shared.alerts import counts, evaluating
from shared.campaigns import lifecycle, working
from shared.database import Tx
from shared.errors import Unavailable
from shared.ledger import sweeps
from shared.messaging import TaskName
from shared.notifications import forgetting
from shared.notifications.courier import Courier
from shared.notifications.watching import AccountWatch
from shared.observability import TASK_ITEMS, TASK_SECONDS, TASKS
from shared.operations import mint_proposals, retention, revenue_rules, ticks, tokens
from shared.operations.ticks import BEAT
from shared.payments import intake, polling, quotes, unanswered, watching
from shared.payments.intake import Intake
from shared.payments.quotes import Cashier
from shared.reconciliation import runs
from shared.reconciliation.desk import Desk

log = structlog.get_logger()
_BUDGET_SECONDS = 10.0  # of one run; a stop waits for it
_HEARTBEAT_SECONDS = 10.0
_AT_ONCE_OF_A_KIND = 2


@dataclass(frozen=True)
class Work:
    """What the tasks work with. Each function does one bounded batch and returns its size."""

    intake: Intake
    cashier: Cashier
    courier: Courier
    watch: AccountWatch
    desk: Desk
    _next_heartbeat: dict[TaskName, float] = field(default_factory=dict)
    _running: dict[int, float] = field(default_factory=dict)
    _slots: dict[TaskName, threading.BoundedSemaphore] = field(
        default_factory=lambda: {
            name: threading.BoundedSemaphore(_AT_ONCE_OF_A_KIND) for name in TaskName
        }
    )

    def batches(self) -> dict[TaskName, Callable[[], int]]:
        """Return the batch function of every kind of work."""
        database, terms = self.intake.database, self.intake.terms
        return {
            TaskName.DRAIN_WEBHOOKS: lambda: intake.drain(self.intake),
            TaskName.POLL_PAYMENTS: lambda: polling.poll(database, self.intake.provider),
            TaskName.SEARCH_PAYMENTS: lambda: unanswered.search(database, self.intake.provider),
            TaskName.WATCH_SETTLEMENTS: lambda: watching.watch(self.cashier),
            TaskName.RETRY_DEAD_LETTERS: lambda: intake.retry_parked(database),
            TaskName.EXPIRE_HOLDS: lambda: sweeps.expire_holds(database, terms),
            TaskName.EXPIRE_LOTS: lambda: sweeps.expire_lots(database, terms),
            TaskName.ROLL_UP_REVENUE: lambda: sweeps.roll_up_revenue(database),
            TaskName.SWEEP_KEYS: lambda: (
                sweeps.sweep_idempotency_keys(database)
                + tokens.sweep(database)
                + counts.sweep(database)
                + retention.sweep(database)
                + forgetting.sweep(database)
            ),
            TaskName.SWEEP_QUOTES: lambda: quotes.sweep(database),
            TaskName.ACTIVATE_RULES: lambda: revenue_rules.activate_due(database),
            TaskName.EXPIRE_MINT_PROPOSALS: lambda: mint_proposals.expire_due(database),
            TaskName.GRANT_LISTS: lambda: working.work_off(database, terms),
            TaskName.EXPIRE_CAMPAIGNS: lambda: lifecycle.expire_due(database),
            TaskName.EVALUATE_ALERTS: lambda: evaluating.evaluate(database),
            TaskName.DELIVER_WEBHOOKS: self.courier.deliver,
            TaskName.WATCH_ACCOUNTS: self.watch.look,
            TaskName.RECONCILE_CACHE: lambda: runs.work(self.desk, "cache"),
            TaskName.RECONCILE_DAILY: lambda: runs.work(self.desk, "daily"),
        }

    def run(self, name: TaskName) -> int:
        """Do the work of one kind that is due, as long as the budget lasts; return its size.

        What is left then, and what fails, comes with the next wake-up: the rows are the jobs. A
        dependency that is away is no failure of the work; anything else is raised, after it was
        noted for operators. A kind that this process does twice already is left to those two, so
        that a slow one never takes all of its threads.
        """
        if not self._slots[name].acquire(blocking=False):
            return 0
        me = threading.get_ident()
        self._running[me] = time.monotonic()
        try:
            return self._run(name)
        finally:
            del self._running[me]
            self._slots[name].release()

    def note_beat(self) -> None:
        """Note that a wake-up of beat's has come through to a worker."""
        self._note(lambda tx: ticks.succeeded(tx, BEAT, every_seconds=EXPECTED_TICKS[BEAT]))

    def expect_ticks(self) -> None:
        """Note which ticks there should be, before the first of them comes."""
        self._note(lambda tx: ticks.expect(tx, EXPECTED_TICKS))

    def _note(self, write: Callable[[Tx], None]) -> None:
        try:
            with self.intake.database.transaction() as tx:
                write(tx)
        except Unavailable as error:
            log.warning("tick_not_noted", reason=error.message)

    def longest_run_seconds(self) -> float:
        """Return for how long the oldest run is going on, 0 if none is."""
        began = min(list(self._running.values()), default=None)
        return 0.0 if began is None else time.monotonic() - began

    def _run(self, name: TaskName) -> int:
        structlog.contextvars.bind_contextvars(task=name.value, run_id=secrets.token_hex(4))
        began = time.perf_counter()
        total, outcome = 0, "crash"
        try:
            with tracing.span(f"run {name.value}", kind="consumer", items=0) as span:
                total = self._rounds(name, began)
                span.note(items=total)
            outcome = "ok"
        except Unavailable as error:
            outcome = "unavailable"
            log.warning("work_unavailable", code=error.code, reason=error.message)
            self._tell_failure(name, error.message)
        except Exception as error:
            log.exception("work_failed")
            self._tell_failure(name, repr(error))
            raise
        finally:
            TASKS.labels(name.queue, name.value, outcome).inc()
            TASK_SECONDS.labels(name.queue, name.value).observe(time.perf_counter() - began)
            TASK_ITEMS.labels(name.queue, name.value).inc(total)
            if total:
                log.info("work_done", items=total)
            structlog.contextvars.unbind_contextvars("task", "run_id")
        return total

    def _rounds(self, name: TaskName, began: float) -> int:
        batch, total = self.batches()[name], 0
        while time.perf_counter() - began < _BUDGET_SECONDS:
            done = batch()
            total += done
            if done == 0:
                break
        self._tell_success(name)
        return total

    def _tell_success(self, name: TaskName) -> None:
        """Leave a heartbeat; one in a while is enough, for a queue may be drained every second."""
        every = EVERY_SECONDS[name]
        if time.monotonic() < self._next_heartbeat.get(name, 0.0):
            return
        with self.intake.database.transaction() as tx:
            ticks.succeeded(tx, name.value, every_seconds=every)
        self._next_heartbeat[name] = time.monotonic() + max(every, _HEARTBEAT_SECONDS)

    def _tell_failure(self, name: TaskName, error: str) -> None:
        """Note a failure, if the database is there; a heartbeat is due again at once."""
        self._next_heartbeat.pop(name, None)
        with suppress(Unavailable), self.intake.database.transaction() as tx:
            ticks.failed(tx, name.value, every_seconds=EVERY_SECONDS[name], error=error)
