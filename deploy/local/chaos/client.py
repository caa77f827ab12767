"""Calling the system as its real clients do: the same request again until it is answered.

A 5xx, a refused connection and a broken one all mean "unknown"; the key makes a repeat safe.
"""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jwt
import requests

from deploy.local.chaos.journal import Journal

ATTEMPT_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
_LONGEST_PAUSE_SECONDS = 2.0
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
_CALLS_OF_A_SUBJECT = 20  # below the smallest limit of one caller in a minute


class GaveUpError(Exception):
    """No answer came in all the time that a client is patient for."""


class StoppedError(Exception):
    """The run was interrupted."""


@dataclass(frozen=True)
class Answer:
    """The first definite answer to a request."""

    status: int
    text: str
    headers: Mapping[str, str]
    attempts: int

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in it."""
        found: dict[str, Any] = json.loads(self.text)
        return found


@dataclass(frozen=True)
class Call:
    """One request, whatever becomes of it."""

    kind: str
    method: str
    path: str
    body: Mapping[str, Any] | None
    headers: Mapping[str, str]
    caller: str
    final_code: str = ""

    def is_answered(self, told: Answer) -> bool:
        """Say whether *told* is definite: a client that knows no more sends the same again."""
        if self.final_code and self.final_code in told.text:
            return True
        return 0 < told.status < 500 and told.status != 429


class Client:
    """One caller: a thread with connections of its own."""

    def __init__(
        self,
        *,
        name: str,
        urls: Mapping[str, str],
        secrets: Mapping[str, str],
        journal: Journal,
        interrupted: threading.Event,
    ) -> None:
        self.name = name
        self.journal = journal
        self.interrupted = interrupted
        self._urls = urls
        self._secrets = secrets
        self._session = requests.Session()
        self._session.trust_env = False
        self._calls = 0

    def unique(self) -> str:
        """Return a number that no other call of this run has."""
        self._calls += 1
        return f"{self.name}-{self._calls}"

    def post(
        self,
        kind: str,
        path: str,
        body: Mapping[str, Any],
        *,
        key: str | None = None,
        caller: str = "s2s",
        headers: Mapping[str, str] | None = None,
        final_code: str = "",
    ) -> Answer:
        """POST to the API until it says something definite. Raises GaveUpError, StoppedError.

        An error with *final_code* is definite too.
        """
        wanted = {**(headers or {}), **({"Idempotency-Key": key} if key else {})}
        call = Call(kind, "POST", path, body, wanted, caller, final_code)
        return self._until_answered(call)

    def get(self, kind: str, path: str, *, caller: str = "s2s") -> Answer:
        """GET from the API, as patiently."""
        return self._until_answered(Call(kind, "GET", path, None, {}, caller))

    def simulate(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the simulator's control API; nobody kills it, so it answers at once."""
        answer = self._session.post(f"{self._urls['simulator']}/sim{path}", json=body, timeout=120)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def look(self, path: str) -> dict[str, Any]:
        """Look at something of the simulator's."""
        answer = self._session.get(f"{self._urls['simulator']}/sim{path}", timeout=ATTEMPT_SECONDS)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def provider(self, path: str, body: Mapping[str, Any]) -> requests.Response:
        """Ask the provider itself, once, as somebody else than our system would."""
        headers = {"x-api-key": self._secrets["NOWPAYMENTS_API_KEY"]}
        url = f"{self._urls['simulator']}/v1{path}"
        return self._session.post(url, json=body, headers=headers, timeout=ATTEMPT_SECONDS)

    def pause(self, seconds: float) -> None:
        """Do nothing for a while. Raises StoppedError."""
        if self.interrupted.wait(seconds):
            raise StoppedError

    def _until_answered(self, call: "Call") -> Answer:
        began, failed_at = self.journal.seconds(), None
        tries: list[tuple[float, int, str]] = []
        while True:
            told = self._attempt(call)
            now = self.journal.seconds()
            tries.append((round(now, 3), told.status, "" if told.status else told.text))
            is_definite = call.is_answered(told)
            if not is_definite and now - began <= PATIENCE_SECONDS:
                failed_at = now if failed_at is None else failed_at
                self.pause(_pause(told, len(tries)))
                continue
            self.journal.request(
                {**vars(call), "at": round(began, 3), "tries": tries, "answer": told.text},
                outage_seconds=0.0 if failed_at is None else now - failed_at,
                attempts=len(tries),
            )
            if is_definite:
                return replace(told, attempts=len(tries))
            raise GaveUpError(f"{call.kind} {call.body}: {told} after {now - began:.0f} s")

    def _attempt(self, call: "Call") -> Answer:
        """Send *call* once; without an answer the status is 0."""
        try:
            told = self._session.request(
                call.method,
                f"{self._urls['api']}{call.path}",
                json=call.body,
                headers={**call.headers, **self._token(call.caller)},
                timeout=ATTEMPT_SECONDS,
            )
        except requests.RequestException as error:
            return Answer(0, type(error).__name__, {}, 1)
        return Answer(told.status_code, told.text, told.headers, 1)

    def _token(self, caller: str) -> dict[str, str]:
        """Return a fresh token, as the real client makes one for each attempt.

        *caller* is ``s2s``, ``admin``, or the account of a member.
        """
        self._calls += 1
        now, secrets = int(time.time()), self._secrets
        subject = f"{self.name}-{self._calls // _CALLS_OF_A_SUBJECT}"
        claims: dict[str, Any]
        if caller == "s2s":
            secret, life = secrets["BILLING_INTERNAL_JWT_SECRET"], 300
            claims = {"iss": "loa-finn", "aud": "arrakis-internal", "sub": subject}
        elif caller == "admin":
            secret, life = secrets["BILLING_ADMIN_JWT_SECRET"], 3600
            claims = {"iss": "arrakis-admin", "aud": "arrakis-billing-admin", "sub": subject}
            claims["scopes"] = ["billing:read", "billing:write"]
        else:
            secret, life = secrets["BILLING_MEMBER_JWT_SECRET"], 3600
            claims = {"iss": "arrakis", "aud": "arrakis-billing", "sub": caller}
        token = jwt.encode({**claims, "iat": now, "exp": now + life}, secret, algorithm="HS256")
        return {"Authorization": f"Bearer {token}"}


def _pause(told: Answer, tries: int) -> float:
    """Return how long to wait before the next try: a little longer each time, or as asked."""
    asked = float(told.headers.get("Retry-After", 0.0))
    return max(_PAUSES[min(tries, len(_PAUSES)) - 1], min(asked, _LONGEST_PAUSE_SECONDS))
