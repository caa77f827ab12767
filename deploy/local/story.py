"""Driving a running system as its callers do, saying what happens, and checking it."""

import sys
import time
from collections.abc import Callable
from typing import Any

import jwt
import requests

from deploy.local.system import System

WAIT_SECONDS = 20.0
ACCOUNT = "acct-arrakeen"
DEBTOR = "acct-stilgar"


class WrongFigureError(Exception):
    """The system said something else than it should have."""


class Story:
    """Drives the running system, prints what happens and checks it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.checks = 0

    # Speaking and checking

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        print(f"\n{bold(title)}", flush=True)

    def say(self, text: str) -> None:
        """Tell what happened."""
        print(f"  {text}", flush=True)

    def check(self, what: str, found: object, expected: object) -> None:
        """Print *what* was found. Raises WrongFigureError unless it is what was expected."""
        self.require(what, found, expected)
        self.checks += 1
        print(f"  {green('✓')} {what}: {found}", flush=True)

    def require(self, what: str, found: object, expected: object) -> None:
        """Raise WrongFigureError unless *found* is what was *expected*; print nothing."""
        if found != expected:
            raise WrongFigureError(f"{what}: expected {expected!r}, found {found!r}")

    def wait_for(
        self,
        what: str,
        look: Callable[[], Any],
        expected: object,
        *,
        seconds: float = WAIT_SECONDS,
    ) -> None:
        """Look until *expected* is found, then check it; or until the time is up."""
        deadline = time.monotonic() + seconds
        while (found := look()) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(what, found, expected)

    # Acting as the callers do

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement of the runbook on the database."""
        return self.system.sql(statement)

    def post(
        self, path: str, body: dict[str, Any], *, kind: str = "s2s", subject: str = "demo"
    ) -> requests.Response:
        """POST to the API with a fresh token of *kind*; each *subject* has a rate limit."""
        headers = self._token(kind, subject)
        return requests.post(self.system.api + path, json=body, headers=headers, timeout=15)

    def get(self, path: str, *, kind: str = "s2s") -> Any:
        """GET from the API and return the body."""
        answer = requests.get(self.system.api + path, headers=self._token(kind), timeout=15)
        answer.raise_for_status()
        return answer.json()

    def simulate(self, path: str, body: dict[str, Any]) -> Any:
        """Make the provider's simulator do something, and wait until it has."""
        answer = requests.post(
            self.system.simulator + path, json={"wait": True, **body}, timeout=30
        )
        answer.raise_for_status()
        return answer.json()

    def balance(self) -> tuple[str, str]:
        """Return what the account has available and reserved, as its owner sees it."""
        body = self.get("/api/billing/balance", kind="member")
        return body["availableMicro"], body["reservedMicro"]

    def set_mode(self, mode: str) -> None:
        """Switch the mode by SQL, as the runbook does, and wait until the API obeys."""
        self.sql(f"UPDATE billing_config SET value = '{mode}' WHERE key = 'billing_mode'")
        self.say(f"UPDATE billing_config SET value = '{mode}' WHERE key = 'billing_mode';")

        def seen() -> str:
            held = self.post(
                "/api/internal/reserve", {"accountId": ACCOUNT, "estimatedCostMicro": "1"}
            ).json()
            self.post("/api/internal/release", {"reservationId": held["reservationId"]})
            return str(held["billingMode"])

        self.wait_for("the running API obeys within 5 s, mode", seen, mode)

    def _token(self, kind: str, subject: str = "demo") -> dict[str, str]:
        now = int(time.time())
        env = self.system.secrets
        kinds: dict[str, tuple[str, int, dict[str, Any]]] = {
            "s2s": (
                env["BILLING_INTERNAL_JWT_SECRET"],
                300,
                {"iss": "loa-finn", "aud": "arrakis-internal", "sub": subject},
            ),
            "admin": (
                env["BILLING_ADMIN_JWT_SECRET"],
                3600,
                {
                    "iss": "arrakis-admin",
                    "aud": "arrakis-billing-admin",
                    "sub": "demo-operator",
                    "scopes": ["billing:read", "billing:write"],
                },
            ),
            "member": (
                env["BILLING_MEMBER_JWT_SECRET"],
                3600,
                {"iss": "arrakis", "aud": "arrakis-billing", "sub": ACCOUNT},
            ),
        }
        secret, life, claims = kinds[kind]
        token = jwt.encode({**claims, "iat": now, "exp": now + life}, secret, algorithm="HS256")
        return {"Authorization": f"Bearer {token}"}


def colour(code: int, text: str) -> str:
    """Return *text* in an ANSI colour, on a terminal only."""
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def bold(text: str) -> str:
    """Return *text* in bold."""
    return colour(1, text)


def green(text: str) -> str:
    """Return *text* in green."""
    return colour(32, text)


def red(text: str) -> str:
    """Return *text* in red."""
    return colour(31, text)
