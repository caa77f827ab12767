"""What the database says of the work, as gauges for Prometheus, read when they are asked for.

They are no values of a process, so however many processes answer, each tells the same once.
"""

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from shared.alerts import money, views
from shared.database import Tx
from shared.operations import dlq, ticks

_LETTER_STATUSES = ("pending", "processing", "manual_review", "failed", "completed")


def families() -> dict[str, GaugeMetricFamily]:
    """Return every gauge by its name, without values."""
    made = (
        GaugeMetricFamily("arrakis_queue_due_rows", "Rows that are due.", labels=["queue", "kind"]),
        GaugeMetricFamily(
            "arrakis_queue_lag_seconds",
            "For how long the oldest due row is due.",
            labels=["queue", "kind"],
        ),
        GaugeMetricFamily(
            "arrakis_tick_age_seconds",
            "Seconds since a kind of work last succeeded.",
            labels=["task"],
        ),
        GaugeMetricFamily(
            "arrakis_tick_missing",
            "1 if a kind of work has not succeeded in time.",
            labels=["task"],
        ),
        GaugeMetricFamily(
            "arrakis_dead_letters", "Dead letters by status (runbook 3).", labels=["status"]
        ),
        GaugeMetricFamily(
            "arrakis_alert_firing",
            "How many subjects an alert fires for.",
            labels=["name", "severity"],
        ),
        GaugeMetricFamily(
            "arrakis_money_at_risk_micro",
            "Micro-USD held, paid and not credited, dead-lettered, owed, or being settled.",
            labels=["kind"],
        ),
    )
    return {family.name: family for family in made}


def read(tx: Tx) -> list[Metric]:
    """Return every gauge with what is true now."""
    found = families()
    for lag in ticks.lags(tx):
        found["arrakis_queue_due_rows"].add_metric([lag.queue, lag.kind], lag.rows)
        found["arrakis_queue_lag_seconds"].add_metric([lag.queue, lag.kind], lag.seconds)
    for tick in ticks.list_ticks(tx):
        found["arrakis_tick_missing"].add_metric([tick.name], tick.is_missing)
        found["arrakis_tick_age_seconds"].add_metric([tick.name], tick.age_seconds)
    counts = dlq.depth(tx)
    for status in _LETTER_STATUSES:
        found["arrakis_dead_letters"].add_metric([status], counts.get(status, 0))
    for rule, subjects in views.firing(tx).items():
        found["arrakis_alert_firing"].add_metric([rule.name, rule.severity], subjects)
    for kind, amount_micro in money.at_risk(tx).items():
        found["arrakis_money_at_risk_micro"].add_metric([kind], amount_micro)
    return list(found.values())
