"""Identifiers: UUIDv7, so that ids sort by the time of their creation and indexes stay compact."""

import os
import secrets
import threading
import uuid
from datetime import datetime

_COUNTER_BITS = 30
_lock = threading.Lock()
_last_millisecond = 0
_head = ""
_counter = 0


def new_id(now: datetime) -> str:
    """Return a UUIDv7 for *now* (RFC 9562 5.7, method 1: a counter after the milliseconds).

    Ids of one process are strictly increasing, also within a millisecond and when *now* steps
    back, so entries of one transaction sort in the order in which they were written.
    """
    global _last_millisecond, _head, _counter  # noqa: PLW0603  the one counter of the process
    millisecond = int(now.timestamp() * 1000)
    with _lock:
        if millisecond > _last_millisecond:
            _last_millisecond = millisecond
            stamp = f"{millisecond:012x}"
            _head = f"{stamp[:8]}-{stamp[8:]}-7{secrets.randbits(12):03x}"
            _counter = secrets.randbits(_COUNTER_BITS - 1)
        else:
            _counter += 1
        head, counter = _head, _counter
    low = f"{0b10 << _COUNTER_BITS | counter:08x}"  # the variant, and the counter
    return f"{head}-{low[:4]}-{low[4:]}{os.urandom(4).hex()}"


def lowest_id(moment: datetime) -> str:
    """Return what no id made at *moment* or later sorts before."""
    return str(uuid.UUID(int=int(moment.timestamp() * 1000) << 80))
