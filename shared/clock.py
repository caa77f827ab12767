"""Time: the only module that reads the wall clock, and the form in which times are written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]


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
    form = "%Y-%m-%d %H:%M:%S.%f" if "." in text else "%Y-%m-%d %H:%M:%S"
    return datetime.strptime(text, form).replace(tzinfo=UTC)


def to_wire(moment: datetime) -> str:
    """Write *moment* for callers: ISO 8601 in UTC with milliseconds and ``Z``."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def add_seconds(moment: datetime, seconds: float) -> datetime:
    """Return the instant *seconds* after *moment*."""
    return moment + timedelta(seconds=seconds)
