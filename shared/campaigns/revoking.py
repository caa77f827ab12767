"""Revoking a grant: what its wallet has not spent comes back to the campaign's budget.

What was spent stays granted, and what a hold has at that moment counts as spent: a hold that ends
with less lets the rest expire. So a campaign's ``spent_micro`` is the sum of what its granted and
revoked grants gave, less what was clawed back from the lots of the revoked ones.
"""

import json
from functools import partial
from typing import Any

from sqlalchemy import Row, select, text

from shared.campaigns import lifecycle
from shared.campaigns.granting import describe_grant, find_grant
from shared.database import Database, Tx, patiently, update_rows
from shared.errors import Conflict, NotFound
from shared.ledger.book import post
from shared.ledger.commands import Outcome, Revoke
from shared.ledger.terms import Terms, TermsCache
from shared.models.campaigns import Campaign, Grant
from shared.models.ledger import Operation
from shared.operations.audit import Actor


def revoke(
    database: Database,
    terms: TermsCache,
    actor: Actor,
    campaign_id: str,
    grant_id: str,
    *,
    reason: str,
) -> Outcome:
    """Revoke a grant, whatever its campaign's status; one that is revoked is told as it is.

    Refuses, which is audited, if the grant is unknown or never brought a lot.
    """
    return patiently(
        partial(
            _revoke,
            database,
            terms.current(),
            actor,
            campaign_id=campaign_id,
            grant_id=grant_id,
            reason=reason,
        )
    )


def campaign_of(tx: Tx, grant_id: str) -> str:
    """Return the campaign of a grant. Raises NotFound (``grant_not_found``)."""
    found = tx.scalar(select(Grant.campaign_id).where(Grant.id == grant_id))
    if found is None:
        raise NotFound("Grant not found.", code="grant_not_found")
    return str(found)


def _revoke(
    database: Database, terms: Terms, actor: Actor, *, campaign_id: str, grant_id: str, reason: str
) -> Outcome:
    with database.transaction() as tx:
        try:
            campaign = lifecycle.lock(tx, campaign_id)
            grant = find_grant(tx, campaign_id, grant_id)
            if grant.status == "revoked":
                return Outcome(_describe(tx, grant), is_replay=True)
            _require_granted(grant)
        except (NotFound, Conflict) as refusal:
            return lifecycle.refuse(tx, actor, "grant_revoke", campaign_id, refusal)
        command = Revoke(grant.account_id, grant.lot_id, f"Grant revoked: {reason}")
        taken = int(post(tx, [command], terms)[0].unwrap()["revokedMicro"])
        row = {"id": grant.id, "status": "revoked", "updated_at": tx.now}
        update_rows(tx, Grant.__table__, [row])
        spent = {"id": campaign.id, "spent_micro": -taken}
        update_rows(tx, Campaign.__table__, [spent], added=("spent_micro",))
        details = {"grantId": grant.id, "revokedMicro": str(taken), "reason": reason}
        lifecycle.audit(tx, actor, "grant_revoke", campaign_id, details)
        return Outcome(_describe(tx, find_grant(tx, campaign_id, grant_id)))


def _require_granted(grant: Row[Any]) -> None:
    if grant.status != "granted" or grant.lot_id is None:
        raise Conflict(
            f"The grant is {grant.status}: there is nothing to take back.", code="grant_not_granted"
        )


def _describe(tx: Tx, grant: Row[Any]) -> dict[str, Any]:
    answer = json.loads(tx.scalar(_REVOKED, account=grant.account_id, lot=grant.lot_id))
    taken = int(answer["revokedMicro"])
    return {
        **describe_grant(grant),
        "revokedMicro": str(taken),
        "keptMicro": str(grant.amount_micro - taken),
    }


# Not the lot's ``clawed_back_micro``: an operator's repair of the lot counts there as well.
_REVOKED = select(Operation.answer).where(
    Operation.idempotency_key == text(":lot"),
    Operation.account_id == text(":account"),
    Operation.operation == Revoke.operation,
)
