"""``arrakis token``: make short-lived tokens with the secrets of this environment."""

from collections.abc import Mapping

import click
import jwt

from shared.clock import system_clock
from shared.config import OperatorSettings

_S2S_SECONDS, _LONG_SECONDS = 300, 3600
_SCOPES = "billing:read,billing:write"


@click.group()
def token() -> None:
    """Make a token for the API, printed alone so that a shell can take it."""


@token.command()
@click.option("--subject", default="loa-finn", show_default=True, help="Service or tenant.")
@click.pass_obj
def s2s(settings: OperatorSettings, *, subject: str) -> None:
    """A token as loa-finn sends it; it lives 300 s."""
    claims = {"iss": "loa-finn", "aud": "arrakis-internal", "sub": subject}
    _print(
        settings.billing_internal_jwt_secret, "BILLING_INTERNAL_JWT_SECRET", claims, _S2S_SECONDS
    )


@token.command()
@click.option("--subject", default="operator", show_default=True, help="Who acts; it is audited.")
@click.option("--scopes", default=_SCOPES, show_default=True, help="Comma-separated.")
@click.pass_obj
def admin(settings: OperatorSettings, *, subject: str, scopes: str) -> None:
    """A token for the admin API; it lives an hour."""
    claims = {
        "iss": "arrakis-admin",
        "aud": "arrakis-billing-admin",
        "sub": subject,
        "scopes": [scope.strip() for scope in scopes.split(",")],
    }
    _print(settings.billing_admin_jwt_secret, "BILLING_ADMIN_JWT_SECRET", claims, _LONG_SECONDS)


@token.command()
@click.argument("account_id")
@click.pass_obj
def member(settings: OperatorSettings, account_id: str) -> None:
    """A token for one member's account; it lives an hour."""
    claims = {"iss": "arrakis", "aud": "arrakis-billing", "sub": account_id}
    _print(settings.billing_member_jwt_secret, "BILLING_MEMBER_JWT_SECRET", claims, _LONG_SECONDS)


def _print(secret: str, variable: str, claims: Mapping[str, object], life_seconds: int) -> None:
    if not secret:
        raise click.UsageError(f"{variable} is not set; a token cannot be signed without it.")
    issued = int(system_clock().timestamp())
    times = {"iat": issued, "exp": issued + life_seconds}
    click.echo(jwt.encode({**claims, **times}, secret, algorithm="HS256"))
