"""Tokens: who calls. HS256 with our secrets, or ES256 with a service's own keys (contract 3).

The algorithm is pinned by the key: a public key never verifies an HMAC, nor a secret an ES256.
"""

import threading
import time
from collections.abc import Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt

from services.api.jwks import KeySet
from shared.config import ApiSettings
from shared.database import Database
from shared.errors import ArrakisError
from shared.observability import TOKENS_REFUSED
from shared.operations import tokens

LEEWAY_SECONDS = 30
_TOKEN_MAX_CHARACTERS = 4096
_SUBJECT_MAX_CHARACTERS = 255
_TOKENS_REMEMBERED = 4_096
_REVOCATIONS_STALE_SECONDS = 2.0  # the contract of `arrakis token revoke` is five


class Unauthorized(ArrakisError):
    """The token is missing, malformed, forged or over. Callers learn no more than that."""

    code = "unauthorized"


@dataclass(frozen=True)
class TokenPolicy:
    """What one kind of caller must present."""

    kind: str
    secrets: tuple[str, ...]
    issuers: tuple[str, ...]
    audiences: tuple[str, ...]
    max_life_seconds: int
    needs_subject: bool
    is_revocable: bool = False
    public_keys: KeySet | None = None


@dataclass(frozen=True)
class Caller:
    """A caller whose token was accepted."""

    issuer: str
    subject: str
    scopes: frozenset[str]


def policies(settings: ApiSettings) -> Mapping[str, TokenPolicy]:
    """Return the policy of each kind of caller: ``s2s``, ``admin`` and ``member``."""
    return {
        "s2s": TokenPolicy(
            "s2s",
            _keys(settings.billing_internal_jwt_secret, settings.billing_internal_jwt_secret_prev),
            ("loa-finn",),
            ("arrakis-internal", "arrakis"),
            300,
            needs_subject=False,
            public_keys=KeySet(jwks) if (jwks := settings.billing_internal_jwks) else None,
        ),
        "admin": TokenPolicy(
            "admin",
            _keys(settings.billing_admin_jwt_secret, settings.billing_admin_jwt_secret_prev),
            ("arrakis-admin",),
            ("arrakis-billing-admin",),
            3600,
            needs_subject=True,
            is_revocable=True,
        ),
        "member": TokenPolicy(
            "member",
            _keys(settings.billing_member_jwt_secret, settings.billing_member_jwt_secret_prev),
            ("arrakis",),
            ("arrakis-billing",),
            3600,
            needs_subject=True,
        ),
    }


def _keys(*secrets: str) -> tuple[str, ...]:
    return tuple(secret for secret in secrets if secret)


class Revocations:
    """The revoked tokens as one process knows them; read again when older than two seconds.

    While the database is away they cannot be known and the request fails with 503: nobody is let
    in on what may be over, and no admin's request could be answered without the database anyway.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._jtis: AbstractSet[str] = frozenset()
        self._good_until = 0.0

    def __contains__(self, jti: object) -> bool:
        """Tell whether *jti* was revoked. Raises Unavailable while the database is away."""
        with self._lock:
            asked = time.monotonic()
            if asked >= self._good_until:
                with self._database.reading() as tx:
                    self._jtis = tokens.revoked(tx)
                self._good_until = asked + _REVOCATIONS_STALE_SECONDS
            return jti in self._jtis


def authenticate(
    policy: TokenPolicy, authorization: str | None, revocations: Container[str] = ()
) -> Caller:
    """Check the Authorization header against *policy* and, where its tokens can be revoked,
    against *revocations*. Raises Unauthorized for any fault."""
    try:
        return _check(policy, authorization, revocations)
    except _Fault as fault:
        TOKENS_REFUSED.labels(policy.kind, str(fault)).inc()
        raise Unauthorized("Invalid or expired token.") from fault


class _Fault(Exception):
    """Why a token was refused; for the metric only."""


def _check(policy: TokenPolicy, authorization: str | None, revocations: Container[str]) -> Caller:
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise _Fault("missing")
    if len(token) > _TOKEN_MAX_CHARACTERS:
        raise _Fault("malformed")
    claims = _decode(policy, token)
    issued, expires = claims.get("iat"), claims.get("exp")
    if type(issued) is not int or type(expires) is not int:
        raise _Fault("times")
    now = time.time()  # noqa: TID251  a token's times are wall-clock seconds
    if expires <= now - LEEWAY_SECONDS:
        raise _Fault("expired")
    if issued > now + LEEWAY_SECONDS:
        raise _Fault("not_yet")
    if not 0 < expires - issued <= policy.max_life_seconds:
        raise _Fault("lifetime")
    if policy.is_revocable and claims.get("jti") is not None and claims["jti"] in revocations:
        raise _Fault("revoked")
    return Caller(claims["iss"], _subject(policy, claims), _scopes(claims))


def _subject(policy: TokenPolicy, claims: Mapping[str, Any]) -> str:
    subject = claims.get("sub", "")
    if not subject and not policy.needs_subject:
        return ""
    # It becomes a row's text and a counter's name, so it must be storable (NUL, surrogates) too.
    is_name = isinstance(subject, str) and 0 < len(subject) <= _SUBJECT_MAX_CHARACTERS
    # A name with spaces around it would look like another person in the audit log, and be one.
    if not is_name or not subject.isprintable() or subject != subject.strip():
        raise _Fault("subject")
    return str(subject)


def _decode(policy: TokenPolicy, token: str) -> dict[str, Any]:
    if policy.public_keys is not None:
        key_id = _es256_key_id(token)
        if key_id is not None:
            key = policy.public_keys.key(key_id)
            if key is None:
                raise _Fault("unknown_key")
            return _verify(policy, token, key.key, "ES256")
    for secret in policy.secrets:
        try:
            return _verify_secret(policy, token, secret)
        except _WrongKey:
            continue  # it may be signed with the previous one
    raise _Fault("signature")


def _es256_key_id(token: str) -> str | None:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise _Fault("malformed") from error
    key_id = header.get("kid")
    return key_id if header.get("alg") == "ES256" and isinstance(key_id, str) else None


class _WrongKey(_Fault):
    """The signature is not of this key."""


@lru_cache(maxsize=_TOKENS_REMEMBERED)
def _verify_secret(policy: TokenPolicy, token: str, secret: str) -> dict[str, Any]:
    """Return the claims of *token*, remembered: a caller sends one token for minutes.

    Only what no later moment can change is remembered. Times and revocations are looked at for each
    request, and of a refusal nothing is kept, so forged tokens fill nothing.
    """
    return _verify(policy, token, secret, "HS256")


def _verify(policy: TokenPolicy, token: str, key: Any, algorithm: str) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=policy.audiences,
            issuer=policy.issuers,
            # Our own checks of the times are stricter: plain integers, a longest life.
            options={
                "verify_exp": False,
                "verify_iat": False,
                "require": ["iss", "aud", "exp", "iat"],
            },
            leeway=LEEWAY_SECONDS,
        )
    except jwt.InvalidSignatureError as error:
        raise _WrongKey("signature") from error
    except jwt.PyJWTError as error:
        raise _Fault(type(error).__name__) from error


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    for name in ("scopes", "scope"):
        value = claims.get(name)
        if isinstance(value, str):
            return frozenset(value.split())
        if isinstance(value, Sequence):
            return frozenset(item for item in value if isinstance(item, str))
    return frozenset()
