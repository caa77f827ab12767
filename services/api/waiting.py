"""``Prefer: wait=N``: a caller may wait for a job that is answered 202 otherwise (contract 5)."""

import contextvars
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import structlog
from flask import request

from services.api.context import services
from shared.database import Tx
from shared.errors import Unavailable

log = structlog.get_logger()
Begun = TypeVar("Begun")
_WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,3})(?:$|[,;\s])")
_WAIT_MAX_SECONDS = 30
_LOOK_SECONDS = 0.1
# Who waits holds one of the API's threads; the others are for reserves. The rest hear 202 at once.
_WAITING = threading.BoundedSemaphore(4)
_LEAST_SECONDS = 1
_AT_WORK = threading.BoundedSemaphore(4)


def wait_for(job: dict[str, Any], look: Callable[[Tx], dict[str, Any]]) -> dict[str, Any]:
    """Return *job* as it is when it is done (``doneAt`` is set) or the caller's time is over."""
    seconds = _wait_seconds()
    if job["doneAt"] is not None or not seconds or not _WAITING.acquire(blocking=False):
        return job
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
            with services().database.reading() as tx:
                job = look(tx)
            if job["doneAt"] is not None:
                break
        return job
    finally:
        _WAITING.release()


def do_or_leave(
    begin: Callable[[], Begun], go_on: Callable[[Begun], dict[str, Any]]
) -> dict[str, Any] | None:
    """Begin, and go on in a thread; return its result, or None if it goes on without the caller.

    That is after a second, or the time of ``Prefer: wait=N``. What is raised in time is raised;
    later it is logged. *begin* is done here, so what it wrote is there whatever becomes of this
    process. Raises Unavailable (``overloaded``), and begins nothing, while many others go on.
    """
    if not _AT_WORK.acquire(blocking=False):
        raise Unavailable("Others of this kind are being worked on.", code="overloaded")
    try:
        begun = begin()
    except BaseException:
        _AT_WORK.release()
        raise
    done: Future[dict[str, Any]] = Future()

    def run() -> None:
        try:
            done.set_result(go_on(begun))
        except Exception as error:  # noqa: BLE001  whoever waits raises it
            done.set_exception(error)
            log.info("work_in_thread_failed", reason=repr(error))
        finally:
            _AT_WORK.release()

    names = contextvars.copy_context()  # so that its log lines name the request
    try:
        threading.Thread(target=lambda: names.run(run), name="left work", daemon=True).start()
    except RuntimeError as error:  # the host allows no more threads
        _AT_WORK.release()
        raise Unavailable("There is no thread to do this in.", code="overloaded") from error
    wait([done], max(_LEAST_SECONDS, _wait_seconds()))
    return done.result() if done.done() else None


def _wait_seconds() -> int:
    """Return for how long the caller wants to wait, 30 s at most (RFC 7240)."""
    found = _WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), _WAIT_MAX_SECONDS) if found else 0
