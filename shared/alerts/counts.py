"""Counts of what leaves no row: refusals, cache reads, provider calls; by minute, of all processes.

Each process adds what its Prometheus counters have grown by, every few seconds and from a thread
of its own: no answer waits for it. A process that is killed takes its last seconds along.
"""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import structlog
from prometheus_client import Counter as Metric
from sqlalchemy import bindparam, delete, func, select, text

from shared.clock import add_seconds
from shared.database import Database, Tx
from shared.errors import Unavailable
from shared.models.alerts import MinuteCount
from shared.models.types import UtcTime
from shared.observability import BALANCE_CACHE, OUTCOMES, PROVIDER_CALLS

log = structlog.get_logger()
REFUSED_402 = "refused_402"
RESERVE_GRANTED = "reserve_granted"
CACHE_HIT, CACHE_MISS = "cache_hit", "cache_miss"
FLUSH_SECONDS = 3.0
# The checklist of the modes looks back for 30 days.
RETENTION_DAYS = 32
_DAY_SECONDS = 86_400
_SWEPT_SECONDS = _DAY_SECONDS  # at once, of ten counts a minute at most
# What a provider said itself, a refusal included. Anything else is a call that came to nothing.
_ANSWERS = {"ok", "refused", "throttled"}


class Calls(NamedTuple):
    """How many calls were answered, and how many were not."""

    answered: int
    failed: int


def answered(provider: str) -> str:
    """Return the name under which calls are counted that *provider* answered."""
    return f"{provider}_answered"


def failed(provider: str) -> str:
    """Return the name under which calls are counted that *provider* did not answer."""
    return f"{provider}_failed"


def calls(tx: Tx, since: datetime) -> dict[str, Calls]:
    """Return how many calls each provider answered or not, from the minute of *since* on."""
    totals: Counter[str] = Counter()
    for row in tx.all(_COUNTS, since=_minute_of(since)):
        totals[row.name] += int(row.total)
    providers = {
        name.removesuffix(ending)
        for name in totals
        for ending in (answered(""), failed(""))
        if name.endswith(ending)
    }
    return {one: Calls(totals[answered(one)], totals[failed(one)]) for one in sorted(providers)}


def total(tx: Tx, name: str, since: datetime) -> int:
    """Return how often *name* was counted from the minute of *since* on."""
    return int(tx.scalar(_TOTAL, name=name, since=_minute_of(since)))


def add(tx: Tx, name: str, number: int) -> None:
    """Count *number* more of *name* in this minute."""
    tx.run(_ADD, name=name, minute=_minute_of(tx.now), number=number)


def sweep(database: Database) -> int:
    """Forget the oldest day that is kept too long; return how many rows went."""
    with database.transaction() as tx:
        oldest = tx.scalar(_OLDEST)
        if oldest is None:
            return 0
        keep_from = add_seconds(tx.now, -RETENTION_DAYS * _DAY_SECONDS)
        end = min(keep_from, add_seconds(oldest, _SWEPT_SECONDS))
        return tx.run(_SWEEP, oldest=oldest, before=end)


class Recorder:
    """Adds to the table what this process has counted since the recorder was made."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recorded = _counted()
        self._sending: Counter[str] | None = None
        # One row says how many flushes of this recorder are in the table.
        self._mark = f"flushes_{secrets.token_hex(8)}"
        self._began: datetime | None = None
        self._flush = 0

    def start(self) -> None:
        """Record from now on, in the background."""
        threading.Thread(target=self._record, name="recorder", daemon=True).start()

    def flush(self) -> None:
        """Add what is new. Raises Unavailable; then it is added with the next call.

        The answer to a commit may be lost, so what was being added then is offered again as it
        was, and the mark says whether it is in the table already.
        """
        if self._sending is None:
            self._sending = _counted() - self._recorded
            self._flush += 1
        if self._sending:
            with self._database.transaction() as tx:
                self._began = self._began or _minute_of(tx.now)
                mark = {"name": self._mark, "minute": self._began, "number": self._flush}
                if tx.run(_MARK, **mark):
                    for name in sorted(self._sending):  # one order for all: no two wait crosswise
                        add(tx, name, self._sending[name])
        self._recorded += self._sending
        self._sending = None

    def _record(self) -> None:
        while True:
            time.sleep(FLUSH_SECONDS)
            try:
                self.flush()
            except Unavailable as error:
                log.warning("counts_not_recorded", reason=error.message)
            except Exception:
                log.exception("counts_not_recorded")  # whatever it is, the thread must go on


def _counted() -> Counter[str]:
    """Return what this process has counted so far, by the names of the table."""
    counted: Counter[str] = Counter()
    for labels, value in _samples(OUTCOMES):
        if labels["operation"] in ("reserve", "extend"):
            if labels["code"] == "insufficient_credits":
                counted[REFUSED_402] += value
            elif labels["code"] == "ok":
                counted[RESERVE_GRANTED] += value
    for labels, value in _samples(BALANCE_CACHE):
        counted[CACHE_HIT if labels["outcome"] == "hit" else CACHE_MISS] += value
    for labels, value in _samples(PROVIDER_CALLS):
        name = answered if labels["outcome"] in _ANSWERS else failed
        counted[name(labels["provider"])] += value
    return counted


def _samples(metric: Metric) -> Iterator[tuple[dict[str, str], int]]:
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield sample.labels, int(sample.value)


def _minute_of(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


_TOTAL = select(func.coalesce(func.sum(MinuteCount.total), 0)).where(
    MinuteCount.name == bindparam("name"),
    MinuteCount.minute >= bindparam("since", type_=UtcTime()),
)
# Summed by the caller: to group by name, SQLite would walk the primary key.
_COUNTS = select(MinuteCount.name, MinuteCount.total).where(
    MinuteCount.minute >= bindparam("since", type_=UtcTime())
)
_ADD = text(
    "INSERT INTO minute_counts (name, minute, total) VALUES (:name, :minute, :number)"
    " ON CONFLICT (name, minute) DO UPDATE SET total = minute_counts.total + excluded.total"
).bindparams(bindparam("minute", type_=UtcTime()))
_MARK = text(
    "INSERT INTO minute_counts (name, minute, total) VALUES (:name, :minute, :number)"
    " ON CONFLICT (name, minute) DO UPDATE SET total = excluded.total"
    " WHERE minute_counts.total < excluded.total"
).bindparams(bindparam("minute", type_=UtcTime()))
_OLDEST = select(func.min(MinuteCount.minute, type_=UtcTime()))
_SWEEP = delete(MinuteCount).where(
    MinuteCount.minute >= bindparam("oldest", type_=UtcTime()),
    MinuteCount.minute < bindparam("before", type_=UtcTime()),
)
