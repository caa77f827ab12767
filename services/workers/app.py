"""The workers' application: a Celery task for each kind of work, and threads that need no Redis."""

import signal
import threading
import time
from collections.abc import Callable
from functools import partial

import structlog
from celery import Celery, signals
from celery.beat import Service

from services.workers.schedule import BEAT_TASK, EVERY_SECONDS
from services.workers.watchdog import Watchdog
from services.workers.work import Work
from shared.messaging import TaskName

log = structlog.get_logger()
_LOOK_SECONDS = 1.0


def install(app: Celery, work: Work, watchdog: Watchdog) -> None:
    """Give *app* a task for each kind of work; its workers poll too, and watch themselves."""
    for name in TaskName:
        app.task(name=name.value, shared=False)(_task(work, name))
    app.task(name=BEAT_TASK, shared=False)(_function(work.note_beat))
    stopping = threading.Event()

    def begin(sender: object, **_: object) -> None:
        work.expect_ticks()
        queues = set(sender.app.amqp.queues.consume_from)  # type: ignore[attr-defined] # Celery
        for name in TaskName:
            if name.queue in queues:
                _start(f"poll {name.value}", partial(_poll, work, name, stopping))
        _start("watchdog", partial(watchdog.watch, stopping))

    signals.worker_init.connect(begin, weak=False)
    signals.beat_init.connect(lambda **_: work.expect_ticks(), weak=False)
    signals.beat_init.connect(end_after_the_round, weak=False)
    signals.worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)


def end_after_the_round(sender: Service, **_: object) -> None:
    """Have beat, the *sender*, end on SIGTERM once what it sends is sent.

    Celery's own handler closes the schedule at once and raises: amid of sending that is lost at
    times, and beat goes on until it is killed or fails on the closed schedule.
    """

    def stop(*_: object) -> None:
        threading.Thread(target=sender.stop).start()  # it logs, which no handler should

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _task(work: Work, name: TaskName) -> Callable[[], None]:
    return _function(partial(work.run, name))


def _function(do: Callable[[], object]) -> Callable[[], None]:
    """Return *do* as a plain function: Celery takes no method, no partial and no lambda."""

    def run() -> None:
        do()

    return run


def _start(name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()


def _poll(work: Work, name: TaskName, stopping: threading.Event) -> None:
    """Do one kind of work at its interval, so that a dead Redis costs time and no work.

    Each kind has a thread of its own: one whose provider is slow holds up no other.
    """
    pause = _LOOK_SECONDS
    while not stopping.wait(pause):
        began = time.monotonic()
        try:
            work.run(name)
        except Exception as error:  # noqa: BLE001  the run has logged and noted it
            log.info("poll_goes_on", task=name.value, error=type(error).__name__)
        pause = max(_LOOK_SECONDS, began + EVERY_SECONDS[name] - time.monotonic())
