"""``arrakis campaign``: draft, run and grant to lists of wallets, with or without workers."""

import json
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from shared.campaigns import lifecycle, lists, revoking, views, working
from shared.campaigns.csv_lists import read_csv
from shared.campaigns.lists import LIST_MAX, GrantList
from shared.campaigns.states import Action
from shared.cli.acting import confirm, confirmed, with_reason
from shared.cli.api import Api
from shared.cli.desk import Call, Facts, Host, get, post, with_desk
from shared.cli.options import MOMENT, limited, paged, wire_time
from shared.cli.output import as_json, fields, more, progress, table, tell
from shared.money import format_usd, parse_amount

_BAD_NEWS = 1
_LOOK_SECONDS = 0.2
_ASK_SECONDS = 3  # the API answers an admin thirty times in a minute
_STATUSES = ("draft", "active", "paused", "completed", "expired")
_FORMULAS = ("fixed_amount", "proportional_loss", "tiered")
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
@click.option("--expires", type=MOMENT, help="UTC; ends the campaign and its lots.")
@as_json
@with_desk
def create(
    desk: Host | Api,
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
    """Draft the campaign NAME. It grants nothing until it is activated.

    \b
    Example:
        arrakis campaign create "Spring" --budget-micro 15000000
    """
    draft = lifecycle.Draft(
        name=name,
        campaign_type=campaign_type,
        budget_micro=parse_amount(budget_micro),
        per_wallet_cap_micro=parse_amount(cap_micro),
        grant_formula=formula,
        grant_config=_object(grant_config),
        pool_id=pool_id,
        expires_at=expires,
    )
    wanted = {
        "name": name,
        "campaignType": campaign_type,
        "budgetMicro": str(draft.budget_micro),
        "perWalletCapMicro": str(draft.per_wallet_cap_micro),
        "grantFormula": formula,
        "grantConfig": json.loads(draft.grant_config) if draft.grant_config else None,
        "poolId": pool_id,
        "expiresAt": wire_time(expires),
    }
    made = desk.change(
        replace(post("campaigns", body=wanted), is_repeatable=False),  # twice makes two
        lambda tx, actor: lifecycle.create(tx, actor, draft),
    ).facts
    tell(made, is_json=is_json, text=_describe(made))


@campaign.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only these.")
@limited
@paged
@as_json
@with_desk
def list_campaigns(
    desk: Host | Api, status: str | None, limit: int, cursor: str | None, *, is_json: bool
) -> None:
    """List campaigns, oldest first.

    \b
    Example:
        arrakis campaign list --status active
    """
    found = desk.read(
        get("campaigns", query={"status": status, "limit": limit, "cursor": cursor}),
        lambda tx: lifecycle.list_campaigns(tx, lifecycle.CampaignFilter(status, limit, cursor)),
    )
    rows = [
        (one["campaignId"], one["status"], *_spent(one), one["name"]) for one in found["campaigns"]
    ]
    lines = [table(("campaign", "status", "spent", "of", "name"), rows), *more(found)]
    tell(found, is_json=is_json, text="\n".join(lines) if rows else "There is no campaign.")


@campaign.command()
@click.argument("campaign_id")
@as_json
@with_desk
def show(desk: Host | Api, campaign_id: str, *, is_json: bool) -> None:
    """Show CAMPAIGN_ID with its budget.

    \b
    Example:
        arrakis campaign show CAMPAIGN
    """
    found = _show(desk, campaign_id)
    tell(found, is_json=is_json, text=_describe(found))


@campaign.command()
@click.argument("campaign_id")
@confirmed
@as_json
@with_desk
def activate(desk: Host | Api, campaign_id: str, *, is_sure: bool, is_json: bool) -> None:
    """Let CAMPAIGN_ID grant; waiting lists go on.

    \b
    Example:
        arrakis campaign activate CAMPAIGN --yes
    """
    _move(desk, campaign_id, Action.ACTIVATE, is_sure=is_sure, is_json=is_json)


@campaign.command()
@click.argument("campaign_id")
@as_json
@with_desk
def pause(desk: Host | Api, campaign_id: str, *, is_json: bool) -> None:
    """Stop CAMPAIGN_ID until it is activated again; its lists wait.

    \b
    Example:
        arrakis campaign pause CAMPAIGN
    """
    _move(desk, campaign_id, Action.PAUSE, is_sure=True, is_json=is_json)


@campaign.command()
@click.argument("campaign_id")
@confirmed
@as_json
@with_desk
def complete(desk: Host | Api, campaign_id: str, *, is_sure: bool, is_json: bool) -> None:
    """End CAMPAIGN_ID for good; what is left of its lists is not granted.

    \b
    Example:
        arrakis campaign complete CAMPAIGN --yes
    """
    _move(desk, campaign_id, Action.COMPLETE, is_sure=is_sure, is_json=is_json)


@campaign.command()
@click.argument("campaign_id")
@a_file
@click.option("--no-wait", is_flag=True, help="Leave the work to the workers.")
@as_json
@with_desk
def grant(desk: Host | Api, campaign_id: str, file: Path, *, no_wait: bool, is_json: bool) -> None:
    """Grant to the wallets of the CSV FILE; exit 1 if one of them failed.

    Safe to repeat: a wallet that has its grant gets nothing more. Look first with preview.

    \b
    Example:
        arrakis campaign grant CAMPAIGN wallets.csv
    """
    content = file.read_bytes()
    wanted = GrantList(read_csv(content), maximum=LIST_MAX)
    batch = desk.work(
        Call("POST", ("campaigns", campaign_id, "grants", "list"), body=content),
        lambda host: working.enlist(host.database, host.actor, campaign_id, wanted),
    ).facts
    if not no_wait:
        batch = _wait(desk, batch)
    tell(batch, is_json=is_json, text=_describe_batch(batch))
    if batch["totalFailed"] or batch["status"] in ("stopped", "paused"):
        sys.exit(_BAD_NEWS)


@campaign.command()
@click.argument("campaign_id")
@a_file
@as_json
@with_desk
def preview(desk: Host | Api, campaign_id: str, file: Path, *, is_json: bool) -> None:
    """Show what the wallets of the CSV FILE would get; nothing is changed.

    \b
    Example:
        arrakis campaign preview CAMPAIGN wallets.csv
    """
    wishes = read_csv(file.read_bytes())
    wanted = [
        {
            "accountId": wish.account_id,
            "amountMicro": str(wish.amount_micro) if wish.amount_micro is not None else None,
            "formulaInput": json.loads(wish.formula_input) if wish.formula_input else None,
        }
        for wish in wishes
    ]
    found = desk.read(
        post("campaigns", campaign_id, "grants", "preview", body={"grants": wanted}),
        lambda tx: lists.preview(tx, campaign_id, wishes),
    )
    rows = [(one["accountId"], one["status"], one["amountMicro"]) for one in found["grants"]]
    lines = [table(("account", "status", "micro-USD"), rows)]
    total = format_usd(int(found["totalAmountMicro"]))
    lines.append(f"{found['totalNew']} new grants, {total}; nothing was changed.")
    tell(found, is_json=is_json, text="\n".join(lines))


@campaign.command()
@click.argument("campaign_id")
@click.argument("batch_id", required=False)
@as_json
@with_desk
def batches(desk: Host | Api, campaign_id: str, batch_id: str | None, *, is_json: bool) -> None:
    """Show how far the lists of CAMPAIGN_ID are, or BATCH_ID with what failed.

    \b
    Example:
        arrakis campaign batches CAMPAIGN
    """
    if batch_id is not None:
        found = _show_batch(desk, campaign_id, batch_id)
        listed = [found]
    else:
        found = desk.read(
            get("campaigns", campaign_id, "batches", query={"limit": 100}),
            lambda tx: views.list_batches(tx, campaign_id, limit=100, after=None),
        )
        listed = found["batches"]
    text = "\n".join(_describe_batch(one) for one in listed) or "There is no list."
    tell(found, is_json=is_json, text=text)


@campaign.command()
@click.argument("grant_id")
@click.option("--campaign", "campaign_id", help="Whose grant it is; needed over an API only.")
@with_reason
@confirmed
@as_json
@with_desk
def revoke(
    desk: Host | Api,
    grant_id: str,
    campaign_id: str | None,
    reason: str,
    *,
    is_sure: bool,
    is_json: bool,
) -> None:
    """Take back what is unspent of GRANT_ID; safe to repeat.

    \b
    Examples:
        arrakis campaign revoke GRANT --reason "granted to the wrong wallet" --yes
        arrakis campaign revoke GRANT --campaign CAMPAIGN --reason "wrong wallet" --yes
    """
    if campaign_id is None:
        campaign_id = _campaign_of(desk, grant_id)
    confirm(f"Take back what is unspent of {grant_id}?", is_sure=is_sure)
    found = desk.work(
        post("campaigns", campaign_id, "grants", grant_id, "revoke", body={"reason": reason}),
        lambda host: revoking.revoke(
            host.database, host.terms, host.actor, campaign_id, grant_id, reason=reason
        ),
    ).facts
    taken, kept = (format_usd(int(found[name])) for name in ("revokedMicro", "keptMicro"))
    words = f"{grant_id} is revoked: {taken} came back, {kept} stay spent."
    tell(found, is_json=is_json, text=words)


def _campaign_of(desk: Host | Api, grant_id: str) -> str:
    if isinstance(desk, Api):  # it knows a grant by its campaign only
        raise click.UsageError("Over an API name the grant's --campaign.")
    with desk.database.reading() as tx:
        return revoking.campaign_of(tx, grant_id)


def _show(desk: Host | Api, campaign_id: str) -> Facts:
    return desk.read(get("campaigns", campaign_id), lambda tx: lifecycle.show(tx, campaign_id))


def _show_batch(desk: Host | Api, campaign_id: str, batch_id: str) -> Facts:
    return desk.read(
        get("campaigns", campaign_id, "batches", batch_id),
        lambda tx: views.show_batch(tx, campaign_id, batch_id),
    )


def _move(
    desk: Host | Api, campaign_id: str, action: Action, *, is_sure: bool, is_json: bool
) -> None:
    if not is_sure:
        click.echo(_describe(_show(desk, campaign_id)), err=True)
        confirm(f"{action.value.capitalize()} it?", is_sure=False)
    found = desk.change(
        post("campaigns", campaign_id, action.value),
        lambda tx, actor: lifecycle.move(tx, actor, campaign_id, action),
    ).facts
    tell(found, is_json=is_json, text=_describe(found))


def _wait(desk: Host | Api, batch: Facts) -> Facts:
    """Wait until a list is done or waits for somebody; on the host, work beside the workers."""
    with progress("Granting") as so_far:
        while batch["status"] in ("queued", "running"):
            if isinstance(desk, Api):
                time.sleep(_ASK_SECONDS)
            elif not working.work_off(desk.database, desk.terms, only=batch["batchId"]):
                time.sleep(_LOOK_SECONDS)  # a worker has it
            batch = _show_batch(desk, batch["campaignId"], batch["batchId"])
            so_far(batch["done"], batch["total"])
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


def _spent(found: dict[str, Any]) -> tuple[str, str]:
    return format_usd(int(found["spentMicro"])), format_usd(int(found["budgetMicro"]))


def _describe(found: dict[str, Any]) -> str:
    head = f"{found['campaignId']}: {' of '.join(_spent(found))} spent"
    return f"{head}\n{fields({n: value for n, value in found.items() if n != 'campaignId'})}"


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
