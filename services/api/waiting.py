"""``Prefer: wait=N``: a caller may wait for a job that is answered 202 otherwise (contract 5)."""

import re
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import request

from services.api.context import services
from shared.database import Tx

_WAIT = re.compile(r"(?:^|[,;\s])wait=([0-9]{1,3})(?:$|[,;\s])")
_WAIT_MAX_SECONDS = 30
_LOOK_SECONDS = 0.1
# Who waits holds one of the API's threads; the others are for reserves. The rest hear 202 at once.
_WAITING = threading.BoundedSemaphore(4)


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


def _wait_seconds() -> int:
    """Return for how long the caller wants to wait, 30 s at most (RFC 7240)."""
    found = _WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), _WAIT_MAX_SECONDS) if found else 0
