"""Traces: a real collector is told how a request and a notice lead to the ledger."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from shared.clock import system_clock
from shared.database import insert_rows
from shared.models.payments import CryptoPayment
from shared.money import parse_coin
from tests.harness import (
    ROOT,
    Api,
    Databases,
    make_id,
    running_api,
    service,
    service_environment,
    wait_until,
    worker,
)
from tests.receiver import Receiver, notice, own_payment_id, running_receiver

CALLER = "0af7651916cd43dd8448eb211c80319c"
CALLER_SPAN = "b7ad6b7169203331"
HEADER = {"traceparent": f"00-{CALLER}-{CALLER_SPAN}-01"}


@dataclass(frozen=True)
class Told:
    """A span as the collector got it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: list[tuple[str, str]]
    facts: dict[str, Any]


class Collector:
    """Takes OTLP over HTTP, and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def take(self, told: ExportTraceServiceRequest) -> None:
        for resource in told.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_read(names["service.name"], span) for span in scope.spans]

    def of(self, trace: str, name: str) -> list[Told]:
        return [one for one in self.spans if (one.trace, one.name) == (trace, name)]


def _read(service_name: str, span: Any) -> Told:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        found = getattr(value, kind)
        return [plain(one) for one in found.values] if kind == "array_value" else found

    return Told(
        service_name,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        {one.key: plain(one.value) for one in span.attributes},
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    made = Collector()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def traced(
    databases: Databases, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Api, Receiver, Collector]]:
    logs, url = tmp_path_factory.mktemp("traces"), databases.make("sqlite")
    with ExitStack() as running:
        collector = running.enter_context(collecting())
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        api = running.enter_context(running_api(url, redis_url, logs / "api.log", **settings))
        receiver = running.enter_context(
            running_receiver(url, redis_url, logs / "webhooks.log", **settings)
        )
        environment = service_environment(url, redis_url, **settings)
        running.enter_context(service(worker("payments"), environment, None, logs / "worker.log"))
        yield api, receiver, collector


def test_a_hold_and_its_settlement_are_in_the_trace_of_their_caller(
    traced: tuple[Api, Receiver, Collector],
) -> None:
    api, _, collector = traced
    account = api.funded_account(10_000_000)
    headers = api.s2s() | HEADER
    held = api.post(
        "/api/internal/reserve",
        {"accountId": account, "estimatedCostMicro": "5000000"},
        headers=headers,
    ).json()
    body = {"reservationId": held["reservationId"], "actualCostMicro": "3000000"}
    assert api.post("/api/internal/finalize", body, headers=headers).status_code == 200
    for route in ("reserve", "finalize"):
        name = f"POST /api/internal/{route}"
        [served] = wait_until(name, lambda name=name: collector.of(CALLER, name))
        assert (served.service, served.parent) == ("arrakis-api", CALLER_SPAN)
        assert served.facts["http.response.status_code"] == 200
        assert served.facts["arrakis.reservation_id"] == held["reservationId"]
        [batch] = [one for one in collector.of(CALLER, "ledger batch") if one.parent == served.id]
        assert (CALLER, served.id) in batch.links
        assert batch.facts["arrakis.items"] == 1
        [moved] = [one for one in collector.of(CALLER, "transaction") if one.parent == batch.id]
        assert moved.facts["arrakis.statements"] > 3


def test_a_notice_its_credit_and_the_run_that_made_it_are_connected(
    traced: tuple[Api, Receiver, Collector],
) -> None:
    api, receiver, collector = traced
    account, number = api.funded_account(0), own_payment_id()
    with api.database.transaction() as tx:
        now = system_clock()
        row = {
            "id": f"cp_{make_id()}",
            "provider": "nowpayments",
            "provider_payment_id": str(number),
            "account_id": account,
            "price_amount": parse_coin("25.00"),
            "price_currency": "usd",
            "status": "waiting",
            "created_at": now,
            "updated_at": now,
        }
        insert_rows(tx, CryptoPayment.__table__, [row])
    receiver.deliver(notice(payment_id=number, payment_status="finished", actually_paid=1))
    [done] = wait_until(
        "the credit",
        lambda: [
            one
            for one in collector.spans
            if one.name == "notice processed" and one.facts.get("arrakis.payment_id") == row["id"]
        ],
    )
    assert (done.service, done.facts["arrakis.outcome"]) == ("arrakis-worker", "applied")
    [lot_id] = done.facts["arrakis.lot_ids"]
    with api.database.reading() as tx:
        [lot] = tx.all(
            CryptoPayment.__table__.select()
            .with_only_columns(CryptoPayment.lot_id)
            .where(CryptoPayment.id == row["id"])
        )
    assert lot.lot_id == lot_id
    by_id = wait_until(
        "the run",
        lambda: (
            found
            if done.links[0][1] in (found := {one.id: one for one in collector.spans})
            and done.parent in found
            else None
        ),
    )
    served = by_id[done.parent]
    assert (served.service, served.trace, served.name) == (
        "arrakis-webhooks",
        done.trace,
        "POST /api/billing/webhooks/nowpayments",
    )
    assert served.facts["arrakis.event_id"] == done.facts["arrakis.event_id"]
    [batch] = [one for one in by_id.values() if one.name == "notice batch"]
    assert (batch.parent, batch.facts["arrakis.items"]) == (served.id, 1)
    run = by_id[done.links[0][1]]
    assert (run.name, run.facts["arrakis.items"]) == ("run payments.drain_webhooks", 1)


def test_runs_that_find_nothing_are_not_told(traced: tuple[Api, Receiver, Collector]) -> None:
    _, _, collector = traced
    runs = [one for one in collector.spans if one.name.startswith("run ")]
    assert runs
    assert all(one.facts["arrakis.items"] for one in runs)


def test_who_traces_without_opentelemetry_is_told_what_to_do() -> None:
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from shared import tracing\n"
        "tracing.start('api', ''); assert not tracing.is_on()\n"
        "tracing.start('api', 'http://127.0.0.1:1')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, "Install the dependency group `tracing`" in done.stderr) == (1, True)


def test_nothing_of_opentelemetry_is_loaded_while_it_is_off(tmp_path: Path) -> None:
    script = (
        "import sys, services.webhooks.wsgi\n"
        "assert not any(name.startswith('opentelemetry') for name in sys.modules)\n"
    )
    environment = service_environment(f"sqlite:///{tmp_path / 'a.db'}", "redis://127.0.0.1:1/0")
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
        timeout=30,
        check=True,
    )
