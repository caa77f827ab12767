"""What a route works with: the collaborators, the caller, the parsed request, the answer."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Response, current_app, g, request
from limits import RateLimitItem

from services.api.auth import Caller, Revocations, TokenPolicy, authenticate
from services.api.correlation import touch
from services.api.errors import MalformedBody, TooManyRequests, Unprocessable
from services.api.limits import RateLimiter
from services.api.schemas.fields import Request
from shared.balance_cache import BalanceCache
from shared.compact import compact
from shared.config import ApiSettings
from shared.database import Database
from shared.errors import Forbidden, Invalid, NotFound, Unavailable
from shared.ledger.commands import Outcome
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from shared.operations.audit import Actor
from shared.payments.intake import Intake
from shared.payments.quotes import Cashier
from shared.wsgi import read_body, served

BODY_MAX_BYTES = 1024 * 1024
BATCH_MAX_BYTES = 4 * BODY_MAX_BYTES  # 500 operations with all the metadata that each may have
_PROTOCOL_LOWEST, _PROTOCOL_BELOW = 6, 9
_KEY_MAX_CHARACTERS = 255
_ID_MAX_CHARACTERS = 128

R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Services:
    """The collaborators of the API."""

    settings: ApiSettings
    database: Database
    terms: TermsCache
    executor: Executor
    limiter: RateLimiter
    policies: Mapping[str, TokenPolicy]
    revocations: Revocations
    intake: Intake
    cashier: Cashier
    balances: BalanceCache


def services() -> Services:
    """Return the collaborators of the app that serves this request."""
    found: Services = current_app.extensions["arrakis"]
    return found


def caller() -> Caller:
    """Return who calls, after :func:`guard` let them in."""
    found: Caller = g.caller
    return found


def actor() -> Actor:
    """Return the admin who calls, as the audit log names them."""
    return Actor(
        "admin",
        caller().subject,
        address=request.remote_addr,
        user_agent=request.headers.get("User-Agent", "")[:200],
        correlation_id=served().correlation_id,
    )


def guard(kind: str, limit: RateLimitItem) -> Callable[[], None]:
    """Return the checks in front of the routes of one kind of caller, in the contract's order:
    feature 503, token 401, rate 429."""

    def check() -> None:
        require_feature()
        ours, authorization = services(), request.headers.get("Authorization")
        who = g.caller = authenticate(ours.policies[kind], authorization, ours.revocations)
        count(limit, kind, who.issuer, who.subject)
        _require_ids()

    return check


def _require_ids() -> None:
    """Raise NotFound if the path names what can be no id: too long, or not to be stored (NUL)."""
    for value in (request.view_args or {}).values():
        if len(value) > _ID_MAX_CHARACTERS or not value.isprintable():
            raise NotFound("There is nothing of this name.", code="not_found")


def require_feature() -> None:
    """Raise Unavailable while billing is switched off."""
    if not services().settings.is_billing_enabled:
        raise Unavailable(
            "Billing is not enabled: FEATURE_BILLING_ENABLED is not true.",
            code="billing_not_enabled",
            retry_after_seconds=60,
        )


def count(limit: RateLimitItem, *who: str) -> None:
    """Count this request against *limit*. Raises TooManyRequests."""
    allowance = services().limiter.hit(limit, *who)
    served().headers = allowance.headers()
    if not allowance.is_allowed:
        raise TooManyRequests(
            f"More than {allowance.limit} requests in a minute; "
            f"try again in {allowance.reset_seconds} s."
        )


def require_scope(scope: str) -> None:
    """Raise Forbidden unless the admin's token carries *scope*."""
    if scope not in caller().scopes:
        raise Forbidden(f"The token lacks the scope {scope}.", code="missing_scope")


def parse_body(kind: type[R], *, limit_bytes: int = BODY_MAX_BYTES) -> R:
    """Parse the JSON body, then check the protocol version. Raises for a 400, 413 or 422."""
    parsed = kind.model_validate(_read_json(read_body(request.environ, limit_bytes)))
    require_version()
    return parsed


def _read_json(text: bytes) -> Any:
    """Read JSON that means one thing only. Raises MalformedBody."""
    try:
        found = json.loads(
            text.decode(), object_pairs_hook=_unambiguous, parse_constant=_no_constant
        )
        if b"\\ud" in text.lower():  # an escaped surrogate must have its other half
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"Invalid JSON: {error}") from error
    return found


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def parse_query(kind: type[R]) -> R:
    """Parse the query string; of a repeated name the first counts."""
    parsed = kind.model_validate(request.args.to_dict())
    require_version()
    return parsed


def require_version() -> None:
    """Raise Unprocessable unless X-Protocol-Version is absent or 6.0.0 <= v < 9 (contract 4)."""
    offered = request.headers.get("X-Protocol-Version")
    if offered is None:
        return
    numbers = offered.strip().split(".")
    is_version = len(numbers) == 3 and all(  # noqa: PLR2004  major.minor.patch
        n.isascii() and n.isdigit() and len(n) < 6  # noqa: PLR2004
        for n in numbers
    )
    if not is_version or not _PROTOCOL_LOWEST <= int(numbers[0]) < _PROTOCOL_BELOW:
        raise Unprocessable(
            "X-Protocol-Version must be at least 6.0.0 and below 9.0.0.",
            code="unsupported_protocol_version",
            details={"offered": offered[:64], "localVersion": "8.3.0"},
        )


def idempotency_key(body_key: str | None = None) -> str | None:
    """Return the caller's key: the Idempotency-Key header, else *body_key*. Raises Invalid."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return body_key
    is_plain = key.isascii() and key.isprintable()
    if not key.strip() or len(key) > _KEY_MAX_CHARACTERS or not is_plain:
        raise Invalid(
            "Idempotency-Key must be 1 to 255 printable ASCII characters.",
            code="invalid_idempotency_key",
        )
    return key.strip()


def answer(body: Mapping[str, Any], status: int = 200, *, is_replay: bool = False) -> Response:
    """Write *body* as JSON; a repeated answer says so in a header, not in its body."""
    touch(body)
    text = compact(body)
    headers = {"Idempotent-Replay": "true"} if is_replay else None
    return Response(text, status, headers, mimetype="application/json")


def answer_outcome(outcome: Outcome, status: int = 200) -> Response:
    """Answer with what became of a command. Raises its refusal."""
    return answer(outcome.unwrap(), status, is_replay=outcome.is_replay)
