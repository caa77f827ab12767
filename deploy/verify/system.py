"""The system in containers as the story knows it, beside PostgreSQL and Redis of this host."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from signal import SIGINT
from typing import Any

import psycopg

from deploy.local.postgres import PostgresCluster
from deploy.local.ready import tcp_ready
from deploy.local.servers import RunningServer, running_redis
from deploy.local.sockets import free_port
from deploy.verify.containers import Containers

API, RECEIVER = "http://127.0.0.1:8000", "http://127.0.0.1:8001"
SIMULATOR, FLOWER = "http://127.0.0.1:8100", "http://127.0.0.1:5555"


@dataclass(frozen=True)
class Servers:
    """PostgreSQL and Redis, and where the latter keeps its data."""

    postgres: RunningServer
    redis: RunningServer
    redis_folder: Path


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Run PostgreSQL and Redis on this host, on ports that containers of its network reach."""
    with tempfile.TemporaryDirectory(prefix="arrakis-verify-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o755)
        port = free_port()
        cluster = PostgresCluster(Path(home) / "postgres", port=port)
        cluster.initialise()
        postgres = RunningServer(
            name="PostgreSQL",
            command=cluster.command(),
            url=f"postgresql+psycopg://postgres@127.0.0.1:{port}/arrakis",
            ready=tcp_ready(port),
            log=Path(home) / "postgres.log",
            stop_signal=SIGINT,
        )
        folder = Path(home) / "redis"
        # The server itself sees a taken port; our own look would find it before it is up.
        try:
            postgres.start()
            with running_redis(folder) as redis:
                yield Servers(postgres, redis, folder)
        finally:
            postgres.stop()
            cluster.remove_socket()


class ContainerSystem:
    """The services of docker-compose.yml with the secrets of a folder that `make env` wrote."""

    api = API
    simulator = f"{SIMULATOR}/sim"

    def __init__(self, containers: Containers, servers: Servers, secrets: Path) -> None:
        self._containers = containers
        self._servers = servers
        self._secrets = secrets

    @property
    def secrets(self) -> Mapping[str, str]:
        """Every secret, by the name of its setting."""
        return {file.name.upper(): file.read_text().strip() for file in self._secrets.iterdir()}

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run *statement* on the database, as `psql` would; whole sums come as numbers."""
        url = self._servers.postgres.url.replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            found = connection.execute(statement.encode())
            rows = found.fetchall() if found.description else []
        return [tuple(map(_whole, row)) for row in rows]

    def arrakis(self, *arguments: str) -> tuple[str, int]:
        """Run the operators' command in a container of its own."""
        return self._containers.ask("operator", *arguments)

    def pid(self, name: str) -> int:
        """Return the process id of the first process of the container *name*, 0 without one."""
        return self._containers.pid(name)

    def kill(self, name: str) -> str:
        """SIGKILL the first process of the container *name*; podman starts it again."""
        return f"kill -9 {self._containers.strike(name)}  # the container {name}"

    def empty_redis(self) -> str:
        """Kill Redis, and start it again with nothing."""
        pid = self._servers.redis.pid
        self._servers.redis.kill()
        shutil.rmtree(self._servers.redis_folder / "appendonlydir")
        self._servers.redis.start()
        return f"kill -9 {pid}  # redis"


def _whole(value: object) -> object:
    return int(value) if isinstance(value, Decimal) else value
