"""Granting: lot, grant and what is spent are one transaction, once for each wallet (W56-W59).

Who comes here holds the lock of the campaign's row. ``spent_micro`` is the sum of what is granted,
less what revoked grants gave back, always. Locks are taken in one order: the list, the campaign,
the accounts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Row, bindparam, select, text

from shared.campaigns import lifecycle
from shared.campaigns.lists import free_budget, require_active
from shared.database import Database, Tx, insert_rows, patiently, update_rows
from shared.errors import ArrakisError, Conflict, NotFound, Refused
from shared.ids import new_id
from shared.jobs import finished
from shared.ledger.book import post
from shared.ledger.commands import Mint, Outcome
from shared.ledger.terms import Terms, TermsCache
from shared.models.campaigns import Campaign, Grant, GrantBatch, GrantItem
from shared.models.ledger import GENERAL_POOL
from shared.operations.audit import Actor
from shared.parameters import member_of

WORKER = Actor("system", "grant-lists")


@dataclass
class _Step:
    """What becomes of one item: its status, and why if it failed."""

    item: Row[Any]
    status: str = "granted"
    error: str | None = None
    lot_id: str | None = None


def grant_next(tx: Tx, campaign: Row[Any], batch: Row[Any], terms: Terms, *, size: int) -> int:
    """Grant the next *size* items of *batch* and write everything; return how many it were.

    The campaign is active, and locked like the batch. Zero means that the list is done.
    """
    items = tx.all(_NEXT_ITEMS, id=batch.id, position=batch.position, size=size)
    if not items:
        return 0
    known = _known_grants(tx, campaign.id, items)
    steps = _decide(items, known, free_budget(tx, campaign))
    chosen = {step.item.account_id: step for step in steps if step.status == "granted"}
    mints = [_mint(tx, campaign, account, step.item) for account, step in chosen.items()]
    outcomes = post(tx, mints, terms) if mints else []
    for step, outcome in zip(chosen.values(), outcomes, strict=True):
        step.lot_id, step.error = _settled(outcome, step.item.amount_micro)
        step.status = "failed" if step.error else "granted"
    _follow_the_first(steps, chosen)
    _write_grants(tx, campaign, batch, list(chosen.values()), known)
    _write_progress(tx, campaign, batch, steps)
    return len(items)


def finish(tx: Tx, batch: Row[Any], *, stop_reason: str | None = None) -> None:
    """End a list: all of it is done, or *stop_reason* says why the rest is not granted."""
    ended = {"id": batch.id, "pending_micro": 0, "stop_reason": stop_reason, "updated_at": tx.now}
    update_rows(tx, GrantBatch.__table__, [finished(tx.now, **ended)])


def fail_next(tx: Tx, batch: Row[Any], error: str) -> None:
    """Note that the next item of *batch* cannot be granted, and go past it."""
    item = tx.first(_NEXT_ITEMS, id=batch.id, position=batch.position, size=1)
    if item is not None:
        _write_progress(tx, None, batch, [_Step(item, "failed", error[:200])])


def retry(
    database: Database, terms: TermsCache, actor: Actor, campaign_id: str, grant_id: str
) -> Outcome:
    """Try a failed grant again, now; one that is granted is told as it is (W59).

    Refuses, which is audited, if the grant is unknown, the campaign is not active, the amount
    exceeds what is left of the budget, or the ledger says no again.
    """
    return patiently(partial(_retry, database, terms, actor, campaign_id, grant_id))


def _retry(
    database: Database, terms: TermsCache, actor: Actor, campaign_id: str, grant_id: str
) -> Outcome:
    current = terms.current()
    with database.transaction() as tx:
        try:
            campaign = lifecycle.lock(tx, campaign_id)
            grant = find_grant(tx, campaign_id, grant_id)
            if grant.status == "granted":
                return Outcome(describe_grant(grant), is_replay=True)
            _require_retryable(tx, campaign, grant)
        except (NotFound, Conflict, Refused) as refusal:
            return lifecycle.refuse(tx, actor, "grant_retry", campaign_id, refusal)
        outcome = post(tx, [_mint(tx, campaign, grant.account_id, grant)], current)[0]
        lot_id, error = _settled(outcome, grant.amount_micro)
        row = {
            "id": grant.id,
            "lot_id": lot_id,
            "status": "failed" if error else "granted",
            "error": error,
            "updated_at": tx.now,
        }
        update_rows(tx, Grant.__table__, [row])
        if error is not None:
            assert outcome.error is not None
            return lifecycle.refuse(tx, actor, "grant_retry", campaign_id, outcome.error)
        _spend(tx, campaign, grant.amount_micro)
        details = {"grantId": grant.id, "lotId": lot_id, "amountMicro": str(grant.amount_micro)}
        lifecycle.audit(tx, actor, "grant_retry", campaign_id, details)
        return Outcome(describe_grant(find_grant(tx, campaign_id, grant_id)))


def describe_grant(row: Row[Any]) -> dict[str, Any]:
    """Return a grant as callers see it."""
    return {
        "grantId": row.id,
        "accountId": row.account_id,
        "lotId": row.lot_id,
        "amountMicro": str(row.amount_micro),
        "status": row.status,
        "error": row.error,
        "grantFormula": row.grant_formula,
        "formulaVersion": row.formula_version,
        "formulaInput": json.loads(row.formula_input) if row.formula_input else None,
        "batchId": row.batch_id,
    }


def _decide(items: Sequence[Row[Any]], known: dict[str, Row[Any]], free_micro: int) -> list[_Step]:
    """Say of each item whether it can be granted; those that can are ``granted`` for now."""
    steps, chosen = [], set()
    for item in items:
        step = _Step(item)
        steps.append(step)
        free_micro += item.committed_micro
        grant = known.get(item.account_id)
        if item.amount_micro == 0:
            step.status = "skipped"
        elif item.account_id in chosen or (grant is not None and grant.status == "granted"):
            step.status = "existing"
        elif grant is not None and grant.status == "revoked":
            step.status, step.error = "failed", "grant_revoked"
        elif item.amount_micro > free_micro:
            step.status, step.error = "failed", "budget_exceeded"
        else:
            chosen.add(item.account_id)
            free_micro -= item.amount_micro
    return steps


def _follow_the_first(steps: list[_Step], chosen: dict[str, _Step]) -> None:
    """Tell of a wallet that is named twice the same both times if the first one failed."""
    for step in steps:
        first = chosen.get(step.item.account_id)
        if step.status == "existing" and first is not None and first.error is not None:
            step.status, step.error = "failed", first.error


def _mint(tx: Tx, campaign: Row[Any], account_id: str, wanted: Row[Any]) -> Mint:
    return Mint(
        account_id=account_id,
        lot_id=new_id(tx.now),
        amount_micro=wanted.amount_micro,
        source_type="grant",
        source_id=f"campaign-{campaign.id}-{account_id}",
        pool_id=campaign.pool_id or GENERAL_POOL,
        expires_at=campaign.expires_at,
        description=f"Campaign {campaign.name}",
        idempotency_key=f"grant:{campaign.id}:{account_id}",
    )


def _settled(outcome: Outcome, amount_micro: int) -> tuple[str | None, str | None]:
    """Return the lot of a mint, or the code of its refusal.

    A lot of this grant that is there already, from before it was noted, is this grant's (W59).
    """
    error: ArrakisError | None = outcome.error
    if error is None:
        return str(outcome.unwrap()["lotId"]), None
    is_ours = error.code == "already_credited"
    if is_ours and error.details.get("amountMicro") == str(amount_micro):
        return str(error.details["lotId"]), None
    return None, error.code


def _write_grants(
    tx: Tx,
    campaign: Row[Any],
    batch: Row[Any],
    steps: list[_Step],
    known: dict[str, Row[Any]],
) -> None:
    made, changed = [], []
    formula = json.loads(batch.formula) if batch.formula else {}
    for step in steps:
        facts = {
            "lot_id": step.lot_id,
            "amount_micro": step.item.amount_micro,
            "grant_formula": formula.get("name", campaign.grant_formula),
            "formula_version": formula.get("version"),
            "formula_input": step.item.formula_input,
            "status": step.status,
            "error": step.error,
            "batch_id": batch.id,
            "updated_at": tx.now,
        }
        earlier = known.get(step.item.account_id)
        if earlier is not None:
            changed.append({"id": earlier.id, **facts})
        elif step.error != "account_not_found":  # a row needs its account
            row = {"campaign_id": campaign.id, "account_id": step.item.account_id}
            made.append({"id": new_id(tx.now), **row, **facts, "created_at": tx.now})
    insert_rows(tx, Grant.__table__, made)
    update_rows(tx, Grant.__table__, changed)


def _write_progress(tx: Tx, campaign: Row[Any] | None, batch: Row[Any], steps: list[_Step]) -> None:
    items = [
        {
            "batch_id": batch.id,
            "position": step.item.position,
            "status": step.status,
            "error": step.error,
        }
        for step in steps
    ]
    update_rows(tx, GrantItem.__table__, items, key=("batch_id", "position"))
    counts = dict.fromkeys(("granted", "existing", "skipped", "failed"), 0)
    for step in steps:
        counts[step.status] += 1
    granted_micro = sum(step.item.amount_micro for step in steps if step.status == "granted")
    row = {
        "id": batch.id,
        "position": len(steps),
        **counts,
        "granted_micro": granted_micro,
        "pending_micro": -sum(step.item.committed_micro for step in steps),
    }
    update_rows(tx, GrantBatch.__table__, [row], added=tuple(name for name in row if name != "id"))
    if granted_micro and campaign is not None:
        _spend(tx, campaign, granted_micro)


def _spend(tx: Tx, campaign: Row[Any], amount_micro: int) -> None:
    row = {"id": campaign.id, "spent_micro": amount_micro}
    update_rows(tx, Campaign.__table__, [row], added=("spent_micro",))


def find_grant(tx: Tx, campaign_id: str, grant_id: str) -> Row[Any]:
    """Return a grant of a campaign. Raises NotFound (``grant_not_found``)."""
    grant = tx.first(_GRANT, id=grant_id, campaign=campaign_id)
    if grant is None:
        raise NotFound("Grant not found.", code="grant_not_found")
    return grant


def _require_retryable(tx: Tx, campaign: Row[Any], grant: Row[Any]) -> None:
    require_active(campaign)
    if grant.status == "revoked":
        raise Conflict("The grant was revoked.", code="grant_revoked")
    free = free_budget(tx, campaign)
    if grant.amount_micro > free:
        raise Refused(
            f"The grant would exceed budget: {free} micro-USD are left.", code="budget_exceeded"
        )


def _known_grants(tx: Tx, campaign_id: str, items: Sequence[Row[Any]]) -> dict[str, Row[Any]]:
    accounts = [item.account_id for item in items]
    rows = tx.all(_GRANTS, campaign=campaign_id, accounts=accounts)
    return {row.account_id: row for row in rows}


_NEXT_ITEMS = (
    select(*GrantItem.__table__.c)
    .where(GrantItem.batch_id == text(":id"), GrantItem.position > bindparam("position"))
    .order_by(GrantItem.position)
    .limit(bindparam("size"))
)
_GRANT = select(*Grant.__table__.c).where(
    Grant.id == text(":id"), Grant.campaign_id == text(":campaign")
)
_GRANTS = select(Grant.id, Grant.account_id, Grant.status).where(
    Grant.campaign_id == text(":campaign"), member_of(Grant.account_id, "accounts")
)
