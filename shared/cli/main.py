"""``arrakis``: the operators' command. Exit 0 fine, 1 bad news, 2 wrong use, 3 dependency away."""

import sys
from datetime import UTC, datetime

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
from shared.cli.output import as_json, keep_logs_apart, tell
from shared.config import OperatorSettings, SettingsError, load_settings
from shared.database import Database
from shared.errors import ArrakisError, Invalid, Unavailable
from shared.ledger import explain, integrity
from shared.money import format_usd

_BAD_NEWS, _WRONG_USE, _AWAY = 1, 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="arrakis-billing")
@click.pass_context
def arrakis(context: click.Context) -> None:
    """Operate Arrakis Billing: migrate the database, make tokens, check the ledger.

    The database is the one that DATABASE_URL names (default: data/sietch.db).
    """
    keep_logs_apart()
    if context.invoked_subcommand != "doctor":  # which says itself what is wrong with them
        context.obj = load_settings(OperatorSettings)


@arrakis.command()
@as_json
@click.pass_obj
def migrate(settings: OperatorSettings, *, is_json: bool) -> None:
    """Apply every missing migration; running it again changes nothing."""
    database = Database(settings.database_url)
    names = schema.upgrade(database)
    tell({"applied": names}, is_json=is_json, text=_migrated(names))


def _migrated(names: list[str]) -> str:
    return f"Applied {', '.join(names)}." if names else "Nothing to do: the schema is current."


@arrakis.group()
def ledger() -> None:
    """Check the ledger."""


@ledger.command("verify")
@as_json
@click.pass_obj
def verify(settings: OperatorSettings, *, is_json: bool) -> None:
    """Check every invariant of the ledger; exit 1 and say where if one does not hold."""
    database = Database(settings.database_url)
    schema.require_current(database)
    with database.reading() as tx:
        breaches = integrity.verify(tx)
        sums = integrity.totals(tx)
    lines = [
        f"{b.invariant}: {b.place}: expected {b.expected}, found {b.found}" for b in breaches
    ] or [f"All {len(integrity.INVARIANTS)} invariants hold."]
    facts = {
        "invariants": len(integrity.INVARIANTS),
        "breaches": [vars(breach) for breach in breaches],
        "totalsMicro": {name: str(value) for name, value in sums.items()},
    }
    tell(facts, is_json=is_json, text="\n".join(lines))
    if breaches:
        sys.exit(_BAD_NEWS)


@ledger.command("balance")
@click.argument("account_id")
@click.option("--as-of", type=click.DateTime(), help="UTC; default now.")
@as_json
@click.pass_obj
def balance(
    settings: OperatorSettings, account_id: str, as_of: datetime | None, *, is_json: bool
) -> None:
    """Show what ACCOUNT_ID had available at a time, summed from its entries."""
    database = Database(settings.database_url)
    moment = as_of.replace(tzinfo=UTC) if as_of else database.clock()
    with database.reading() as tx:
        found = explain.balance_as_of(tx, account_id, moment)
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
arrakis.add_command(doctor.doctor)
arrakis.add_command(status.status)


def main() -> None:
    """Run the command; say what is wrong in a sentence, with the exit code that scripts read."""
    try:
        arrakis()
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
