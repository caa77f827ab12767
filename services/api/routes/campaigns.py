"""The admin API of campaigns: draft, run, grant to lists of wallets, look (contract 5)."""

import json

from flask import Response, request

from services.api.context import (
    actor,
    answer,
    answer_outcome,
    idempotency_key,
    parse_body,
    parse_query,
    require_version,
    services,
)
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.campaigns import (
    Campaign,
    Campaigns,
    Grant,
    GrantBatches,
    GrantPreview,
    GrantResults,
    Grants,
    RevokedGrant,
    ShownGrantBatch,
)
from services.api.schemas.campaigns import (
    CampaignChange,
    CampaignRequest,
    CampaignsQuery,
    GrantListRequest,
    GrantsQuery,
    GrantsRequest,
    PreviewRequest,
    RevokeGrantRequest,
)
from services.api.schemas.requests import PageQuery
from services.api.waiting import wait_for
from shared.campaigns import granting, lifecycle, lists, revoking, views, working
from shared.campaigns.csv_lists import read_csv
from shared.campaigns.lists import LIST_MAX, GrantList
from shared.campaigns.states import Action
from shared.ledger.commands import Outcome
from shared.openapi.operations import documented
from shared.wsgi import read_body

routes = admin_blueprint("campaigns")
LIST_MAX_BYTES = 16 * 1024 * 1024
AT_ONCE_MAX = 100
_PREFER = {"Prefer": "wait=N: wait up to N seconds, 30 at most, for the list to be done."}
_LOCATION = {"Location": "Where the list can be looked at."}
_LIST_ERRORS = (
    "account_not_found",
    "amount_above_ceiling",
    "budget_exceeded",
    "campaign_not_active",
    "campaign_not_found",
    "cap_exceeded",
    "config_invalid",
    "invalid_amount",
    "invalid_formula_input",
    "invalid_grant_config",
    "invalid_number",
    "list_too_long",
    "mixed_amounts",
)


@routes.post("")
@documented(
    {201: Campaign},
    body=CampaignRequest,
    errors=("invalid_expires_at", "invalid_grant_config", "invalid_number"),
)
def create() -> Response:
    """Draft a campaign: 201."""
    draft = lifecycle.Draft(**parse_body(CampaignRequest).model_dump())
    with services().database.transaction() as tx:
        outcome = lifecycle.create(tx, actor(), draft)
    return answer_outcome(outcome, 201)


@routes.get("")
@documented({200: Campaigns}, query=CampaignsQuery)
def list_campaigns() -> Response:
    """List campaigns, oldest first."""
    query = parse_query(CampaignsQuery)
    wanted = lifecycle.CampaignFilter(query.status, query.limit, query.cursor)
    with services().database.reading() as tx:
        return answer(lifecycle.list_campaigns(tx, wanted))


@routes.get("/<campaign_id>")
@documented({200: Campaign}, errors=("campaign_not_found",))
def show(campaign_id: str) -> Response:
    """Show a campaign."""
    with services().database.reading() as tx:
        return answer(lifecycle.show(tx, campaign_id))


@routes.patch("/<campaign_id>")
@documented(
    {200: Campaign},
    body=CampaignChange,
    errors=(
        "campaign_not_draft",
        "campaign_not_found",
        "invalid_expires_at",
        "invalid_grant_config",
        "invalid_number",
    ),
)
def change(campaign_id: str) -> Response:
    """Change fields of a draft."""
    changes = parse_body(CampaignChange).changes()
    with services().database.transaction() as tx:
        outcome = lifecycle.change(tx, actor(), campaign_id, changes)
    return answer_outcome(outcome)


@routes.post("/<campaign_id>/activate")
@documented(
    {200: Campaign},
    errors=("campaign_expired", "campaign_not_found", "invalid_campaign_transition"),
)
def activate(campaign_id: str) -> Response:
    """Let a draft or a paused campaign grant."""
    return _move(campaign_id, Action.ACTIVATE)


@routes.post("/<campaign_id>/pause")
@documented({200: Campaign}, errors=("campaign_not_found", "invalid_campaign_transition"))
def pause(campaign_id: str) -> Response:
    """Stop granting until it is activated again; lists wait."""
    return _move(campaign_id, Action.PAUSE)


@routes.post("/<campaign_id>/complete")
@documented({200: Campaign}, errors=("campaign_not_found", "invalid_campaign_transition"))
def complete(campaign_id: str) -> Response:
    """End a campaign for good; what is left of its lists is not granted."""
    return _move(campaign_id, Action.COMPLETE)


@routes.post("/<campaign_id>/grants/batch")
@documented(
    {201: GrantResults | ShownGrantBatch, 202: ShownGrantBatch},
    body=GrantsRequest,
    is_keyed=True,
    takes=_PREFER,
    sends=_LOCATION,
    errors=_LIST_ERRORS,
)
def grant_batch(campaign_id: str) -> Response:
    """Grant to 1-1000 wallets: up to 100 at once (201), more by the workers (202 with the job)."""
    wanted = GrantList(parse_body(GrantsRequest).wishes(), idempotency_key())
    if len(wanted.wishes) > AT_ONCE_MAX:
        return _enlist(campaign_id, wanted)
    return answer_outcome(
        working.grant_now(services().database, services().terms, actor(), campaign_id, wanted), 201
    )


