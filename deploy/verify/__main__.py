"""``python -m deploy.verify``: build, look, start, tell the story, kill, look again, stop."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from deploy.env import write_environment
from deploy.local.postgres import PostgresCluster
from deploy.local.ready import tcp_ready
from deploy.local.servers import RunningServer, running_redis
from deploy.local.sockets import free_port, port_is_taken
from deploy.verify.containers import Containers
from deploy.verify.images import IMAGES, VerificationError, build, inspect, prepare_base, require
from deploy.verify.story import API, FLOWER, RECEIVER, SIMULATOR, Story
from shared.version import VERSION

WORKERS = ("worker-payments", "worker-ledger", "worker-maintenance", "beat")
SERVING = {
    "simulator": f"{SIMULATOR}/v1/status",
    "api": f"{API}/api/internal/health",
    "webhooks": f"{RECEIVER}/health",
    "flower": f"{FLOWER}/healthcheck",
}


def say(text: str) -> None:
    """Print *text* at once."""
    print(text, flush=True)


def build_all() -> None:
    """Build every image and look into it, and tell the sizes."""
    say(f"Base image: {prepare_base()}")
    for image in IMAGES:
        began = time.monotonic()
        build(image)
        seconds = time.monotonic() - began
        size = inspect(image)
        say(f"  {image:<10} {size / 1e6:4.0f} MB, built in {seconds:5.1f} s; holds only its own")


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Run PostgreSQL and Redis on this host; yield their addresses as settings."""
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
            stop_signal=signal.SIGINT,
        )
        # The server itself sees a taken port; our own look would find it before it is up.
        try:
            postgres.start()
            with running_redis() as redis:
                yield {"DATABASE_URL": postgres.url, "REDIS_URL": redis.url}
        finally:
            postgres.stop()
            cluster.remove_socket()


def start_all(containers: Containers) -> None:
    """Migrate, start every service, and tell how long each took."""
    began = time.monotonic()
    containers.once("migrate")
    say(f"  {'migrate':<20} ended well after {time.monotonic() - began:4.1f} s")
    for name, probe in SERVING.items():
        say(f"  {name:<20} healthy after {containers.start(name, probe):4.1f} s")
    for name in WORKERS:
        port = str(free_port())
        seconds = containers.start(
            name, f"http://127.0.0.1:{port}/metrics", ARRAKIS_METRICS_PORT=port
        )
        say(f"  {name:<20} healthy after {seconds:4.1f} s")


def tell(containers: Containers, authentication: str) -> None:
    """Tell the story, kill one container after the other, and tell that nothing was lost."""
    story = Story(containers)
    story.open_account()
    say(f"  25.00 USD paid and credited once, {story.pay('25000000'):.1f} s after the last notice")
    story.spend()
    say("  2.00 held, 1.20 charged, the repeat answered the same; 23.80 left")
    story.check_front_matters()
    say("  /metrics answer; the public limit counts callers behind the trusted front")
    say(f"  Flower asks for its password, sees {', '.join(story.check_flower(authentication))}")
    for name in ("worker-payments", "beat", "webhooks", "api"):
        say(f"  {name} killed: healthy again after {containers.kill(name):.1f} s")
    require("balance after the kills", story.available(), "23800000")
    say(f"  paid again: credited {story.pay('48800000'):.1f} s after the last notice")
    say(f"  arrakis ledger verify: {story.check_books()}")


def stop_all(containers: Containers) -> None:
    """Stop every service in good order, and tell how long each took."""
    for name in ("flower", *reversed(WORKERS), "webhooks", "api", "simulator"):
        seconds, code = containers.stop(name)
        say(f"  {name:<20} stopped after {seconds:4.1f} s, exit {code}")


def verify() -> None:
    """Do it all; raise VerificationError at the first thing that is wrong."""
    taken = [port for port in (5555, 8000, 8001, 8100) if port_is_taken(port)]
    if taken:
        raise VerificationError(f"These ports of this host are needed, and taken: {taken}")
    say("Images")
    build_all()
    with tempfile.TemporaryDirectory(prefix="arrakis-secrets-") as folder, servers() as here:
        write_environment(Path(folder), VERSION)
        secrets = Path(folder) / "secrets"
        for name in ("database_url", "redis_url"):
            (secrets / name).unlink()
            (secrets / name).write_text(here[name.upper()])
        addresses = {
            "NOWPAYMENTS_API_URL": f"{SIMULATOR}/v1",
            "ARRAKIS_SIMULATOR_IPN_URL": f"{RECEIVER}/api/billing/webhooks/nowpayments",
            "ARRAKIS_TRUSTED_PROXIES": "127.0.0.1",
        }
        authentication = (secrets / "flower_basic_auth").read_text().strip()
        with closing(Containers(secrets, addresses)) as containers:
            say("Start")
            start_all(containers)
            say("Story")
            tell(containers, authentication)
            say("Stop")
            stop_all(containers)


def main() -> None:
    """Verify, and exit 1 with a sentence if something is wrong."""
    try:
        verify()
    except VerificationError as error:
        say(f"Wrong: {error}")
        sys.exit(1)
    say("All is as docker-compose.yml promises.")


if __name__ == "__main__":
    main()
