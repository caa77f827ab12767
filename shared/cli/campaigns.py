"""``arrakis campaign``: draft, run and grant to lists of wallets, with or without workers."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from shared.balance_cache import BalanceCache
from shared.campaigns import lifecycle, lists, revoking, views, working
from shared.campaigns.csv_lists import read_csv
from shared.campaigns.lists import LIST_MAX, GrantList
from shared.campaigns.states import Action
from shared.cli.acting import operator, with_reason
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.money import format_usd, parse_amount

_BAD_NEWS = 1
_LOOK_SECONDS = 0.2
_FORMULAS = ("fixed_amount", "proportional_loss", "tiered")
confirmed = click.option("--yes", is_flag=True, help="Do not ask.")
a_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def campaign() -> None:
    """Run campaigns, and grant credits to lists of wallets."""


@campaign.command()
@click.argument("name")
@click.option("--budget-micro", required=True, help="Micro-USD, digits.")
@click.option(
    "--type",
    "campaign_type",
    type=click.Choice(["reverse_airdrop", "promotional", "loyalty", "referral"]),
    default="promotional",
    show_default=True,
)
@click.option(
    "--cap-micro", default=str(lifecycle.CAP_DEFAULT_MICRO), show_default=True, help="A wallet's."
)
@click.option("--formula", type=click.Choice(_FORMULAS), default="fixed_amount", show_default=True)
@click.option("--config", "grant_config", help='The formula\'s, e.g. {"amountMicro":"1000000"}.')
@click.option("--pool", "pool_id", help="Where its credits may be spent; default anywhere.")
@click.option("--expires", type=click.DateTime(), help="UTC; ends the campaign and its lots.")
@as_json
@click.pass_obj
def create(
    settings: OperatorSettings,
    *,
    name: str,
    budget_micro: str,
    campaign_type: str,
    cap_micro: str,
    formula: str,
    grant_config: str | None,
    pool_id: str | None,
    expires: datetime | None,
    is_json: bool,
) -> None:
    """Draft the campaign NAME. It grants nothing until it is activated."""
    draft = lifecycle.Draft(
        name=name,
        campaign_type=campaign_type,
        budget_micro=parse_amount(budget_micro),
        per_wallet_cap_micro=parse_amount(cap_micro),
        grant_formula=formula,
        grant_config=_object(grant_config),
        pool_id=pool_id,
        expires_at=expires.replace(tzinfo=UTC) if expires else None,
    )
    with _database(settings).transaction() as tx:
        made = lifecycle.create(tx, operator(), draft)
    tell(made, is_json=is_json, text=_describe(made))


@campaign.command("list")
@click.option("--status", help="Only these.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json
@click.pass_obj
def list_campaigns(
    settings: OperatorSettings, status: str | None, limit: int, *, is_json: bool
) -> None:
    """List campaigns, oldest first."""
    with _database(settings).reading() as tx:
        found = lifecycle.list_campaigns(tx, lifecycle.CampaignFilter(status, limit))
    lines = [
        f"{one['campaignId']}  {one['status']:9} {_spent(one)}  {one['name']}"
        for one in found["campaigns"]
    ]
    tell(found, is_json=is_json, text="\n".join(lines) or "There is no campaign.")


@campaign.command()
@click.argument("campaign_id")
@as_json
@click.pass_obj
def show(settings: OperatorSettings, campaign_id: str, *, is_json: bool) -> None:
    """Show CAMPAIGN_ID with its budget."""
    with _database(settings).reading() as tx:
        found = lifecycle.show(tx, campaign_id)
    tell(found, is_json=is_json, text=_describe(found))


@campaign.command()
@click.argument("campaign_id")
@confirmed
@as_json
@click.pass_obj
def activate(settings: OperatorSettings, campaign_id: str, *, yes: bool, is_json: bool) -> None:
    """Let CAMPAIGN_ID grant; waiting lists go on."""
    _move(settings, campaign_id, Action.ACTIVATE, is_sure=yes, is_json=is_json)


@campaign.command()
@click.argument("campaign_id")
@as_json
@click.pass_obj
def pause(settings: OperatorSettings, campaign_id: str, *, is_json: bool) -> None:
    """Stop CAMPAIGN_ID until it is activated again; its lists wait."""
    _move(settings, campaign_id, Action.PAUSE, is_sure=True, is_json=is_json)


@campaign.command()
@click.argument("campaign_id")
@confirmed
@as_json
@click.pass_obj
def complete(settings: OperatorSettings, campaign_id: str, *, yes: bool, is_json: bool) -> None:
    """End CAMPAIGN_ID for good; what is left of its lists is not granted."""
    _move(settings, campaign_id, Action.COMPLETE, is_sure=yes, is_json=is_json)


@campaign.command()
@click.argument("campaign_id")
@a_file
@click.option("--no-wait", is_flag=True, help="Leave the work to the workers.")
@as_json
@click.pass_obj
def grant(
    settings: OperatorSettings, campaign_id: str, file: Path, *, no_wait: bool, is_json: bool
) -> None:
    """Grant to the wallets of the CSV FILE; exit 1 if one of them failed.

    Safe to repeat: a wallet that has its grant gets nothing more. Look first:

        arrakis campaign preview CAMPAIGN_ID FILE
    """
    database = _database(settings)
    wanted = GrantList(read_csv(file.read_bytes()), maximum=LIST_MAX)
    batch = working.enlist(database, operator(), campaign_id, wanted).unwrap()
    if not no_wait:
        terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
        batch = _work(database, terms, batch, is_quiet=is_json)
    tell(batch, is_json=is_json, text=_describe_batch(batch))
    if batch["totalFailed"] or batch["status"] in ("stopped", "paused"):
        sys.exit(_BAD_NEWS)


@campaign.command()
@click.argument("campaign_id")
@a_file
@as_json
@click.pass_obj
def preview(settings: OperatorSettings, campaign_id: str, file: Path, *, is_json: bool) -> None:
    """Show what the wallets of the CSV FILE would get; nothing is changed."""
    wishes = read_csv(file.read_bytes())
    with _database(settings).reading() as tx:
        found = lists.preview(tx, campaign_id, wishes)
    lines = [
        f"{one['accountId']}  {one['status']:8} {one['amountMicro']}" for one in found["grants"]
    ]
    total = format_usd(int(found["totalAmountMicro"]))
    lines.append(f"{found['totalNew']} new grants, {total}; nothing was changed.")
    tell(found, is_json=is_json, text="\n".join(lines))


@campaign.command()
@click.argument("campaign_id")
@click.argument("batch_id", required=False)
@as_json
@click.pass_obj
def batches(
    settings: OperatorSettings, campaign_id: str, batch_id: str | None, *, is_json: bool
) -> None:
    """Show how far the lists of CAMPAIGN_ID are, or BATCH_ID with what failed."""
    with _database(settings).reading() as tx:
        if batch_id is not None:
            found = views.show_batch(tx, campaign_id, batch_id)
            listed = [found]
        else:
            found = views.list_batches(tx, campaign_id, limit=100, after=None)
            listed = found["batches"]
    text = "\n".join(_describe_batch(one) for one in listed) or "There is no list."
    tell(found, is_json=is_json, text=text)


@campaign.command()
@click.argument("grant_id")
@with_reason
@as_json
@click.pass_obj
def revoke(settings: OperatorSettings, grant_id: str, reason: str, *, is_json: bool) -> None:
    """Take back what is unspent of GRANT_ID; safe to repeat.

    \b
    Example:
        arrakis campaign revoke GRANT_ID --reason "granted to the wrong wallet"
    """
    database = _database(settings)
    terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
    with database.reading() as tx:
        campaign_id = revoking.campaign_of(tx, grant_id)
    outcome = revoking.revoke(database, terms, operator(), campaign_id, grant_id, reason=reason)
    found = outcome.unwrap()
    taken, kept = (format_usd(int(found[name])) for name in ("revokedMicro", "keptMicro"))
    words = f"{grant_id} is revoked: {taken} came back, {kept} stay spent."
    tell(found, is_json=is_json, text=words)


def _move(
    settings: OperatorSettings, campaign_id: str, action: Action, *, is_sure: bool, is_json: bool
) -> None:
    database = _database(settings)
    if not is_sure:
        with database.reading() as tx:
            click.echo(_describe(lifecycle.show(tx, campaign_id)), err=True)
        click.confirm(f"{action.value} it?", abort=True, err=True)
    with database.transaction() as tx:
        outcome = lifecycle.move(tx, operator(), campaign_id, action)
    found = outcome.unwrap()
    tell(found, is_json=is_json, text=_describe(found))


def _work(
    database: Database, terms: TermsCache, batch: dict[str, Any], *, is_quiet: bool
) -> dict[str, Any]:
    """Work a list off here, beside the workers, until it is done or waits for somebody."""
    while batch["status"] in ("queued", "running"):
        if not working.work_off(database, terms, only=batch["batchId"]):
            time.sleep(_LOOK_SECONDS)  # a worker has it
        with database.reading() as tx:
            batch = views.show_batch(tx, batch["campaignId"], batch["batchId"])
        if not is_quiet:
            click.echo(f"{batch['done']} of {batch['total']}", err=True)
    return batch


def _object(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--config is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError("--config must be an object.")
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _database(settings: OperatorSettings) -> Database:
    return Database(settings.database_url, after_commit=[BalanceCache(settings.redis_url)])


def _spent(found: dict[str, Any]) -> str:
    spent, budget = int(found["spentMicro"]), int(found["budgetMicro"])
    return f"{format_usd(spent)} of {format_usd(budget)}"


def _describe(found: dict[str, Any]) -> str:
    lines = [f"  {name:18} {value}" for name, value in found.items() if value is not None]
    return "\n".join([f"{found['campaignId']}: {_spent(found)} spent", *lines[1:]])


def _describe_batch(found: dict[str, Any]) -> str:
    counts = ", ".join(
        f"{found[name]} {name.removeprefix('total').lower()}"
        for name in ("totalGranted", "totalExisting", "totalSkipped", "totalFailed")
    )
    amount = format_usd(int(found["totalAmountMicro"]))
    why = f" ({found['stopReason']})" if found["stopReason"] else ""
    progress = f"{found['done']} of {found['total']}"
    lines = [f"{found['batchId']}  {found['status']}{why}: {progress}; {counts}; {amount}"]
    lines += [f"  {one['accountId']}: {one['error']}" for one in found.get("failures", ())]
    return "\n".join(lines)
