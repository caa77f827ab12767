"""Campaigns: made as drafts, activated, paused, completed, and ended by their time (behaviour 9).

Whatever is done or refused leaves its audit row in the same transaction. The campaign's row is the
lock of its budget: who grants holds it until the commit, so a pause by SQL waits for one chunk.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, select, text, update

from shared.campaigns.formulas import read_formula
from shared.campaigns.states import Action, next_status
from shared.clock import to_wire
from shared.database import Database, Tx, insert_rows, update_rows
from shared.errors import ArrakisError, Conflict, Invalid, NotFound
from shared.ids import new_id
from shared.ledger.commands import Outcome
from shared.models.campaigns import Campaign, GrantBatch
from shared.models.types import UtcTime
from shared.operations.audit import Actor, record

TARGET = "campaign"
CAP_DEFAULT_MICRO = 5_000_000
EXPIRER = Actor("system", "campaign-expirer")
_TABLE = Campaign.__table__
_EXPIRED_AT_ONCE = 100


@dataclass(frozen=True)
class Draft:
    """What a campaign is made of. ``grant_config`` is JSON text, what its formula needs.

    ``expires_at`` ends the campaign, and the lots that it has granted.
    """

    name: str
    campaign_type: str
    budget_micro: int
    grant_formula: str = "fixed_amount"
    grant_config: str | None = None
    description: str | None = None
    pool_id: str | None = None
    per_wallet_cap_micro: int = CAP_DEFAULT_MICRO
    expires_at: datetime | None = None


@dataclass(frozen=True)
class CampaignFilter:
    """Which campaigns are wanted; ``after`` is the id of the last one of the page before."""

    status: str | None = None
    limit: int = 50
    after: str | None = None


def create(tx: Tx, actor: Actor, draft: Draft) -> Outcome:
    """Keep *draft*; the answer is the campaign as callers see it.

    Refuses with Invalid if its formula cannot work with its figures, or its time is over already.
    """
    campaign_id = new_id(tx.now)
    try:
        _check(tx, vars(draft))
    except Invalid as refusal:
        return refuse(tx, actor, "campaign_create", campaign_id, refusal)
    row = {
        "id": campaign_id,
        "status": "draft",
        **vars(draft),
        "created_by": actor.id,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, _TABLE, [row])
    audit(
        tx,
        actor,
        "campaign_create",
        campaign_id,
        {"name": draft.name, "budgetMicro": str(draft.budget_micro)},
    )
    return Outcome(show(tx, campaign_id))


def change(tx: Tx, actor: Actor, campaign_id: str, changes: Mapping[str, Any]) -> Outcome:
    """Change fields of a draft, named as in :class:`Draft`.

    Refuses with Conflict (``campaign_not_draft``) once it is active, with Invalid as create does.
    """
    try:
        campaign = lock(tx, campaign_id)
        _require_draft(campaign)
        known = {one.name: getattr(campaign, one.name) for one in fields(Draft)}
        _check(tx, known | dict(changes))
    except (NotFound, Conflict, Invalid) as refusal:
        return refuse(tx, actor, "campaign_update", campaign_id, refusal)
    if changes:
        update_rows(tx, _TABLE, [{"id": campaign_id, **changes, "updated_at": tx.now}])
    told = {name: str(value) for name, value in changes.items()}
    audit(tx, actor, "campaign_update", campaign_id, {"changes": told})
    return Outcome(show(tx, campaign_id))


def move(tx: Tx, actor: Actor, campaign_id: str, action: Action) -> Outcome:
    """Activate, pause or complete; done or refused, it is audited, so the caller commits either."""
    try:
        campaign = lock(tx, campaign_id)
        status = next_status(campaign.status, action)
        _require_time_left(campaign, action, tx.now)
    except (NotFound, Conflict) as refusal:
        return refuse(tx, actor, f"campaign_{action.value}", campaign_id, refusal)
    _set_status(tx, actor, campaign, action, status)
    return Outcome(show(tx, campaign_id))


def lock(tx: Tx, campaign_id: str) -> Row[Any]:
    """Lock a campaign until *tx* ends and return it; one whose time is over is expired first.

    Raises NotFound (``campaign_not_found``).
    """
    campaign = tx.first(_LOCKED, id=campaign_id)
    tx.restart_clock()
    if campaign is None:
        raise _not_found()
    if campaign.status in ("active", "paused") and _is_over(campaign, tx.now):
        _set_status(
            tx, EXPIRER, campaign, Action.EXPIRE, next_status(campaign.status, Action.EXPIRE)
        )
        campaign = tx.first(_LOCKED, id=campaign_id)
        assert campaign is not None
    return campaign


def expire_due(database: Database) -> int:
    """Expire running campaigns whose time is over; return how many."""
    with database.transaction() as tx:
        due = [row.id for row in tx.all(_DUE, now=tx.now)]
        for campaign_id in due:
            lock(tx, campaign_id)
    return len(due)


def refuse(tx: Tx, actor: Actor, action: str, campaign_id: str, refusal: ArrakisError) -> Outcome:
    """Audit that *action* was refused, and return the refusal."""
    audit(tx, actor, f"{action}_refused", campaign_id, {"refusedBecause": refusal.code})
    return Outcome(error=refusal)


def audit(tx: Tx, actor: Actor, action: str, campaign_id: str, details: Mapping[str, Any]) -> None:
    """Write what was done to a campaign."""
    record(tx, actor, action, target_type=TARGET, target_id=campaign_id, details=details)


def show(tx: Tx, campaign_id: str) -> dict[str, Any]:
    """Return a campaign as callers see it. Raises NotFound (``campaign_not_found``)."""
    row = tx.first(BY_ID, id=campaign_id)
    if row is None:
        raise _not_found()
    return _as_told(row, committed(tx, campaign_id))


def list_campaigns(tx: Tx, wanted: CampaignFilter) -> dict[str, Any]:
    """Return campaigns, oldest first, and the next page's cursor."""
    statement = select(*_TABLE.c).order_by(Campaign.id)
    if wanted.status is not None:
        statement = statement.where(Campaign.status == wanted.status)
    if wanted.after is not None:
        statement = statement.where(Campaign.id > wanted.after)
    rows = tx.all(statement.limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "campaigns": [_as_told(row, committed(tx, row.id)) for row in page],
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def committed(tx: Tx, campaign_id: str) -> int:
    """Return how many micro-USD of the budget the lists that are not done yet will take."""
    return int(tx.scalar(_COMMITTED, id=campaign_id))


def _set_status(tx: Tx, actor: Actor, campaign: Row[Any], action: Action, status: str) -> None:
    row = {"id": campaign.id, "status": status, "updated_at": tx.now}
    update_rows(tx, _TABLE, [row])
    if action is Action.ACTIVATE:  # what waited for the pause to end is due at once
        tx.run(_WAKE_LISTS.values(due_at=tx.now), campaign=campaign.id)
    details = {"before": campaign.status, "spentMicro": str(campaign.spent_micro)}
    audit(tx, actor, f"campaign_{action.value}", campaign.id, details)


def _check(tx: Tx, values: Mapping[str, Any]) -> None:
    """Raise Invalid unless a campaign of these values could grant something."""
    if values["grant_config"] is not None:
        formula = read_formula(values["grant_formula"], json.loads(values["grant_config"]))
        if formula.pot_micro > values["budget_micro"]:
            raise Invalid("The pot is larger than the budget.", code="invalid_grant_config")
    if values["expires_at"] is not None and values["expires_at"] <= tx.now:
        raise Invalid("expiresAt must lie ahead.", code="invalid_expires_at")


def _require_draft(campaign: Row[Any]) -> None:
    if campaign.status != "draft":
        raise Conflict(
            f"A campaign that is {campaign.status} cannot be changed; only a draft can.",
            code="campaign_not_draft",
        )


def _require_time_left(campaign: Row[Any], action: Action, now: datetime) -> None:
    if action is Action.ACTIVATE and _is_over(campaign, now):
        raise Conflict("The campaign's time is over: expiresAt.", code="campaign_expired")


def _is_over(campaign: Row[Any], now: datetime) -> bool:
    return campaign.expires_at is not None and campaign.expires_at <= now


def _not_found() -> NotFound:
    return NotFound("Campaign not found.", code="campaign_not_found")


def _as_told(row: Row[Any], committed_micro: int) -> dict[str, Any]:
    return {
        "campaignId": row.id,
        "name": row.name,
        "description": row.description,
        "campaignType": row.campaign_type,
        "status": row.status,
        "budgetMicro": str(row.budget_micro),
        "spentMicro": str(row.spent_micro),
        "committedMicro": str(committed_micro),
        "perWalletCapMicro": str(row.per_wallet_cap_micro),
        "grantFormula": row.grant_formula,
        "grantConfig": json.loads(row.grant_config) if row.grant_config else None,
        "poolId": row.pool_id,
        "expiresAt": to_wire(row.expires_at) if row.expires_at else None,
        "createdBy": row.created_by,
        "createdAt": to_wire(row.created_at),
        "updatedAt": to_wire(row.updated_at),
    }


BY_ID = select(*_TABLE.c).where(Campaign.id == text(":id"))
_LOCKED = BY_ID.with_for_update()
_DUE = (
    select(Campaign.id)
    .where(
        Campaign.status.in_(("active", "paused")),
        Campaign.expires_at <= bindparam("now", type_=UtcTime()),
    )
    .order_by(Campaign.id)
    .limit(_EXPIRED_AT_ONCE)
)
_COMMITTED = select(func.coalesce(func.sum(GrantBatch.pending_micro), 0)).where(
    GrantBatch.campaign_id == text(":id"), GrantBatch.state == "new"
)
_WAKE_LISTS = update(GrantBatch).where(
    GrantBatch.campaign_id == text(":campaign"), GrantBatch.state == "new"
)
