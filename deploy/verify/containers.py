"""Run the services of docker-compose.yml with podman: same image, command, files and limits.

What differs is the network, which is the host's, and so the addresses of servers.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy.local.ready import http_ready, wait_until
from deploy.verify.images import HARDENED, PODMAN, ROOT, VerificationError, reference, run
from shared.version import VERSION

PREFIX = "arrakis-verify-"
START_SECONDS = 60.0


class Containers:
    """The containers of one verification; closing it removes every one of them."""

    def __init__(self, secrets: Path, addresses: Mapping[str, str]) -> None:
        self._secrets = secrets
        self._addresses = dict(addresses)
        self._probes: dict[str, str] = {}
        compose: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        self._services: dict[str, dict[str, Any]] = compose["services"]

    def close(self) -> None:
        """Remove what was started, and the volumes."""
        for name in self._probes:
            run(*PODMAN, "rm", "--force", "--time=0", "--ignore", PREFIX + name)
        for volume in _volumes(self._services):
            run(*PODMAN, "volume", "rm", "--force", PREFIX + volume)

    def once(self, name: str, *command: str) -> str:
        """Run *command* in the service *name*, and return what it printed."""
        return run(*self._once(name, command))

    def ask(self, name: str, *command: str) -> tuple[str, int]:
        """Run *command* in the service *name*; return what it printed, and its exit status."""
        done = subprocess.run(
            self._once(name, command), capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout, done.returncode

    def _once(self, name: str, command: tuple[str, ...]) -> list[str]:
        words = command or self._services[name]["command"]
        options = [*HARDENED, *self._options(name), reference(self._image(name))]
        return [*PODMAN, *options, *words]

    def start(self, name: str, probe: str, **environment: str) -> float:
        """Start the service *name*; return the seconds until *probe* is answered with 200."""
        one = self._services[name]
        self._probes[name] = probe
        options = [word for word in HARDENED if word != "--rm"]
        own = {**environment, "PROBE": probe}
        began = time.monotonic()
        run(
            *(*PODMAN, *options, "--detach", "--restart=always", "--name", PREFIX + name),
            *(*self._options(name, own), reference(self._image(name)), *one.get("command", ())),
        )
        self.wait_for(name)
        return time.monotonic() - began

    def recreate(self, name: str) -> None:
        """Stop *name* and start it anew, as ``docker compose up --force-recreate`` does."""
        self.stop(name)
        run(*PODMAN, "rm", PREFIX + name)
        self.start(name, self._probes[name])

    def wait_for(self, name: str) -> None:
        """Wait until *name* answers its probe. Raises VerificationError with its last words."""
        reason = wait_until(http_ready(self._probes[name]), timeout_seconds=START_SECONDS)
        if reason is not None:
            raise VerificationError(f"{name} does not answer: {reason}\n{self.logs(name)}")

    def strike(self, name: str) -> int:
        """SIGKILL the first process of *name*; return its process id."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self, name: str) -> float:
        """SIGKILL the first process of *name*; return the seconds until it answers again."""
        began = time.monotonic()
        before = self.strike(name)
        deadline = began + START_SECONDS
        while self.pid(name) in (0, before):
            if time.monotonic() > deadline:
                raise VerificationError(f"{name} was not started again.")
            time.sleep(0.1)
        self.wait_for(name)
        return time.monotonic() - began

    def stop(self, name: str) -> tuple[float, int]:
        """Stop *name* with its own signal and grace; return the seconds, and its exit code."""
        grace = self._services[name]["stop_grace_period"].removesuffix("s")
        began = time.monotonic()
        run(*PODMAN, "stop", f"--time={grace}", PREFIX + name, seconds=90)
        seconds = time.monotonic() - began
        return seconds, int(self._state(name)["ExitCode"])

    def pid(self, name: str) -> int:
        """Return the process id of the first process of *name*, 0 while there is none."""
        return int(self._state(name)["Pid"])

    def logs(self, name: str) -> str:
        """Return the last lines that *name* printed."""
        command = [*PODMAN, "logs", "--tail=20", PREFIX + name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout + done.stderr

    def _state(self, name: str) -> dict[str, Any]:
        (facts,) = json.loads(run(*PODMAN, "inspect", PREFIX + name))
        state: dict[str, Any] = facts["State"]
        return state

    def _image(self, name: str) -> str:
        return str(self._services[name]["build"]["args"]["SERVICE"])

    def _options(self, name: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """Return the options of podman that say what docker-compose.yml says of *name*."""
        one = self._services[name]
        limits = one["deploy"]["resources"]["limits"]
        values = {key: _default(str(value)) for key, value in one["environment"].items()}
        here = {key: value for key, value in self._addresses.items() if key in values}
        values |= here | dict(environment or {})
        options = [f"--user={one['user']}", f"--cpus={limits['cpus']}"]
        options += [f"--memory={limits['memory']}", f"--pids-limit={limits['pids']}"]
        options += [f"--env={key}={value}" for key, value in values.items()]
        options += [f"--tmpfs={mount}" for mount in one["tmpfs"]]
        options += [f"--volume={PREFIX}{volume}" for volume in one.get("volumes", ())]
        options += [f"--entrypoint={word}" for word in one.get("entrypoint", ())]
        options += ["--init"] if one["init"] else []
        return options + [
            f"--volume={self._secrets / secret}:/run/secrets/{secret}:ro"
            for secret in one["secrets"]
        ]


def _volumes(services: Mapping[str, Any]) -> set[str]:
    """Return the names of the volumes of our services."""
    ours = [one for one in services.values() if "build" in one]
    return {volume.partition(":")[0] for one in ours for volume in one.get("volumes", ())}


def _default(value: str) -> str:
    """Return what compose makes of ``${NAME:-default}`` if NAME is not set."""
    return re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value).replace("latest", VERSION)
