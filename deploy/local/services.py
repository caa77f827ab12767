"""The real system as a stack: which processes there are, how they start, when they are ready."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import SIGINT

from deploy.local.postgres import PostgresCluster
from deploy.local.ready import http_ready, redis_ready, tcp_ready
from deploy.local.secrets import local_secrets
from deploy.local.servers import redis_command
from deploy.local.serving import granian_command
from deploy.local.sockets import free_port
from deploy.local.stack import Process, Stack

SERVERS, API, REST = range(3)  # stages
X402_PAY_TO = "0x00000000000000000000000000000000000a11ce"  # on the simulator's chain only
METRICS_PORT = "ARRAKIS_METRICS_PORT"
WORKER_QUEUES = ("payments", "ledger", "maintenance")


def arrakis_stack(
    data_dir: Path,
    *,
    api_port: int,
    webhooks_port: int,
    flower_port: int,
    simulator_port: int,
    database_url: str | None = None,
    redis_url: str | None = None,
    env: Mapping[str, str],
    workers: bool = True,
    with_postgres: bool = False,
) -> Stack:
    """Describe the system with its data in *data_dir*; nothing is started yet.

    Without *redis_url* it has a Redis of its own; without *database_url* SQLite, or a PostgreSQL of
    its own if *with_postgres*. NOWPAYMENTS_API_URL in *env* replaces the provider's simulator.
    `workers=False` leaves out workers, beat and Flower. The stack's `env` holds what was chosen.
    """
    data = data_dir.absolute()
    secrets = local_secrets(data, env)
    processes: list[Process] = []
    if redis_url is None:
        port = free_port()
        redis_url = f"redis://127.0.0.1:{port}/0"
        processes.append(_redis(data / "redis", port))
    if database_url is None and with_postgres:
        cluster = PostgresCluster(data / "postgres")
        database_url = cluster.url()
        processes.append(_postgres(cluster))
    database_url = database_url or f"sqlite:///{data / 'sietch.db'}"
    provider_url, x402 = env.get("NOWPAYMENTS_API_URL"), ""
    if not provider_url:
        provider_url = f"http://127.0.0.1:{simulator_port}/v1"
        processes.append(_simulator(simulator_port, webhooks_port))
        x402 = _x402_networks(f"http://127.0.0.1:{simulator_port}")
    if not database_url.startswith("sqlite"):  # on SQLite the API migrates at its start
        migrate = [sys.executable, "-m", "shared.cli.main", "migrate"]
        processes.append(Process(name="migrate", command=migrate, stage=API, once=True))
    processes.append(_granian("api", api_port, data, stage=API, health="/api/internal/health"))
    processes.append(_granian("webhooks", webhooks_port, data, stage=REST, health="/health"))
    if workers:
        processes += [_worker(queue) for queue in WORKER_QUEUES]
        processes += [
            _beat(data / "run" / "beat-schedule"),
            _flower(flower_port, secrets["ARRAKIS_FLOWER_PASSWORD"]),
        ]
    return Stack(
        data,
        processes,
        env={
            "FEATURE_BILLING_ENABLED": "true",
            # So that a notice made by hand is believed; production asks the provider.
            "PAYMENTS_VERIFY_BEFORE_CREDIT": "false",
            "ARRAKIS_WEBHOOK_ALLOW_PRIVATE": "true",
            "X402_NETWORKS": x402,
            **env,
            **secrets,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "NOWPAYMENTS_API_URL": provider_url,
        },
    )


def _x402_networks(simulator: str) -> str:
    """Return the setting that makes the simulator our facilitator, and our node of Base."""
    base = {
        "network": "eip155:8453",
        "payTo": X402_PAY_TO,
        "facilitatorUrl": f"{simulator}/facilitator",
        "rpcUrl": f"{simulator}/rpc",
    }
    return json.dumps([base])


def _redis(directory: Path, port: int) -> Process:
    return Process(
        name="redis",
        command=redis_command(directory, port),
        port=port,
        stage=SERVERS,
        ready=redis_ready(port),
        before=lambda: directory.mkdir(parents=True, exist_ok=True),
    )


def _postgres(cluster: PostgresCluster) -> Process:
    return Process(
        name="postgres",
        command=cluster.command(),
        stage=SERVERS,
        ready=cluster.ready(),
        stop_signal=SIGINT,
        before=cluster.initialise,
        after=cluster.remove_socket,
    )


def _simulator(port: int, webhooks_port: int) -> Process:
    notices = f"http://127.0.0.1:{webhooks_port}/api/billing/webhooks/nowpayments"
    command = [sys.executable, "-m", "deploy.simulator", "--port", str(port), "--ipn-url", notices]
    return Process(
        name="simulator",
        command=command,
        port=port,
        stage=SERVERS,
        ready=http_ready(f"http://127.0.0.1:{port}/v1/status"),
    )


def _granian(service: str, port: int, data: Path, *, stage: int, health: str) -> Process:
    counted = data / "run" / f"metrics-{service}"
    ready = http_ready(f"http://127.0.0.1:{port}{health}")
    return Process(
        name=service,
        command=granian_command(f"services.{service}.wsgi:app", port),
        env={"PROMETHEUS_MULTIPROC_DIR": str(counted)},
        port=port,
        stage=stage,
        ready=ready,
        before=lambda: _empty(counted),
    )


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _celery(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "celery", "-A", "services.workers.main", *arguments]


def _worker(queue: str) -> Process:
    options = ["-Q", queue, "-n", f"{queue}@%h", "--pool", "threads", "-c", "4"]
    quiet = ["--without-gossip", "--without-mingle", "-E", "--loglevel", "WARNING"]
    command = _celery("worker", *options, *quiet)
    return Process(name=f"worker-{queue}", command=command, env=_own_metrics(), stage=REST)


def _beat(schedule: Path) -> Process:
    command = _celery("beat", "--schedule", str(schedule), "--pidfile=", "--loglevel", "WARNING")
    return Process(name="beat", command=command, env=_own_metrics(), stage=REST)


def _own_metrics() -> dict[str, str]:
    return {METRICS_PORT: str(free_port()), "ARRAKIS_METRICS_ADDRESS": "127.0.0.1"}


def _flower(port: int, password: str) -> Process:
    options = ["--read_only=True", "--purge_offline_workers=60", "--max_tasks=10000"]
    return Process(
        name="flower",
        command=_celery("flower", "--address=127.0.0.1", f"--port={port}", *options),
        env={"FLOWER_BASIC_AUTH": f"admin:{password}"},  # an option would show in `ps`
        port=port,
        stage=REST,
        ready=tcp_ready(port),
    )
