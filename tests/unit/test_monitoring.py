"""Monitoring as code: rules and dashboards look at metrics that exist, and no alert is forgotten.

Whether the rules fire when they should is for promtool to say: `deploy/monitoring/check`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.__main__ import HERE, written
from deploy.monitoring.alert_rules import alert_name
from deploy.monitoring.dashboards import DASHBOARDS
from shared.alerts.rules import RULES
from shared.messaging import QUEUES, TaskName

ROOT = Path(__file__).resolve().parents[2]
METRIC = re.compile(r"\b(arrakis_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
ADDED = {"le", "job", "instance"}  # by the histograms and by Prometheus


def documented() -> dict[str, set[str]]:
    """Return the labels of each series that docs/metrics.md names."""
    found: dict[str, set[str]] = {}
    row = re.compile(r"^\| `(arrakis_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
    for name, kind, labels in row.findall((ROOT / "docs" / "metrics.md").read_text()):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            found[name + suffix] = set(re.findall(r"\w+", labels))
    return found


def load(path: str) -> Any:
    return yaml.safe_load((HERE / path).read_text())


def rules(path: str) -> Iterator[dict[str, Any]]:
    for group in load(path)["groups"]:
        yield from group["rules"]


def seen_firing(path: str) -> set[str]:
    """Return the alerts that a test of *path* sees fire."""
    cases = [one for test in load(path)["tests"] for one in test["alert_rule_test"]]
    return {case["alertname"] for case in cases if case.get("exp_alerts")}


@pytest.mark.parametrize("path", sorted(written()))
def test_what_is_committed_is_what_the_code_writes(path: str) -> None:
    """To renew: `python -m deploy.monitoring`."""
    assert (HERE / path).read_text() == written()[path]


def test_every_metric_that_is_looked_at_exists_with_its_labels() -> None:
    texts = [
        rule["expr"] for path in ("alerts", "processes") for rule in rules(f"rules/{path}.yml")
    ]
    for name in DASHBOARDS:
        board = json.loads((HERE / f"grafana/dashboards/{name}.json").read_text())
        texts += [one["expr"] for panel in board["panels"] for one in panel["targets"]]
    for path in ("alerts", "processes"):
        for test in load(f"tests/{path}_test.yml")["tests"]:
            texts += [one["series"] for one in test["input_series"]]
    known = documented()
    for text in texts:
        seen = METRIC.findall(text)
        assert seen or "up" in text, text
        for name, selector in seen:
            assert name in known, f"{name} is not in docs/metrics.md: {text}"
            assert set(LABEL.findall(selector)) <= known[name] | ADDED, text
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", text))))
        labels = set().union(*(known[name] for name, _ in seen)) | ADDED
        assert grouped <= labels, text
        assert set(re.findall(r'task="([^"]+)"', text)) <= {name.value for name in TaskName}


def test_every_alert_has_a_rule_that_calls_with_its_severity() -> None:
    found = {rule["alert"]: rule for rule in rules("rules/alerts.yml")}
    assert found.keys() == {alert_name(rule) for rule in RULES.values()}
    for rule in RULES.values():
        made = found[alert_name(rule)]
        assert made["expr"] == f'max(arrakis_alert_firing{{name="{rule.name}"}}) > 0'
        assert made["labels"] == {"severity": rule.severity}
        assert made["annotations"] == {"summary": rule.meaning, "action": rule.command}


@pytest.mark.parametrize("name", ["alerts", "processes"])
def test_every_rule_is_seen_to_fire_by_a_test_and_says_what_to_do(name: str) -> None:
    made = list(rules(f"rules/{name}.yml"))
    assert {rule["alert"] for rule in made} == seen_firing(f"tests/{name}_test.yml")
    for rule in made:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert all(rule["annotations"][key] for key in ("summary", "action")), rule["alert"]


def test_every_process_is_scraped() -> None:
    jobs = {
        one["job_name"]: one["static_configs"] for one in load("prometheus.yml")["scrape_configs"]
    }
    targets = {
        name: sorted(one for at in configs for one in at["targets"])
        for name, configs in jobs.items()
    }
    assert targets == {
        "api": ["api:8000"],
        "webhooks": ["webhooks:8001"],
        "workers": sorted(f"worker-{queue}:9100" for queue in QUEUES),
        "beat": ["beat:9100"],
        "flower": ["flower:5555"],
    }
    watched = set(re.findall(r'up\{job="(\w+)"\}', (HERE / "rules" / "processes.yml").read_text()))
    assert watched == targets.keys()


def test_grafana_reads_the_dashboards_from_this_prometheus() -> None:
    [source] = load("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    for name in DASHBOARDS:
        board = json.loads((HERE / f"grafana/dashboards/{name}.json").read_text())
        assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
