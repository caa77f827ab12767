"""Build every image, and look into it: what it holds, and as whom it runs."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from shared.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("api", "webhooks", "workers", "migrate", "flower", "simulator")
BASE = "docker.io/library/python:3.11-slim-bookworm"
PODMAN = ("podman", "--runtime=runc", "--cgroup-manager=cgroupfs")
BUILD_SECONDS = 900
# The folders of /app that an image may have, by image; each has `shared`.
FOLDERS = {
    "api": {"migrations", "services/api"},
    "webhooks": {"migrations", "services/webhooks"},
    "workers": {"migrations", "services/workers"},
    "migrate": {"migrations"},
    "flower": {"deploy"},
    "simulator": {"deploy/simulator"},
}
FOREIGN = {"pip", "setuptools", "wheel", "pytest", "ruff", "mypy", "hypothesis", "uv", "supervisor"}
LOOK = """
import importlib.metadata as m, json, os, pathlib, shutil
app = pathlib.Path("/app")
try:
    pathlib.Path("/app/x").write_text("x")
    is_writable = True
except OSError:
    is_writable = False
print(json.dumps({
    "folders": sorted({str(p.parent.relative_to(app)) for p in app.rglob("*.py")}),
    "packages": sorted({d.metadata["Name"].lower() for d in m.distributions()}),
    "uid": os.getuid(),
    "is_writable": is_writable,
    "tools": [one for one in ("gcc", "cc", "make", "pip", "git", "uv") if shutil.which(one)],
}))
"""


class VerificationError(Exception):
    """Something is not as it should be; the message says what."""


def run(*command: str, seconds: int = 60) -> str:
    """Run *command* and return its output. Raises VerificationError with its last lines."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise VerificationError(f"`{' '.join(command[:6])} …` exited {done.returncode}:\n{tail}")
    return done.stdout


def require(what: str, found: object, expected: object) -> None:
    """Raise VerificationError unless *found* is what was *expected*."""
    if found != expected:
        raise VerificationError(f"{what}: expected {expected!r}, found {found!r}")


def reference(image: str) -> str:
    """Return the name under which *image* is built here."""
    return f"localhost/arrakis-billing-{image}:{VERSION}"


def prepare_base() -> str:
    """Have the base image: as it is here, pulled, or made by debootstrap; return which."""
    if not subprocess.run([*PODMAN, "image", "exists", BASE], check=False).returncode:
        return "found"
    pulled = subprocess.run(
        [*PODMAN, "pull", "--quiet", BASE], capture_output=True, timeout=300, check=False
    )
    if not pulled.returncode:
        return "pulled"
    with tempfile.TemporaryDirectory(prefix="arrakis-base-") as folder:
        root = Path(folder) / "root"
        packages = "--include=python3,python3-venv,ca-certificates"
        mirror = [one for one in (os.environ.get("DEBOOTSTRAP_MIRROR"),) if one]
        run(
            *("debootstrap", "--variant=minbase", packages, "bookworm", str(root), *mirror),
            seconds=BUILD_SECONDS,
        )
        _arrange_as_the_official_one(root)
        archive = Path(folder) / "root.tar"
        run("tar", "-C", str(root), "-cf", str(archive), ".", seconds=300)
        run(*PODMAN, "import", str(archive), BASE, seconds=300)
    return "made by debootstrap"


def _arrange_as_the_official_one(root: Path) -> None:
    """Put Python and pip where the official image has them."""
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    site = root / "usr/local/lib/python3.11/site-packages"
    site.mkdir(parents=True)
    for wheel in (root / "usr/share/python-wheels").glob("*.whl"):
        shutil.unpack_archive(wheel, site, format="zip")
    (root / "usr/lib/python3/dist-packages/local.pth").write_text(
        "/usr/local/lib/python3.11/site-packages\n"
    )
    for folder in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / folder, ignore_errors=True)


def build(image: str) -> None:
    """Build *image*; pip's own settings and authorities of this machine go in as secrets."""
    with tempfile.TemporaryDirectory(prefix="arrakis-build-") as folder:
        secrets = []
        authorities = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
        index = os.environ.get("PIP_INDEX_URL")
        lines = ["[global]"]
        if authorities:
            lines.append("cert = /etc/pip-authorities.crt")
            secrets.append(f"--secret=id=authorities,src={authorities}")
        if index:
            lines.append(f"index-url = {index}")
        settings = Path(folder) / "pip.conf"
        settings.write_text("\n".join(lines) + "\n")
        run(
            *("buildah", "bud", "--layers", "--isolation=chroot", "--network=host"),
            *("--format=docker", f"--secret=id=pip_conf,src={settings}", *secrets),
            *("--build-arg", f"SERVICE={image}", "--build-arg", f"VERSION={VERSION}"),
            *("--tag", reference(image), "--file", "deploy/Dockerfile", "."),
            seconds=BUILD_SECONDS,
        )


def inspect(image: str) -> int:
    """Check what *image* says of itself and what is in it; return its size in bytes."""
    (facts,) = json.loads(run(*PODMAN, "image", "inspect", reference(image)))
    config = facts["Config"]
    require(f"{image} runs as", config["User"], "10001:10001")
    require(f"{image} is stopped by", config["StopSignal"], "SIGTERM")
    labels = config["Labels"]
    require(f"{image} has the version", labels["org.opencontainers.image.version"], VERSION)
    if not facts.get("Healthcheck") and not config.get("Healthcheck"):
        raise VerificationError(f"{image} has no health check.")
    found = json.loads(run(*PODMAN, *HARDENED, reference(image), "python", "-c", LOOK))
    own = FOLDERS[image]
    others = {
        folder
        for folder in found["folders"]
        if folder not in {".", "services", "deploy", *own}
        and not folder.startswith(("shared", *(f"{one}/" for one in own)))
    }
    require(f"{image} holds code of others", others, set())
    require(f"{image} lacks of its own code", own - set(found["folders"]), set())
    require(f"{image} has packages of builders", FOREIGN & set(found["packages"]), set())
    require(f"{image} has build tools", found["tools"], [])
    require(f"{image} runs as", found["uid"], 10001)
    require(f"{image} can write to its root", found["is_writable"], expected=False)
    if image not in ("flower", "simulator"):
        command = run(*PODMAN, *HARDENED, reference(image), "arrakis", "--version")
        require(f"{image}: arrakis", command.strip(), f"arrakis, version {VERSION}")
    return int(facts["Size"])


# Host network and lower limits: what a nested machine without systemd allows.
HARDENED = (
    *("run", "--rm", "--network=host", "--no-healthcheck"),
    *("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"),
    *("--read-only", "--read-only-tmpfs=false", "--cap-drop=all"),
    *("--security-opt", "no-new-privileges"),
)
