"""``arrakis account`` and ``arrakis mint``: who owns credits, what moved, and giving some."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from shared.balance_cache import BalanceCache
from shared.cli.account_table import account_lines
from shared.cli.acting import operator
from shared.cli.mint_proposals import describe_proposal
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.database import Database
from shared.errors import Invalid
from shared.ids import new_id
from shared.ledger import explain, overview, statements
from shared.ledger.terms import TermsCache
from shared.models.ledger import ENTITY_TYPES, GENERAL_POOL
from shared.money import format_usd, parse_amount
from shared.operations import accounts, mints
from shared.operations.mint_orders import MintOrder

_STATEMENT_DAYS = 30


@click.group()
def account() -> None:
    """Make accounts, look at them, and see what moved."""


@account.command()
@click.argument("entity_type", type=click.Choice(ENTITY_TYPES))
@click.argument("entity_id")
@click.option("--id", "account_id", help="The account's id; default a new one.")
@as_json
@click.pass_obj
def create(
    settings: OperatorSettings,
    entity_type: str,
    entity_id: str,
    account_id: str | None,
    *,
    is_json: bool,
) -> None:
    """Make the account of an entity; if it has one, show it.

    \b
    Example:
        arrakis account create community guild-42
    """
    with Database(settings.database_url).transaction() as tx:
        outcome, is_new = accounts.create(
            tx, operator(), entity_type=entity_type, entity_id=entity_id, account_id=account_id
        )
    found = outcome.unwrap()
    words = "Made" if is_new else "There is already"
    tell(found, is_json=is_json, text=f"{words} {found['accountId']}.")


@account.command()
@click.argument("account_id")
@as_json
@click.pass_obj
def show(settings: OperatorSettings, account_id: str, *, is_json: bool) -> None:
    """Show ACCOUNT_ID: its pools, open lots, holds and debts, and its last entries.

    \b
    Example:
        arrakis account show sys-commons
    """
    with Database(settings.database_url).reading() as tx:
        found = overview.show(tx, account_id)
    tell(found, is_json=is_json, text="\n".join(account_lines(found)))


@account.command()
@click.argument("account_id")
@click.option("--since", type=click.DateTime(), help="UTC, included; default 30 days before.")
@click.option("--until", type=click.DateTime(), help="UTC, not included; default now.")
@as_json
@click.pass_obj
def statement(
    settings: OperatorSettings,
    account_id: str,
    since: datetime | None,
    until: datetime | None,
    *,
    is_json: bool,
) -> None:
    """Show what moved on ACCOUNT_ID in a period, between its two balances.

    \b
    Example:
        arrakis account statement ACCOUNT --since 2026-11-01 --until 2026-12-01
    """
    database = Database(settings.database_url)
    end = until.replace(tzinfo=UTC) if until else database.clock()
    begin = since.replace(tzinfo=UTC) if since else end - timedelta(days=_STATEMENT_DAYS)
    with database.reading() as tx:
        found = statements.statement(tx, account_id, since=begin, until=end)
    tell(found, is_json=is_json, text="\n".join(_statement(found)))


@account.command("explain")
@click.argument("subject_id")
@click.pass_obj
def explain_subject(settings: OperatorSettings, subject_id: str) -> None:
    """Explain a reservation or ledger entry, as JSON: lots, their payments or grants, the split."""
    database = Database(settings.database_url)
    with database.reading() as tx:
        click.echo(json.dumps(explain.explain(tx, subject_id), indent=2, ensure_ascii=False))


@click.command()
@click.argument("account_id")
@click.argument("amount_micro", metavar="AMOUNT")
@click.option(
    "--source-type", type=click.Choice(["grant", "deposit"]), default="grant", show_default=True
)
@click.option("--pool", "pool_id", default=GENERAL_POOL, show_default=True)
@click.option("--description", help="Kept with the ledger's entry.")
@click.option("--payment-id", help="The payment that the credits stand for.")
@click.option("--key", help="Sending the same key again mints nothing more.")
@as_json
@click.pass_obj
def mint(
    settings: OperatorSettings,
    account_id: str,
    amount_micro: str,
    *,
    source_type: str,
    pool_id: str,
    description: str | None,
    payment_id: str | None,
    key: str | None,
    is_json: bool,
) -> None:
    """Give AMOUNT micro-USD (1 USD = 1000000) of credits to ACCOUNT_ID, once for each key.

    More than four_eyes_threshold_micro to one account within a day becomes a proposal, for a
    second person to approve: see `arrakis mint-proposals`.

    \b
    Examples:
        arrakis mint ACCOUNT 5000000 --description "goodwill" --key ticket-77
        arrakis mint ACCOUNT 25000000 --payment-id 5745459419
    """
    amount = parse_amount(amount_micro)
    if amount == 0:
        raise Invalid("An amount must be greater than zero.", code="invalid_amount")
    database = Database(settings.database_url, after_commit=[BalanceCache(settings.redis_url)])
    terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
    order = MintOrder(
        account_id=account_id,
        lot_id=new_id(database.clock()),
        amount_micro=amount,
        source_type=source_type,
        pool_id=pool_id,
        description=description,
        payment_id=payment_id,
        idempotency_key=key,
    )
    outcome, is_proposal = mints.mint(database, terms, operator(), order)
    found = outcome.unwrap()
    if is_proposal:
        tell(found, is_json=is_json, text=describe_proposal(found))
        return
    again = " (again: nothing was added)" if outcome.is_replay else ""
    words = f"Lot {found['lotId']} of {_money(found['amountMicro'])} for {account_id}{again}."
    tell(found, is_json=is_json, text=words)


def _statement(found: dict[str, Any]) -> list[str]:
    """Return a statement as a table: moment, type, amount, balance."""
    rows = [
        (entry["createdAt"], entry["entryType"], entry["amountMicro"], entry["balanceMicro"])
        for entry in found["entries"]
    ]
    table = [
        (found["since"], "opening balance", "", found["openingMicro"]),
        *rows,
        (found["until"], "closing balance", "", found["closingMicro"]),
    ]
    return [
        f"Account {found['accountId']}, in micro-USD",
        *(f"{at:24}  {what:22} {moved:>18} {left:>18}" for at, what, moved, left in table),
    ]


def _money(amount_micro: str) -> str:
    return f"{amount_micro} ({format_usd(int(amount_micro))})"
