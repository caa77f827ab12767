"""The manifests: no privilege, only the secrets that a service needs, and probes that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local.serving import granian_command
from services.webhooks.app import create_app
from shared.config import WebhookSettings, load_settings
from shared.database import Database
from shared.messaging import QUEUES
from shared.openapi.receiver import NOTICE_PATHS
from tests.api_app import idle_app
from tests.harness import service_environment

HERE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
WORKERS = {f"worker-{queue}" for queue in QUEUES}
SETS = ("migrate", "services")


def manifests() -> list[dict[str, Any]]:
    """Return every object that the two sets apply."""
    found: list[dict[str, Any]] = []
    for name in SETS:
        for path in yaml.safe_load((HERE / name / "kustomization.yaml").read_text())["resources"]:
            found += yaml.safe_load_all((HERE / name / path).read_text())
    return found


OBJECTS = manifests()


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


DEPLOYMENTS = of("Deployment")
RUNNING = {**DEPLOYMENTS, **of("Job")}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = RUNNING[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    [only] = pod(name)["containers"]
    return dict(only)


def labels(name: str) -> dict[str, str]:
    return dict(RUNNING[name]["spec"]["template"]["metadata"]["labels"])


def test_every_file_is_applied_and_every_process_is_there() -> None:
    for name in SETS:
        listed = yaml.safe_load((HERE / name / "kustomization.yaml").read_text())["resources"]
        assert {*listed, "kustomization.yaml"} == {path.name for path in (HERE / name).iterdir()}
    assert DEPLOYMENTS.keys() == {"api", "webhooks", "beat", "flower"} | WORKERS
    assert of("Job").keys() == {"migrate"}


@pytest.mark.parametrize("name", sorted(RUNNING))
def test_a_pod_is_nobody_and_can_write_nothing_that_lasts(name: str) -> None:
    made, one = pod(name), container(name)
    assert made["automountServiceAccountToken"] is False
    assert made["securityContext"]["runAsNonRoot"] is True
    assert made["securityContext"]["runAsUser"] > 0
    assert made["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(volume.keys() == {"name", "emptyDir"} for volume in made["volumes"])
    assert "memory" in one["resources"]["limits"]
    assert ":" not in one["image"], "the tag is in kustomization.yaml"


def test_every_image_is_built_and_runs_what_is_in_it() -> None:
    dockerfile = (HERE.parent / "Dockerfile").read_text()
    built = set(re.findall(r"^FROM \w+ AS (\w+)$", dockerfile, re.MULTILINE))
    named = {name: container(name)["image"] for name in RUNNING}
    assert {image.removeprefix("arrakis-billing-") for image in named.values()} <= built
    for name in WORKERS | {"beat"}:
        assert named[name] == "arrakis-billing-workers"
    for service in ("api", "webhooks", "flower"):
        [command] = re.findall(rf"AS {service}\n.*?\nCMD (\[.*?\])\n", dockerfile, re.DOTALL)
        assert container(service)["command"] == json.loads(command.replace("\\\n", ""))


@pytest.mark.parametrize(("service", "port"), [("api", 8000), ("webhooks", 8001)])
def test_the_local_stack_serves_as_the_images_do(service: str, port: int) -> None:
    """But for the address: only this host may reach the local stack."""
    local = granian_command(f"services.{service}.wsgi:app", port)
    host = local.index("--host") + 1
    image = container(service)["command"]
    assert [*image[:host], local[host], *image[host + 1 :]][1:] == local[1:]


def test_every_service_is_given_the_secrets_that_it_needs_and_no_other() -> None:
    given = {
        name: {one["secretRef"]["name"] for one in container(name)["envFrom"] if "secretRef" in one}
        for name in RUNNING
    }
    back = {"arrakis-database", "arrakis-redis"}
    assert given == {
        "api": back | {"arrakis-tokens", "arrakis-provider", "arrakis-outgoing"},
        "webhooks": back | {"arrakis-ipn"},
        "worker-payments": back | {"arrakis-provider"},
        "worker-ledger": back,
        "worker-maintenance": back | {"arrakis-provider", "arrakis-outgoing"},
        "beat": back,
        "flower": {"arrakis-redis", "arrakis-flower"},
        "migrate": {"arrakis-database"},
    }
    assert not of("Secret"), "no secret is in the repository"
    for one in of("ConfigMap").values():
        assert not [name for name in one["data"] if "SECRET" in name or "KEY" in name]


def test_probes_ask_what_the_services_answer() -> None:
    settings = load_settings(WebhookSettings, service_environment("sqlite://", "redis://nowhere"))
    receiver = create_app(settings, Database("sqlite:///unopened.db"))
    served = {
        "api": {rule.rule for rule in idle_app().url_map.iter_rules()},
        "webhooks": {rule.rule for rule in receiver.url_map.iter_rules()},
        "flower": {"/healthcheck"},
    }
    for name in DEPLOYMENTS:
        one = container(name)
        probes = {kind: one[kind]["httpGet"]["path"] for kind in one if kind.endswith("Probe")}
        assert "livenessProbe" in probes, name
        assert set(probes.values()) <= served.get(name, {"/metrics"}), name
    ready = {name: container(name)["readinessProbe"]["httpGet"]["path"] for name in served}
    assert ready["api"] == "/api/internal/health"
    assert ready["webhooks"] == "/health"
    assert container("api")["livenessProbe"]["httpGet"]["path"] == "/metrics", "needs no database"


def test_one_beat_lives_and_what_scales_may_lose_one() -> None:
    beat = DEPLOYMENTS["beat"]["spec"]
    assert (beat["replicas"], beat["strategy"]) == (1, {"type": "Recreate"})
    scaled = {"api", "webhooks"} | WORKERS
    assert of("PodDisruptionBudget").keys() == scaled
    assert of("HorizontalPodAutoscaler").keys() == scaled
    for name in scaled:
        assert "replicas" not in DEPLOYMENTS[name]["spec"], "the autoscaler says how many"
        budget = of("PodDisruptionBudget")[name]["spec"]
        assert budget["selector"]["matchLabels"] == {"app": name}
    for queue in QUEUES:
        [metric] = of("HorizontalPodAutoscaler")[f"worker-{queue}"]["spec"]["metrics"]
        wanted = metric["external"]["metric"]
        assert wanted["name"] == "arrakis_queue_lag_seconds"
        assert wanted["selector"]["matchLabels"] == {"queue": queue}
        command = container(f"worker-{queue}")["command"]
        assert command[command.index("-Q") + 1] == queue


def test_database_and_redis_are_reached_from_the_back_only() -> None:
    policies = of("NetworkPolicy")
    assert policies["deny-all"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    back = [{"podSelector": {"matchLabels": {"arrakis/back": "true"}}}]
    for name, port in (("postgres", 5432), ("redis", 6379)):
        [rule] = policies[name]["spec"]["ingress"]
        assert rule == {"from": back, "ports": [{"protocol": "TCP", "port": port}]}
    assert {name for name in RUNNING if "arrakis/back" in labels(name)} == set(RUNNING)
    outward = {name for name in RUNNING if "arrakis/internet" in labels(name)}
    assert outward == {"api", "worker-payments", "worker-maintenance"}


def test_the_public_reaches_the_api_and_the_notices_and_nothing_else() -> None:
    [ingress] = of("Ingress").values()
    reached = {
        (path["path"], path["pathType"], path["backend"]["service"]["name"])
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    }
    assert reached == {
        ("/api", "Prefix", "api"),
        ("/docs", "Exact", "api"),
        *((path, "Exact", "webhooks") for path in NOTICE_PATHS),
    }
    assert {rule["host"] for rule in ingress["spec"]["rules"]} == set(
        ingress["spec"]["tls"][0]["hosts"]
    )
    ports = {name: one["spec"]["ports"][0]["port"] for name, one in of("Service").items()}
    assert ports == {"api": 8000, "webhooks": 8001, "flower": 5555}
