"""``arrakis``: the operators' command. Exit 0 fine, 1 bad news, 2 wrong use, 3 dependency away."""

import sys
from datetime import datetime
from functools import partial
from pathlib import Path

import click
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from shared import schema
from shared.cli import (
    account,
    alerts,
    audit,
    backup,
    cache,
    campaigns,
    config,
    dlq,
    doctor,
    mint_proposals,
    payments,
    reconcile,
    shadow,
    status,
    tokens,
    webhooks,
)
from shared.cli.api import Api, token_from
from shared.cli.desk import KEY, Host, on_host, open_database
from shared.cli.options import MOMENT
from shared.cli.output import as_json, keep_logs_apart, progress, table, tell
from shared.config import (
    DoctorSettings,
    OperatorSettings,
    RemoteSettings,
    SettingsError,
    load_settings,
)
from shared.errors import ArrakisError, Invalid, Unavailable
from shared.ledger import explain, integrity
from shared.money import format_usd
from shared.version import VERSION

_BAD_NEWS, _WRONG_USE, _AWAY = 1, 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--api", "api_url", metavar="URL", help="Work through this service; default ARRAKIS_API_URL."
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="Where the admin's token for it is; default ARRAKIS_API_TOKEN.",
)
@click.version_option(VERSION, prog_name="arrakis")
@click.pass_context
def arrakis(context: click.Context, api_url: str | None, token_file: Path | None) -> None:
    """Operate Arrakis Billing: accounts, payments, dead letters, campaigns, settings, the ledger.

    Works on the database that DATABASE_URL names (default: data/sietch.db), or with --api on a
    running service, through its admin API: then the token says who acts. What makes sense only
    where the system runs (migrate, backup, doctor, cache, making tokens) says so.

    Exit 0 is fine, 1 bad news, 2 wrong use, 3 a dependency is away.

    \b
    Examples:
        arrakis status
        arrakis --api https://billing.example.com --token-file token.txt account list
    """
    keep_logs_apart()
    remote = load_settings(RemoteSettings)
    url = remote.arrakis_api_url if api_url is None else api_url
    if url:
        context.meta[KEY] = Api(url, partial(token_from, remote.arrakis_api_token, token_file))
        return
    if token_file is not None:
        raise click.UsageError("--token-file is for an API: name it with --api.")
    if context.invoked_subcommand == "doctor":  # which says itself what is wrong with them
        context.obj = load_settings(DoctorSettings)
        return
    context.obj = load_settings(OperatorSettings)
    context.meta[KEY] = Host(context.obj)


@arrakis.command()
@as_json
@on_host
def migrate(settings: OperatorSettings, *, is_json: bool) -> None:
    """Apply every missing migration; running it again changes nothing.

    \b
    Example:
        arrakis migrate
    """
    database = open_database(settings)
    names = schema.upgrade(database)
    tell({"applied": names}, is_json=is_json, text=_migrated(names))


def _migrated(names: list[str]) -> str:
    return f"Applied {', '.join(names)}." if names else "Nothing to do: the schema is current."


@arrakis.group()
def ledger() -> None:
    """Check the ledger."""


@ledger.command("verify")
@as_json
@on_host
def verify(settings: OperatorSettings, *, is_json: bool) -> None:
    """Check every invariant of the ledger; exit 1 and say where if one does not hold.

    \b
    Example:
        arrakis ledger verify
    """
    with progress("Verifying") as so_far, Host(settings).database.reading() as tx:
        breaches = integrity.verify(tx, progress=so_far)
        sums = integrity.totals(tx)
    rows = [(one.invariant, one.place, one.expected, one.found) for one in breaches]
    text = (
        table(("invariant", "where", "expected", "found"), rows)
        if rows
        else f"All {len(integrity.INVARIANTS)} invariants hold."
    )
    facts = {
        "invariants": len(integrity.INVARIANTS),
        "breaches": [vars(breach) for breach in breaches],
        "totalsMicro": {name: str(value) for name, value in sums.items()},
    }
    tell(facts, is_json=is_json, text=text)
    if breaches:
        sys.exit(_BAD_NEWS)


@ledger.command("balance")
@click.argument("account_id")
@click.option("--as-of", type=MOMENT, help="UTC; default now.")
@as_json
@on_host
def balance(
    settings: OperatorSettings, account_id: str, as_of: datetime | None, *, is_json: bool
) -> None:
    """Show what ACCOUNT_ID had available at a time, summed from its entries.

    \b
    Example:
        arrakis ledger balance ACCOUNT --as-of "2026-11-22 12:00:00"
    """
    with Host(settings).database.reading() as tx:
        found = explain.balance_as_of(tx, account_id, as_of or tx.now)
    words = f"{found['availableMicro']} micro-USD ({format_usd(int(found['availableMicro']))})"
    tell(found, is_json=is_json, text=f"{account_id} had {words} at {found['asOf']}.")


ledger.add_command(shadow.shadow)
arrakis.add_command(tokens.token)
arrakis.add_command(account.account)
arrakis.add_command(account.mint)
arrakis.add_command(mint_proposals.proposals)
arrakis.add_command(payments.payments)
arrakis.add_command(dlq.dlq)
arrakis.add_command(campaigns.campaign)
arrakis.add_command(config.config)
arrakis.add_command(config.mode)
arrakis.add_command(audit.audit)
arrakis.add_command(alerts.alerts)
arrakis.add_command(webhooks.webhook)
arrakis.add_command(cache.cache)
arrakis.add_command(reconcile.reconcile)
arrakis.add_command(backup.backup)
arrakis.add_command(backup.restore)
arrakis.add_command(doctor.doctor)
arrakis.add_command(status.status)


def main() -> None:
    """Run the command; say what is wrong in a sentence, with the exit code that scripts read."""
    try:
        " ".join(sys.argv).encode()
    except UnicodeEncodeError:
        click.echo("The arguments are not UTF-8.", err=True)
        sys.exit(_WRONG_USE)
    try:
        arrakis(prog_name="arrakis")
    except SettingsError as error:
        click.echo(str(error), err=True)
        sys.exit(_WRONG_USE)
    except (ArgumentError, NoSuchModuleError):
        click.echo("DATABASE_URL is not the address of a database; see .env.example.", err=True)
        sys.exit(_WRONG_USE)
    except Unavailable as error:
        click.echo(f"{error.message} ({error.code})", err=True)
        sys.exit(_AWAY)
    except Invalid as error:
        click.echo(f"{error.message} ({error.code})", err=True)
        sys.exit(_WRONG_USE)
    except ArrakisError as error:
        click.echo(f"{error.message} ({error.code})", err=True)
        sys.exit(_BAD_NEWS)


if __name__ == "__main__":
    main()