@routes.post("/<campaign_id>/grants/list")
@documented(
    {201: ShownGrantBatch, 202: ShownGrantBatch},
    body=GrantListRequest,
    accepts={"text/csv": "A line for each wallet (docs/campaigns.md)."},
    is_keyed=True,
    takes=_PREFER,
    sends=_LOCATION,
    errors=(*_LIST_ERRORS, "invalid_csv"),
)
def grant_list(campaign_id: str) -> Response:
    """Grant to up to 100,000 wallets, JSON or CSV, by the workers: 202 with the job."""
    if request.mimetype == "text/csv":
        wishes = read_csv(read_body(request.environ, LIST_MAX_BYTES))
        require_version()
    else:
        wishes = parse_body(GrantListRequest, limit_bytes=LIST_MAX_BYTES).wishes()
    return _enlist(campaign_id, GrantList(wishes, idempotency_key(), maximum=LIST_MAX))


@routes.post("/<campaign_id>/grants/preview")
@documented({200: GrantPreview}, body=PreviewRequest, errors=_LIST_ERRORS)
def preview(campaign_id: str) -> Response:
    """Show what wallets would get; nothing is changed."""
    body = parse_body(PreviewRequest)
    with services().database.reading() as tx:
        found = lists.preview(
            tx,
            campaign_id,
            body.wishes(),
            grant_formula=body.grant_formula,
            grant_config=json.loads(body.grant_config) if body.grant_config else None,
        )
    return answer(found)


@routes.get("/<campaign_id>/grants")
@documented({200: Grants}, query=GrantsQuery, errors=("campaign_not_found",))
def list_grants(campaign_id: str) -> Response:
    """List a campaign's grants."""
    query = parse_query(GrantsQuery)
    wanted = views.GrantFilter(
        query.status, query.account_id, query.batch_id, query.limit, query.cursor
    )
    with services().database.reading() as tx:
        return answer(views.list_grants(tx, campaign_id, wanted))


@routes.post("/<campaign_id>/grants/<grant_id>/retry")
@documented(
    {200: Grant},
    errors=(
        "account_not_found",
        "amount_above_ceiling",
        "budget_exceeded",
        "campaign_not_active",
        "campaign_not_found",
        "config_invalid",
        "grant_not_found",
        "grant_revoked",
    ),
)
def retry(campaign_id: str, grant_id: str) -> Response:
    """Try a failed grant again."""
    return answer_outcome(
        granting.retry(services().database, services().terms, actor(), campaign_id, grant_id)
    )


@routes.post("/<campaign_id>/grants/<grant_id>/revoke")
@documented(
    {200: RevokedGrant},
    body=RevokeGrantRequest,
    errors=("campaign_not_found", "config_invalid", "grant_not_found", "grant_not_granted"),
)
def revoke(campaign_id: str, grant_id: str) -> Response:
    """Take back what a wallet has not spent of its grant."""
    reason = parse_body(RevokeGrantRequest).reason
    return answer_outcome(
        revoking.revoke(
            services().database, services().terms, actor(), campaign_id, grant_id, reason=reason
        )
    )


@routes.get("/<campaign_id>/batches")
@documented({200: GrantBatches}, query=PageQuery, errors=("campaign_not_found",))
def list_batches(campaign_id: str) -> Response:
    """List a campaign's lists of wallets with their progress."""
    query = parse_query(PageQuery)
    with services().database.reading() as tx:
        return answer(views.list_batches(tx, campaign_id, limit=query.limit, after=query.cursor))


@routes.get("/<campaign_id>/batches/<batch_id>")
@documented({200: ShownGrantBatch}, errors=("grant_batch_not_found",))
def show_batch(campaign_id: str, batch_id: str) -> Response:
    """Show a list of wallets with its progress and what failed."""
    with services().database.reading() as tx:
        return answer(views.show_batch(tx, campaign_id, batch_id))


def _move(campaign_id: str, action: Action) -> Response:
    with services().database.transaction() as tx:
        outcome = lifecycle.move(tx, actor(), campaign_id, action)
    return answer_outcome(outcome)


def _enlist(campaign_id: str, wanted: GrantList) -> Response:
    """Answer 202 with the job, or 201 if it is done within the time of ``Prefer: wait=N``."""
    outcome = working.enlist(services().database, actor(), campaign_id, wanted)
    batch = outcome.unwrap()
    batch = wait_for(batch, lambda tx: views.show_batch(tx, campaign_id, batch["batchId"]))
    status = 202 if batch["doneAt"] is None else 201
    told = answer_outcome(Outcome(batch, is_replay=outcome.is_replay), status)
    told.headers["Location"] = f"/admin/billing/campaigns/{campaign_id}/batches/{batch['batchId']}"
    return told
