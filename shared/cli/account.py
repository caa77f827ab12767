"""``arrakis account`` and ``arrakis mint``: who owns credits, what moved, and giving some."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import click

from shared.cli.account_table import account_lines
from shared.cli.acting import confirm, confirmed
from shared.cli.api import Api
from shared.cli.desk import Host, get, post, with_desk
from shared.cli.mint_proposals import describe_proposal
from shared.cli.options import MOMENT, limited, paged, wire_time
from shared.cli.output import as_json, money, more, table, tell
from shared.clock import system_clock
from shared.errors import Invalid
from shared.ids import new_id
from shared.ledger import explain, overview, queries, statements
from shared.ledger.commands import Outcome
from shared.models.ledger import ENTITY_TYPES, GENERAL_POOL
from shared.money import format_usd, parse_amount
from shared.operations import accounts, mint_proposals, mints
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
@with_desk
def create(
    desk: Host | Api, entity_type: str, entity_id: str, account_id: str | None, *, is_json: bool
) -> None:
    """Make the account of an entity; if it has one, show it.

    \b
    Example:
        arrakis account create community guild-42
    """
    wanted = {"entityType": entity_type, "entityId": entity_id, "accountId": account_id}
    made = desk.change(
        post("accounts", body=wanted),
        lambda tx, actor: accounts.create(
            tx, actor, entity_type=entity_type, entity_id=entity_id, account_id=account_id
        ),
    )
    words = "There is already" if made.is_replay else "Made"
    tell(made.facts, is_json=is_json, text=f"{words} {made.facts['accountId']}.")


@account.command("list")
@limited
@paged
@as_json
@with_desk
def list_accounts(desk: Host | Api, limit: int, cursor: str | None, *, is_json: bool) -> None:
    """List accounts in the order of their ids.

    \b
    Example:
        arrakis account list --limit 100
    """
    found = desk.read(
        get("accounts", query={"limit": limit, "cursor": cursor}),
        lambda tx: queries.list_accounts(tx, limit=limit, after=cursor),
    )
    rows = [
        (one["accountId"], one["entityType"], one["entityId"], one["createdAt"])
        for one in found["accounts"]
    ]
    lines = [table(("account", "type", "entity", "made at"), rows), *more(found)]
    tell(found, is_json=is_json, text="\n".join(lines) if rows else "There is no account.")


@account.command()
@click.argument("account_id")
@as_json
@with_desk
def show(desk: Host | Api, account_id: str, *, is_json: bool) -> None:
    """Show ACCOUNT_ID: its pools, open lots, holds and debts, and its last entries.

    \b
    Example:
        arrakis account show sys-commons
    """
    found = desk.read(get("accounts", account_id), lambda tx: overview.show(tx, account_id))
    tell(found, is_json=is_json, text="\n".join(account_lines(found)))


@account.command()
@click.argument("account_id")
@click.option("--since", type=MOMENT, help="UTC, included; default 30 days before.")
@click.option("--until", type=MOMENT, help="UTC, not included; default now.")
@as_json
@with_desk
def statement(
    desk: Host | Api,
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
    begin = since or (until or system_clock()) - timedelta(days=_STATEMENT_DAYS)
    period = {"since": wire_time(begin), "until": wire_time(until)}
    found = desk.read(
        get("accounts", account_id, "statement", query=period),
        lambda tx: statements.statement(tx, account_id, since=begin, until=until or tx.now),
    )
    tell(found, is_json=is_json, text=_statement(found))


@account.command("explain")
@click.argument("subject_id")
@as_json
@with_desk
def explain_subject(desk: Host | Api, subject_id: str, *, is_json: bool) -> None:
    """Explain a reservation or ledger entry: lots, their payments or grants, the split.

    It is JSON in any case, for people with a line each.

    \b
    Example:
        arrakis account explain RESERVATION
    """
    found = desk.read(get("explain", subject_id), lambda tx: explain.explain(tx, subject_id))
    tell(found, is_json=is_json, text=json.dumps(found, indent=2, ensure_ascii=False))


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
@confirmed
@as_json
@with_desk
def mint(
    desk: Host | Api,
    account_id: str,
    amount_micro: str,
    *,
    source_type: str,
    pool_id: str,
    description: str | None,
    payment_id: str | None,
    key: str | None,
    is_sure: bool,
    is_json: bool,
) -> None:
    """Give AMOUNT micro-USD (1 USD = 1000000) of credits to ACCOUNT_ID, once for each key.

    More than four_eyes_threshold_micro to one account within a day becomes a proposal, for a
    second person to approve: see `arrakis mint-proposals`.

    \b
    Examples:
        arrakis mint ACCOUNT 5000000 --description "goodwill" --key ticket-77
        arrakis mint ACCOUNT 25000000 --payment-id 5745459419 --yes
    """
    amount = parse_amount(amount_micro)
    if amount == 0:
        raise Invalid("An amount must be greater than zero.", code="invalid_amount")
    confirm(f"Mint {format_usd(amount)} for {account_id}?", is_sure=is_sure)
    wanted = {
        "amountMicro": str(amount),
        "sourceType": source_type,
        "poolId": pool_id,
        "description": description,
        "paymentId": payment_id,
    }

    def carry_out(host: Host) -> Outcome:
        order = MintOrder(
            account_id=account_id,
            lot_id=new_id(host.database.clock()),
            amount_micro=amount,
            source_type=source_type,
            pool_id=pool_id,
            description=description,
            payment_id=payment_id,
            idempotency_key=key,
        )
        outcome, is_proposal = mints.mint(host.database, host.terms, host.actor, order)
        if is_proposal and outcome.answer is not None:
            return replace(outcome, answer=mint_proposals.told(outcome.answer))
        return outcome

    made = desk.work(post("accounts", account_id, "mint", body=wanted, key=key), carry_out)
    found = made.facts
    if "proposalId" in found:
        tell(found, is_json=is_json, text=describe_proposal(found))
        return
    again = " (again: nothing was added)" if made.is_replay else ""
    words = f"Lot {found['lotId']} of {money(found['amountMicro'])} for {account_id}{again}."
    tell(found, is_json=is_json, text=words)


def _statement(found: dict[str, Any]) -> str:
    rows = [
        (found["since"], "opening balance", None, found["openingMicro"]),
        *(
            (entry["createdAt"], entry["entryType"], entry["amountMicro"], entry["balanceMicro"])
            for entry in found["entries"]
        ),
        (found["until"], "closing balance", None, found["closingMicro"]),
    ]
    head = f"Account {found['accountId']}, in micro-USD"
    return f"{head}\n{table(('at', 'what', 'moved', 'balance'), rows)}"
