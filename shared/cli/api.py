"""The admin API of a running service as the commands call it: one request, in time, told plainly.

Refusals come back as the errors that the operations raise, so exit codes are the same.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import click
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import NewConnectionError

from shared.cli.desk import Answer, Call, Facts
from shared.errors import (
    ArrakisError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
)

_BASE = "/admin/billing"
_CONNECT_SECONDS, _ANSWER_SECONDS = 5, 60
_TRIES = 3
# How long one waits when told to: limits end within a minute, an outage may not.
_WAIT_MAX_SECONDS = {429: 61, 502: 5, 503: 5, 504: 5}
_TOO_MANY, _FAILED, _TEMPORARY = 429, 500, (429, 502, 503, 504)
_THIS_HOST = ("127.0.0.1", "::1", "localhost")
_OF_MONEY = ("budget_exceeded", "cap_exceeded")
_KINDS: dict[int, type[ArrakisError]] = {
    402: Refused,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}


class Api:
    """The admin API at *url*. *token* returns the bearer's token, asked for when it is needed."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
            raise click.UsageError("--api is an address as https://billing.example.com.")
        if parts.scheme == "http" and parts.hostname not in _THIS_HOST:
            raise click.UsageError(
                "--api must be https: by http everybody on the way can read the admin's token. "
                "http is for this host only (127.0.0.1, ::1, localhost)."
            )
        self._url = url.rstrip("/")
        self._token = token
        self._sleep = sleep
        self._session = requests.Session()
        self._session.trust_env = parts.scheme == "https"  # no proxy reads the token in plain
        self._session.mount(self._url, HTTPAdapter(max_retries=0))

    def read(self, call: Call, look: object) -> Facts:
        """Return what the API tells."""
        return self._ask(call).facts

    def change(self, call: Call, act: object) -> Answer:
        """Have it done by the API. Raises its refusal."""
        return self._ask(call)

    def work(self, call: Call, do: object) -> Answer:
        """Have it done by the API. Raises its refusal."""
        return self._ask(call)

    def _ask(self, call: Call) -> Answer:
        key = call.key or str(uuid4())
        for is_last in (False,) * (_TRIES - 1) + (True,):
            try:
                answer = self._send(call, key)
            except requests.RequestException as error:
                self._give_up_or_wait(call, error, is_last=is_last)
                continue
            wait = self._wait_seconds(call, answer)
            if is_last or wait is None:
                return self._read(call, answer)
            self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _send(self, call: Call, key: str) -> requests.Response:
        if {"", ".", ".."} & set(call.path):
            raise NotFound("There is nothing of this name.", code="not_found")
        path = "/".join(quote(part, safe="") for part in call.path)
        headers = {} if call.method == "GET" else {"Idempotency-Key": key}
        if call.wait_seconds:
            headers["Prefer"] = f"wait={call.wait_seconds}"
        content: dict[str, Any] = {}
        if isinstance(call.body, bytes):
            headers["Content-Type"], content["data"] = "text/csv", call.body
        elif call.body is not None:
            content["json"] = {n: value for n, value in call.body.items() if value is not None}
        return self._session.request(
            call.method,
            f"{self._url}{_BASE}/{path}",
            params={name: value for name, value in call.query.items() if value is not None},
            headers=headers,
            auth=self._authorize,
            timeout=(_CONNECT_SECONDS, _ANSWER_SECONDS),
            allow_redirects=False,
            **content,
        )

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # As the request's own authentication: a header would give way to a .netrc.
        request.headers["Authorization"] = f"Bearer {self._token()}"
        return request

    def _give_up_or_wait(
        self, call: Call, error: requests.RequestException, *, is_last: bool
    ) -> None:
        """Raise, unless the request may be sent once more although its outcome is unknown."""
        if isinstance(error, ValueError):  # of the address: an InvalidURL and its like
            raise Invalid(f"{self._url} is not an address.", code="not_an_api") from error
        if isinstance(error, requests.ConnectTimeout | requests.exceptions.SSLError) or _is_unsent(
            error
        ):
            raise Unavailable(
                f"The API at {self._url} cannot be reached ({_cause(error)}).",
                code="api_unavailable",
            ) from error
        if not call.is_repeatable:
            raise _outcome_unknown(_cause(error)) from error
        if is_last:
            raise Unavailable(
                f"The API at {self._url} does not answer ({_cause(error)}).",
                code="api_unavailable",
            ) from error
        self._sleep(1)

    def _wait_seconds(self, call: Call, answer: requests.Response) -> float | None:
        """Return how long to wait before the same request, None if the answer is the answer."""
        status = answer.status_code
        if status not in _TEMPORARY or (status != _TOO_MANY and not call.is_repeatable):
            return None
        told = answer.headers.get("Retry-After", "1")
        wait = int(told) if told.isascii() and told.isdigit() else 1
        return wait if wait <= _WAIT_MAX_SECONDS[status] else None

    def _read(self, call: Call, answer: requests.Response) -> Answer:
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.ok and isinstance(body, dict):
            return Answer(body, is_replay=answer.headers.get("Idempotent-Replay") == "true")
        if answer.status_code >= _FAILED and not call.is_repeatable:
            raise _outcome_unknown(f"status {answer.status_code}")
        if not isinstance(body, dict) or "code" not in body:
            if answer.status_code >= _FAILED:  # a proxy's page, or a server that fails
                raise Unavailable(
                    f"The API at {self._url} fails (status {answer.status_code}). Try again later.",
                    code="api_unavailable",
                )
            raise Invalid(
                f"What answers at {self._url} is not the admin API (status {answer.status_code}).",
                code="not_an_api",
            )
        raise _refusal(answer.status_code, body)


def _refusal(status: int, body: dict[str, Any]) -> ArrakisError:
    """Return the error that the API was told of by its operation."""
    code, message = str(body["code"]), str(body.get("message") or body.get("error"))
    details = body.get("details")
    facts = details if isinstance(details, dict) else None
    if status == 401:  # noqa: PLR2004  it says no more, on purpose
        message = "The API refuses the token; `arrakis token admin` makes one for an hour."
    kind = Refused if code in _OF_MONEY else _KINDS.get(status, Invalid)
    if status == _TOO_MANY or status >= _FAILED:  # the server's own
        kind = Unavailable
    return kind(message, code=code, details=facts)


def _outcome_unknown(cause: str) -> Unavailable:
    """Return what is said of a request that may have been done, and must not be done twice."""
    return Unavailable(
        f"The API did not tell whether it was done ({cause}), so nobody knows: look before you "
        "send it again.",
        code="outcome_unknown",
    )


def _is_unsent(error: requests.RequestException) -> bool:
    """Tell whether the request never left: nobody listens there, or the name is unknown."""
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", None), NewConnectionError)


def _cause(error: requests.RequestException) -> str:
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    return type(cause or error).__name__


def token_from(settings_token: str, file: Path | None) -> str:
    """Return the admin's token out of *file*, else the setting. Raises a usage error."""
    token = settings_token
    if file is not None:
        try:
            token = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--token-file cannot be read: {error}") from error
    token = token.strip()
    if not token:
        raise click.UsageError(
            "Over an API a token is needed, as `arrakis token admin` makes it: set "
            "ARRAKIS_API_TOKEN or name its --token-file."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError("What is given as the token is no token.")
    return token
