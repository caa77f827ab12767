"""``arrakis token``: make short-lived tokens with the secrets of this environment, and revoke."""

from collections.abc import Mapping
from datetime import datetime

import click
import jwt

from shared.cli.acting import with_reason
from shared.cli.api import Api
from shared.cli.desk import Host, on_host, post, with_desk
from shared.cli.options import MOMENT, wire_time
from shared.cli.output import as_json, tell
from shared.clock import add_seconds, system_clock, to_wire
from shared.config import OperatorSettings
from shared.ids import new_id
from shared.operations import tokens

_S2S_SECONDS, _LONG_SECONDS = 300, 3600
ADMIN_SCOPES = ("billing:read", "billing:write", "billing:approve")
_USUAL_SCOPES = "billing:read,billing:write"


def _scopes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[str]:
    named = [scope.strip() for scope in value.split(",")]
    unknown = [scope for scope in named if scope not in ADMIN_SCOPES]
    if unknown:
        raise click.UsageError(
            f"There is no scope {unknown[0]!r}; there are {', '.join(ADMIN_SCOPES)}."
        )
    return named


@click.group()
def token() -> None:
    """Make a token for the API, printed alone so that a shell can take it; or revoke one."""


@token.command()
@click.option("--subject", default="loa-finn", show_default=True, help="Service or tenant.")
@as_json
@on_host
def s2s(settings: OperatorSettings, *, subject: str, is_json: bool) -> None:
    """A token as loa-finn sends it; it lives 300 s.

    \b
    Example:
        TOKEN=$(arrakis token s2s)
    """
    secret = _required(settings.billing_internal_jwt_secret, "BILLING_INTERNAL_JWT_SECRET")
    claims = {"iss": "loa-finn", "aud": "arrakis-internal", "sub": subject}
    _print(secret, claims, _S2S_SECONDS, is_json=is_json)


@token.command()
@click.option("--subject", default="operator", show_default=True, help="Who acts; it is audited.")
@click.option(
    "--scopes",
    "--scope",
    default=_USUAL_SCOPES,
    show_default=True,
    callback=_scopes,
    help=f"Comma-separated: {', '.join(ADMIN_SCOPES)}.",
)
@as_json
@on_host
def admin(settings: OperatorSettings, *, subject: str, scopes: list[str], is_json: bool) -> None:
    """A token for the admin API; it lives an hour, unless it is revoked.

    billing:read looks, billing:write changes, and billing:approve decides on what another admin
    proposed. SUBJECT is the person: nobody approves what they proposed under the same name.

    \b
    Examples:
        TOKEN=$(arrakis token admin --subject ann)
        TOKEN=$(arrakis token admin --subject bob --scopes billing:read,billing:approve)
    """
    secret = _required(settings.billing_admin_jwt_secret, "BILLING_ADMIN_JWT_SECRET")
    claims = {
        "iss": "arrakis-admin",
        "aud": "arrakis-billing-admin",
        "sub": subject,
        "scopes": scopes,
        "jti": new_id(system_clock()),
    }
    _print(secret, claims, _LONG_SECONDS, is_json=is_json)


@token.command()
@click.argument("account_id")
@as_json
@on_host
def member(settings: OperatorSettings, account_id: str, *, is_json: bool) -> None:
    """A token for one member's account; it lives an hour.

    \b
    Example:
        TOKEN=$(arrakis token member ACCOUNT)
    """
    secret = _required(settings.billing_member_jwt_secret, "BILLING_MEMBER_JWT_SECRET")
    claims = {"iss": "arrakis", "aud": "arrakis-billing", "sub": account_id}
    _print(secret, claims, _LONG_SECONDS, is_json=is_json)


@token.command()
@click.argument("jti")
@with_reason
@click.option("--until", type=MOMENT, help="UTC; when the token is over anyway.")
@as_json
@with_desk
def revoke(
    desk: Host | Api, jti: str, reason: str, until: datetime | None, *, is_json: bool
) -> None:
    """Refuse the admin token of JTI in every process within five seconds.

    JTI may be the whole token as well. A token without a jti cannot be revoked: then change
    BILLING_ADMIN_JWT_SECRET.

    \b
    Example:
        arrakis token revoke "$LEAKED_TOKEN" --reason "was pasted into a chat"
    """
    named = _jti_of(jti)
    done = desk.change(
        post(
            "tokens",
            "revoke",
            body={"jti": named, "reason": reason, "until": wire_time(until)},
        ),
        lambda tx, actor: tokens.revoke(tx, actor, named, reason=reason, until=until),
    ).facts
    words = f"{done['jti']} is refused within {done['actsWithinSeconds']} s from now."
    tell(done, is_json=is_json, text=words)


def _jti_of(named: str) -> str:
    if named.count(".") != 2:  # noqa: PLR2004  header.payload.signature
        return named
    try:
        # Who revokes need not hold the secret, and a forged token is refused anyway.
        claims = jwt.decode(named, options={"verify_signature": False})
    except jwt.PyJWTError:
        return named
    if not isinstance(claims.get("jti"), str):
        raise click.UsageError("This token has no jti; change BILLING_ADMIN_JWT_SECRET instead.")
    return str(claims["jti"])


def _required(secret: str, variable: str) -> str:
    if not secret:
        raise click.UsageError(f"{variable} is not set; a token cannot be signed without it.")
    return secret


def _print(secret: str, claims: Mapping[str, object], life_seconds: int, *, is_json: bool) -> None:
    now = system_clock()
    issued = int(now.timestamp())
    times = {"iat": issued, "exp": issued + life_seconds}
    signed = jwt.encode({**claims, **times}, secret, algorithm="HS256")
    facts = {
        "token": signed,
        "jti": claims.get("jti"),
        "expiresAt": to_wire(add_seconds(now, life_seconds)),
    }
    tell(facts, is_json=is_json, text=signed)
