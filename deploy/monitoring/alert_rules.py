"""Prometheus' rules for the alerts of ``shared/alerts/rules.py``, and their tests for promtool.

The thresholds stay where operators set them, in ``billing_config``: the workers compare and
Prometheus calls. YAML is written by hand here, so that it needs no package; JSON quotes it.
"""

import json
from collections.abc import Iterable

from shared.alerts.rules import RULES, Rule

_HEADER = (
    "# Written by `python -m deploy.monitoring` from shared/alerts/rules.py: change it there.\n"
)


def alert_name(rule: Rule) -> str:
    """Return the name of *rule* as Prometheus' alerts are named: DlqDepth."""
    return "".join(part.capitalize() for part in rule.name.split("_"))


def rules_text() -> str:
    """Return a rule for each alert: it fires while it fires for a subject."""
    lines = [_HEADER + "groups:", "  - name: arrakis", "    rules:"]
    for rule in RULES.values():
        lines += [
            f"      - alert: {alert_name(rule)}",
            f"        expr: {_expression(rule)}",
            f"        labels: {{severity: {rule.severity}}}",
            "        annotations:",
            f"          summary: {json.dumps(rule.meaning)}",
            f"          action: {json.dumps(rule.command)}",
        ]
    return "\n".join(lines) + "\n"


def tests_text() -> str:
    """Return a test for each rule: nothing at 0, an alert at 1, nothing at 0 again."""
    lines = [
        _HEADER + "rule_files:",
        "  - ../rules/alerts.yml",
        "evaluation_interval: 15s",
        "tests:",
    ]
    for rule in RULES.values():
        series = f'arrakis_alert_firing{{name="{rule.name}", severity="{rule.severity}"}}'
        lines += [
            f"  - name: {rule.name} fires and clears",
            "    interval: 15s",
            "    input_series:",
            f"      - series: '{series}'",
            '        values: "0 0 0 0 2 2 2 2 0 0 0 0"',
            "    alert_rule_test:",
            *_expected(rule, "30s", fires=False),
            *_expected(rule, "75s", fires=True),
            *_expected(rule, "135s", fires=False),
        ]
    return "\n".join(lines) + "\n"


def _expression(rule: Rule) -> str:
    # Every process of the API tells the same number, read from the database.
    return f'max(arrakis_alert_firing{{name="{rule.name}"}}) > 0'


def _expected(rule: Rule, at: str, *, fires: bool) -> Iterable[str]:
    yield f"      - eval_time: {at}"
    yield f"        alertname: {alert_name(rule)}"
    if fires:
        yield "        exp_alerts:"
        yield f"          - exp_labels: {{severity: {rule.severity}}}"
        yield "            exp_annotations:"
        yield f"              summary: {json.dumps(rule.meaning)}"
        yield f"              action: {json.dumps(rule.command)}"
