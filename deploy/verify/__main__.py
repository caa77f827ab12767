"""``python -m deploy.verify``: build, look, start, tell the story, kill, look again, stop."""

import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from deploy.env import write_environment
from deploy.local import demo
from deploy.local.sockets import free_port, port_is_taken
from deploy.local.story import Story, WrongFigureError
from deploy.verify import edges
from deploy.verify.containers import Containers
from deploy.verify.images import IMAGES, VerificationError, build, inspect, prepare_base, require
from deploy.verify.system import (
    API,
    FLOWER,
    RECEIVER,
    SIMULATOR,
    ContainerSystem,
    running_servers,
)
from shared.version import VERSION

WORKERS = ("worker-payments", "worker-ledger", "worker-maintenance", "beat")
SERVING = {
    "simulator": f"{SIMULATOR}/v1/status",
    "api": f"{API}/api/internal/health",
    "webhooks": f"{RECEIVER}/health",
    "flower": f"{FLOWER}/healthcheck",
}
AFTER_THE_STORY = "22000000"  # of the demo's account, once another 25 dollars have paid its debt


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


def tell(containers: Containers, story: Story, secrets: Path) -> None:
    """Tell the demo's story, look at the edges, kill what serves, and see that nothing was lost."""
    authentication = (secrets / "flower_basic_auth").read_text().strip()
    demo.tell(story)
    say(f"\nAll {story.checks} figures of the demo are right.\nEdges, kills, and operators")
    edges.check_front_matters()
    say("  /metrics answer; the public limit counts callers behind the trusted front")
    say(f"  Flower asks for its password, sees {', '.join(edges.check_flower(authentication))}")
    for name in ("worker-payments", "beat", "webhooks", "api"):
        say(f"  {name} killed: healthy again after {containers.kill(name):.1f} s")
    edges.pay_again(story, AFTER_THE_STORY)
    for line in edges.check_operator(containers).splitlines():
        say(f"  {line}")
    edges.rotate_tokens_secret(containers, secrets)
    say("  the secret of services' tokens rotated: both held in the overlap, the old one no more")


def stop_all(containers: Containers) -> None:
    """Stop every service in good order, and tell how long each took."""
    for name in ("flower", *reversed(WORKERS), "webhooks", "api", "simulator"):
        seconds, code = containers.stop(name)
        require(f"exit status of {name}", code, 0)
        say(f"  {name:<20} stopped after {seconds:4.1f} s")


def verify() -> None:
    """Do it all; raise VerificationError at the first thing that is wrong."""
    taken = [port for port in (5555, 8000, 8001, 8100) if port_is_taken(port)]
    if taken:
        raise VerificationError(f"These ports of this host are needed, and taken: {taken}")
    say("Images")
    build_all()
    with tempfile.TemporaryDirectory(prefix="arrakis-secrets-") as folder:
        write_environment(Path(folder), VERSION)
        run_all(Path(folder) / "secrets")


def run_all(secrets: Path) -> None:
    """Start everything with *secrets*, tell the story, stop everything."""
    addresses = {
        "NOWPAYMENTS_API_URL": f"{SIMULATOR}/v1",
        "ARRAKIS_SIMULATOR_IPN_URL": f"{RECEIVER}/api/billing/webhooks/nowpayments",
        "ARRAKIS_TRUSTED_PROXIES": "127.0.0.1",
    }
    with running_servers() as servers, closing(Containers(secrets, addresses)) as containers:
        for name, url in (("database_url", servers.postgres.url), ("redis_url", servers.redis.url)):
            (secrets / name).unlink()
            (secrets / name).write_text(url)
        say("Start")
        start_all(containers)
        say("Story")
        story = Story(ContainerSystem(containers, servers, secrets))
        tell(containers, story, secrets)
        say("Stop")
        stop_all(containers)


def main() -> None:
    """Verify, and exit 1 with a sentence if something is wrong."""
    try:
        verify()
    except (VerificationError, WrongFigureError) as error:
        say(f"Wrong: {error}")
        sys.exit(1)
    say("All is as docker-compose.yml promises.")


if __name__ == "__main__":
    main()
