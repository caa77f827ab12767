"""Grafana's dashboards as data: money, queues, payments and latency."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 2
_SOURCE = {"type": "prometheus", "uid": "prometheus"}


@dataclass(frozen=True)
class Panel:
    """A graph: its queries, each beside the legend of its lines, and the unit of its axis."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"


def _quantiles(selector: str) -> Sequence[tuple[str, str]]:
    rate = f"sum by (le) (rate({selector}[5m]))"
    return [(f"histogram_quantile({q}, {rate})", f"p{round(q * 100)}") for q in (0.5, 0.95, 0.99)]


_HTTP = "arrakis_http_request_seconds_bucket"
_NOTICES = '{service="webhooks", route=~".*/webhooks?(/.*)?"}'
DASHBOARDS: dict[str, Sequence[Panel]] = {
    "money": (
        Panel(
            "Money at risk",
            [("max by (kind) (arrakis_money_at_risk_micro) / 1e6", "{{kind}}")],
            "currencyUSD",
        ),
        Panel(
            "Cost that live mode did not charge, per hour",
            [("sum(increase(arrakis_uncharged_micro_total[1h])) / 1e6", "uncharged")],
            "currencyUSD",
        ),
        Panel(
            "Alerts that fire",
            [("max by (name, severity) (arrakis_alert_firing) > 0", "{{severity}} {{name}}")],
        ),
        Panel(
            "Ledger commands by result",
            [
                (
                    "sum by (operation, code) (rate(arrakis_ledger_outcomes_total[5m]))",
                    "{{operation}} {{code}}",
                )
            ],
            "ops",
        ),
        Panel(
            "Finalizes above their hold",
            [
                ("sum by (mode) (rate(arrakis_overruns_total[5m]))", "{{mode}}"),
                ("sum by (mode) (rate(arrakis_overrun_alerts_total[5m]))", "{{mode}}, far above"),
            ],
            "ops",
        ),
        Panel(
            "Cached balances that were wrong, per hour",
            [("sum by (outcome) (increase(arrakis_balance_drift_total[1h]))", "{{outcome}}")],
        ),
    ),
    "queues": (
        Panel(
            "Age of the oldest due row",
            [("max by (queue, kind) (arrakis_queue_lag_seconds)", "{{queue}} {{kind}}")],
            "s",
        ),
        Panel(
            "Due rows",
            [("max by (queue, kind) (arrakis_queue_due_rows)", "{{queue}} {{kind}}")],
        ),
        Panel(
            "Rows worked off",
            [("sum by (task) (rate(arrakis_task_items_total[5m]))", "{{task}}")],
            "ops",
        ),
        Panel(
            "Runs that did not end well, per hour",
            [
                (
                    'sum by (task, outcome) (increase(arrakis_tasks_total{outcome!="ok"}[1h]))',
                    "{{task}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Kinds of work without success in time",
            [
                ("max by (task) (arrakis_tick_missing) > 0", "{{task}}"),
                ("max by (task) (arrakis_tick_age_seconds) > 300", "{{task}}, seconds"),
            ],
        ),
        Panel("Dead letters", [("max by (status) (arrakis_dead_letters)", "{{status}}")]),
        Panel(
            "Wake-ups",
            [("sum by (outcome) (rate(arrakis_hints_total[5m]))", "{{outcome}}")],
            "ops",
        ),
        Panel(
            "Processes that answer Prometheus",
            [("sum by (job) (up)", "{{job}}")],
        ),
    ),
    "payments": (
        Panel(
            "Notices by what became of them",
            [
                (
                    "sum by (provider, outcome) (rate(arrakis_webhooks_total[5m]))",
                    "{{provider}} {{outcome}}",
                )
            ],
            "ops",
        ),
        Panel(
            "Paid and not credited",
            [('max(arrakis_money_at_risk_micro{kind="uncredited"}) / 1e6', "uncredited")],
            "currencyUSD",
        ),
        Panel(
            "Calls to providers by outcome",
            [
                (
                    "sum by (provider, call, outcome) (rate(arrakis_provider_calls_total[5m]))",
                    "{{provider}} {{call}} {{outcome}}",
                )
            ],
            "ops",
        ),
        Panel(
            "Time of the providers' answers",
            _quantiles("arrakis_provider_call_seconds_bucket"),
            "s",
        ),
        Panel(
            "Our webhooks",
            [("sum by (outcome) (rate(arrakis_webhook_deliveries_total[5m]))", "{{outcome}}")],
            "ops",
        ),
    ),
    "latency": (
        Panel(
            "Requests",
            [
                (
                    "sum by (service, status) (rate(arrakis_http_requests_total[5m]))",
                    "{{service}} {{status}}",
                )
            ],
            "reqps",
        ),
        Panel(
            "Reserve and finalize", _quantiles(f'{_HTTP}{{route=~".*/(reserve|finalize)"}}'), "s"
        ),
        Panel("Notices of providers", _quantiles(f"{_HTTP}{_NOTICES}"), "s"),
        Panel("Runs of the workers", _quantiles("arrakis_task_seconds_bucket"), "s"),
        Panel(
            "Reads of cached balances",
            [("sum by (outcome) (rate(arrakis_balance_cache_total[5m]))", "{{outcome}}")],
            "ops",
        ),
        Panel(
            "Tokens refused, and rates counted without Redis",
            [
                ("sum by (kind, why) (rate(arrakis_tokens_refused_total[5m]))", "{{kind}} {{why}}"),
                ("sum(rate(arrakis_rate_limit_fallbacks_total[5m]))", "counted locally"),
            ],
            "ops",
        ),
    ),
}


def dashboard_text(name: str) -> str:
    """Return the dashboard *name* as Grafana reads it."""
    panels = [_panel(number, panel) for number, panel in enumerate(DASHBOARDS[name])]
    made = {
        "uid": f"arrakis-{name}",
        "title": f"Arrakis: {name}",
        "tags": ["arrakis"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "panels": panels,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend}
            for at, (expression, legend) in enumerate(panel.queries)
        ],
    }
