"""The workers' application: one place that runs every kind of work, hinted or polled."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from celery import Celery, signals

from services.workers.schedule import EVERY_SECONDS
from shared.errors import Unavailable
from shared.ledger import sweeps
from shared.messaging import TaskName
from shared.observability import TASKS
from shared.operations import revenue_rules
from shared.payments import intake, polling, unanswered, watching
from shared.payments.intake import Intake
from shared.payments.quotes import Cashier

log = structlog.get_logger()
_LOOK_SECONDS = 1.0
_ROUNDS_MAX = 20


@dataclass(frozen=True)
class Work:
    """What the tasks work with. Each function does one bounded batch and returns its size."""

    intake: Intake
    cashier: Cashier

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
            TaskName.SWEEP_KEYS: lambda: sweeps.sweep_idempotency_keys(database),
            TaskName.ACTIVATE_RULES: lambda: revenue_rules.activate_due(database),
        }

    def run(self, name: TaskName) -> int:
        """Do all the work of one kind that is due, a bounded number of batches; return its size.

        A database that is away is no failure of the work: the rows wait for the next wake-up.
        """
        batch = self.batches()[name]
        total = 0
        try:
            for _ in range(_ROUNDS_MAX):
                done = batch()
                total += done
                if done == 0:
                    break
        except Unavailable as error:
            TASKS.labels(name.value, "unavailable").inc()
            log.warning("work_unavailable", task=name.value, reason=error.message)
        else:
            TASKS.labels(name.value, "ok").inc()
            if total:
                log.info("work_done", task=name.value, items=total)
        return total


def install(app: Celery, work: Work) -> None:
    """Give *app* a task for each kind of work, and a thread that polls without Redis."""
    for name in TaskName:
        app.task(name=name.value)(_task(work, name))
    signals.worker_init.connect(lambda sender, **_: _start_polling(sender, work), weak=False)


def _task(work: Work, name: TaskName) -> Callable[[], None]:
    def run() -> None:
        work.run(name)

    return run


def _start_polling(worker: object, work: Work) -> None:
    """Poll the rows of this worker's queues, so that a dead Redis costs time and no work."""
    queues = set(worker.app.amqp.queues.consume_from)  # type: ignore[attr-defined] # Celery
    due = {name: 0.0 for name in EVERY_SECONDS if name.queue in queues}
    stopping = threading.Event()

    def poll() -> None:
        while not stopping.wait(_LOOK_SECONDS):
            for name, due_at in due.items():
                if time.monotonic() < due_at:
                    continue
                due[name] = time.monotonic() + EVERY_SECONDS[name]
                try:
                    work.run(name)
                except Exception:
                    log.exception("poll_failed", task=name.value)

    threading.Thread(target=poll, name="poll", daemon=True).start()
    signals.worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)
