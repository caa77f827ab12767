"""Time: the only module that reads the wall clock, and the form in which times are written."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
_STORED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?", re.ASCII)


def system_clock() -> datetime:
    """Return the present instant, UTC-aware, in microseconds."""
    return datetime.now(UTC)


def to_stored(moment: datetime) -> str:
    """Write *moment* as SQLite stores it: ``YYYY-MM-DD HH:MM:SS[.ffffff]`` in UTC (contract 2).

    Text order is time order, also against the whole seconds of SQLite's own ``datetime()``.
    """
    # Not strftime, which writes the year 637 with three digits.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")


def from_stored(text: str) -> datetime:
    """Read a time written by :func:`to_stored`. Raises ValueError on any other form."""
    if _STORED.fullmatch(text) is None:
        raise ValueError(f"{text[:40]!r} is not a stored time")
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def to_wire(moment: datetime) -> str:
    """Write *moment* for callers: ISO 8601 in UTC with milliseconds and ``Z``."""
    in_utc = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return in_utc.removesuffix("+00:00") + "Z"


def add_seconds(moment: datetime, seconds: float) -> datetime:
    """Return the instant *seconds* after *moment*."""
    return moment + timedelta(seconds=seconds)
