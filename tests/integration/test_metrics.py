"""Metrics: each is documented, several processes tell one sum, workers and beat have ports."""

import sys
from pathlib import Path

import requests
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.servers import free_port
from deploy.local.services import METRICS_PORT, arrakis_stack
from deploy.local.sockets import free_ports
from shared.messaging import TaskName
from shared.operations import gauges
from tests.harness import ROOT, Databases, granian, service, service_environment, wait_until, worker

HEALTH = "/api/internal/health"
ROUTE = {"service": "api", "route": HEALTH, "status": "200"}


def documented() -> set[tuple[str, str, str, str]]:
    text = (ROOT / "docs" / "metrics.md").read_text().partition("<!-- metrics -->")[2]
    text = text.partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return {(row[0].strip(" `"), *(one.strip() for one in row[1:4])) for row in rows}  # type: ignore[misc]


def test_every_metric_is_documented_as_it_is() -> None:
    found = set()
    for metric in REGISTRY._collector_to_names:
        if isinstance(metric, MetricWrapperBase) and metric._name.startswith("arrakis_"):
            suffix = "_total" if metric._type == "counter" else ""
            labels = ", ".join(metric._labelnames) or "-"
            found.add((metric._name + suffix, metric._type, labels, metric._documentation))
    for family in gauges.families().values():
        labels = ", ".join(family._labelnames)
        found.add((family.name, "gauge", labels, family.documentation))
    assert documented() == found


def scrape(url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = requests.get(url, timeout=10, headers={"Connection": "close"}).text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def answered(base: str) -> float:
    told = scrape(f"{base}/metrics").get("arrakis_http_requests_total", [])
    return sum(value for labels, value in told if labels == ROUTE)


def test_processes_behind_one_port_tell_their_sum_and_the_databases_gauges_once(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    counted, port = tmp_path / "metrics", free_port()
    counted.mkdir()
    command = granian("services.api.wsgi:app", port)
    command[command.index("--workers") + 1] = "2"
    environment = service_environment(
        databases.make("sqlite"), redis_url, PROMETHEUS_MULTIPROC_DIR=str(counted)
    )
    base = f"http://127.0.0.1:{port}"
    with service(command, environment, base + HEALTH, tmp_path / "log"):
        before, asked = answered(base), 0

        def both_have_answered() -> bool:
            nonlocal asked
            asked += 1
            requests.get(base + HEALTH, timeout=10, headers={"Connection": "close"})
            return len(list(counted.glob("counter_*.db"))) == 2 and asked >= 20

        wait_until("two processes that count", both_have_answered)
        assert {answered(base) - before for _ in range(6)} == {asked}
        told = scrape(f"{base}/metrics")
        statuses = [labels["status"] for labels, _ in told["arrakis_dead_letters"]]
        assert len(statuses) == len(set(statuses)) == 5
        assert all("pid" not in labels for found in told.values() for labels, _ in found)


def test_a_worker_and_beat_tell_their_own(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    worker_port, beat_port = free_ports(2)
    environment = service_environment(databases.make("sqlite"), redis_url)
    beat = [
        *(sys.executable, "-m", "celery", "-A", "services.workers.main", "beat"),
        *("--schedule", str(tmp_path / "schedule"), "--pidfile=", "--loglevel", "WARNING"),
    ]
    urls = [f"http://127.0.0.1:{port}/metrics" for port in (worker_port, beat_port)]
    with (
        service(
            worker("ledger"),
            environment | {METRICS_PORT: str(worker_port)},
            urls[0],
            tmp_path / "worker.log",
        ),
        service(beat, environment | {METRICS_PORT: str(beat_port)}, urls[1], tmp_path / "beat.log"),
    ):
        wait_until(
            "a run",
            lambda: (
                ({"queue": "ledger", "task": TaskName.GRANT_LISTS.value, "outcome": "ok"})
                in [labels for labels, _ in scrape(urls[0]).get("arrakis_tasks_total", [])]
            ),
        )
        sent = {"task": TaskName.DRAIN_WEBHOOKS.value, "outcome": "sent"}
        wait_until(
            "a wake-up",
            lambda: (
                sent in [labels for labels, _ in scrape(urls[1]).get("arrakis_hints_total", [])]
            ),
        )


def test_the_local_stack_gives_workers_and_beat_ports_of_their_own(tmp_path: Path) -> None:
    names = ("api_port", "webhooks_port", "flower_port", "simulator_port")
    ports = dict(zip(names, free_ports(4), strict=True))
    stack = arrakis_stack(tmp_path, **ports, env={})
    own = {
        name: process.env[METRICS_PORT]
        for name, process in stack.processes.items()
        if METRICS_PORT in process.env
    }
    assert own.keys() == {"worker-payments", "worker-ledger", "worker-maintenance", "beat"}
    assert len({*own.values(), *map(str, ports.values())}) == 8
