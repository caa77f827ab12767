"""A short story of money, told to the containers as callers, the provider and operators would."""

import time
from collections.abc import Callable
from typing import Any

import requests

from deploy.verify.containers import Containers
from deploy.verify.images import VerificationError, require
from shared.messaging import QUEUES

API, RECEIVER = "http://127.0.0.1:8000", "http://127.0.0.1:8001"
SIMULATOR, FLOWER = "http://127.0.0.1:8100", "http://127.0.0.1:5555"
ANSWER_SECONDS = 20.0
ACCOUNT = "acct-verify"
_SAMPLE = "arrakis_http_requests_total"


class Story:
    """Drives the running containers; every figure is checked."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._tokens: dict[str, str] = {}

    def open_account(self) -> None:
        """Make tokens as an operator does, and the account; turn charging on."""
        for kind in ("admin", "s2s"):
            self._tokens[kind] = self._containers.once("migrate", "arrakis", "token", kind).strip()
        body = {"entityType": "community", "entityId": "verify", "accountId": ACCOUNT}
        require("account", self.post("/admin/billing/accounts", body, "admin").status_code, 201)
        self._containers.once(
            "migrate", *("arrakis", "mode", "set", "live"),
            *("--force", "--yes", "--reason", "verification of the containers"),
        )  # fmt: skip
        self.eventually("mode", self._mode, "live")

    def pay(self, expected_micro: str) -> float:
        """Pay 25 dollars; return the seconds from the last notice to the credit."""
        body = {"accountId": ACCOUNT, "amountUsd": "25.00", "payCurrency": "btc"}
        made = self.post("/api/internal/payments", body)
        require("payment", made.status_code, 201)
        number = made.json()["providerPaymentId"]
        played = requests.post(
            f"{SIMULATOR}/sim/payments/{number}/scenario",
            json={"name": "finished-twice", "wait": True},
            timeout=60,
        ).json()
        statuses = {one["http_status"] for one in played["deliveries"]}
        require("answers to notices", statuses, {200})
        began = time.monotonic()
        self.eventually("balance after the payment", self.available, expected_micro)
        return time.monotonic() - began

    def spend(self) -> None:
        """Hold two dollars, use 1.20, and do it again: the same answer."""
        body = {"accountId": ACCOUNT, "estimatedCostMicro": "2000000"}
        held = self.post("/api/internal/reserve", body).json()
        require("held", held["reservedMicro"], "2000000")
        done = {"reservationId": held["reservationId"], "actualCostMicro": "1200000"}
        first, again = (self.post("/api/internal/finalize", done) for _ in range(2))
        require("charged", first.json()["finalizedMicro"], "1200000")
        require("the repeat", (again.status_code, again.json()), (200, first.json()))
        require("balance", self.available(), "23800000")

    def check_front_matters(self) -> None:
        """Metrics, the version, Flower's door, and whom a forwarded address comes from."""
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

    def check_flower(self, authentication: str) -> list[str]:
        """Flower asks who it is, shows the workers, and changes nothing; return their names."""
        name, _, password = authentication.partition(":")
        require("Flower without a name", requests.get(FLOWER, timeout=10).status_code, 401)
        who = (name, password)
        require("Flower", requests.get(FLOWER, auth=who, timeout=10).status_code, 200)
        url = f"{FLOWER}/workers?json=1"
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(found := self._workers_seen(url, who)) < len(QUEUES):
            if time.monotonic() > deadline:
                raise VerificationError(f"Flower sees only {found}.")
            time.sleep(1)
        worker = min(found)
        stop = f"{FLOWER}/api/worker/shutdown/{worker}"
        require("shutdown by Flower", requests.post(stop, auth=who, timeout=10).status_code, 403)
        return found

    def _workers_seen(self, url: str, who: tuple[str, str]) -> list[str]:
        rows = requests.get(url, auth=who, timeout=30).json()["data"]
        return sorted(row["hostname"] for row in rows if row["status"])

    def check_books(self) -> str:
        """Verify the ledger in a container, as an operator does; return what it says."""
        return self._containers.once("migrate", "arrakis", "ledger", "verify").strip()

    def available(self) -> str:
        """Return what the account has available, "" while the API does not answer."""
        try:
            answer = requests.get(
                f"{API}/api/internal/accounts/{ACCOUNT}/balance",
                headers=self._headers("s2s"),
                timeout=10,
            )
        except requests.ConnectionError:
            return ""
        return str(answer.json().get("availableMicro", ""))

    def eventually(self, what: str, look: Callable[[], str], expected: str) -> None:
        """Look until *expected* is found. Raises VerificationError if it is not in time."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while (found := look()) != expected and time.monotonic() < deadline:
            time.sleep(0.1)
        require(what, found, expected)

    def post(self, path: str, body: dict[str, Any], kind: str = "s2s") -> requests.Response:
        """POST to the API as *kind* of caller."""
        return requests.post(API + path, json=body, headers=self._headers(kind), timeout=30)

    def _mode(self) -> str:
        answer = requests.get(
            f"{API}/admin/billing/mode", headers=self._headers("admin"), timeout=10
        )
        return str(answer.json()["mode"])

    def _headers(self, kind: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[kind]}"}
