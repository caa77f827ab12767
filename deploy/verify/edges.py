"""What the demo's story leaves out: the edges of the containers, and that they heal."""

import secrets
import time
from pathlib import Path

import requests

from deploy.env import SIGNING_BYTES
from deploy.local.story import ACCOUNT, Story
from deploy.verify.containers import Containers
from deploy.verify.images import VerificationError, require
from deploy.verify.system import API, FLOWER, RECEIVER
from shared.messaging import QUEUES

_SEEN_SECONDS = 20.0
_SAMPLE = "arrakis_http_requests_total"
_DUMP = "/backups/verify.dump"


def check_front_matters() -> None:
    """Metrics, and whom a forwarded address comes from."""
    for url in (API, RECEIVER):
        if _SAMPLE not in requests.get(f"{url}/metrics", timeout=10).text:
            raise VerificationError(f"{url}/metrics lacks {_SAMPLE}.")
    left = [
        requests.get(
            f"{API}/docs", headers={"X-Forwarded-For": f"192.0.2.{last}"}, timeout=10
        ).headers["RateLimit-Remaining"]
        for last in (1, 1, 2)
    ]
    require("what the public limit leaves two callers", left, ["99", "98", "99"])


def check_flower(authentication: str) -> list[str]:
    """Flower asks who it is, shows the workers, and changes nothing; return their names."""
    name, _, password = authentication.partition(":")
    require("Flower without a name", requests.get(FLOWER, timeout=10).status_code, 401)
    who = (name, password)
    require("Flower", requests.get(FLOWER, auth=who, timeout=10).status_code, 200)
    deadline = time.monotonic() + _SEEN_SECONDS
    while len(found := _workers_seen(who)) < len(QUEUES):
        if time.monotonic() > deadline:
            raise VerificationError(f"Flower sees only {found}.")
        time.sleep(1)
    stop = f"{FLOWER}/api/worker/shutdown/{min(found)}"
    require("shutdown by Flower", requests.post(stop, auth=who, timeout=10).status_code, 403)
    return found


def _workers_seen(who: tuple[str, str]) -> list[str]:
    rows = requests.get(f"{FLOWER}/workers?json=1", auth=who, timeout=30).json()["data"]
    return sorted(row["hostname"] for row in rows if row["status"])


def pay_again(story: Story, expected: str) -> None:
    """Pay another 25 dollars, as after the kills everything must work as before."""
    body = {"accountId": ACCOUNT, "amountUsd": "25.00", "payCurrency": "btc"}
    made = story.post("/api/internal/payments", body)
    story.require("POST /api/internal/payments", made.status_code, 201)
    path = f"/payments/{made.json()['providerPaymentId']}/scenario"
    story.simulate(path, {"name": "finished-twice"})
    story.wait_for("paid again after all that: available", lambda: story.balance()[0], expected)


def check_operator(containers: Containers) -> str:
    """Verify the ledger, back it up and try the backup; return what was said."""
    commands = (("ledger", "verify"), ("backup", _DUMP), ("restore", "--verify", _DUMP))
    return "".join(containers.once("operator", *command) for command in commands)


def rotate_tokens_secret(containers: Containers, folder: Path) -> None:
    """Rotate the secret of services' tokens as docs/security.md says, with an overlap."""
    current = folder / "billing_internal_jwt_secret"
    previous = folder / "billing_internal_jwt_secret_prev"
    old = containers.once("operator", "token", "s2s").strip()
    _write(previous, current.read_text())
    _write(current, secrets.token_urlsafe(SIGNING_BYTES))
    containers.recreate("api")
    new = containers.once("operator", "token", "s2s").strip()
    require("old and new token in the overlap", [_asked(old), _asked(new)], [200, 200])
    _write(previous, "")
    containers.recreate("api")
    require("old and new token after it", [_asked(old), _asked(new)], [401, 200])


def _write(secret: Path, text: str) -> None:
    secret.unlink()
    secret.write_text(text)


def _asked(token: str) -> int:
    """Ask for a balance with *token*; return the status of the answer."""
    url = f"{API}/api/internal/accounts/{ACCOUNT}/balance"
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(url, headers=headers, timeout=10).status_code
