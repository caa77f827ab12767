"""What the database says of the work, as gauges for Prometheus, read when they are asked for."""

from shared.database import Tx
from shared.observability import DEAD_LETTERS, QUEUE_LAG, QUEUE_ROWS, TICK_AGE, TICK_MISSING
from shared.operations import dlq, ticks

_LETTER_STATUSES = ("pending", "processing", "manual_review", "failed", "completed")


def refresh(tx: Tx) -> None:
    """Set every gauge to what is true now."""
    for lag in ticks.lags(tx):
        QUEUE_ROWS.labels(lag.queue, lag.kind).set(lag.rows)
        QUEUE_LAG.labels(lag.queue, lag.kind).set(lag.seconds)
    for tick in ticks.list_ticks(tx):
        TICK_MISSING.labels(tick.name).set(tick.is_missing)
        TICK_AGE.labels(tick.name).set(tick.age_seconds)
    counts = dlq.depth(tx)
    for status in _LETTER_STATUSES:
        DEAD_LETTERS.labels(status).set(counts.get(status, 0))
