"""Mints above the threshold: proposed by one person, approved by another (contract 5).

An approval mints exactly once: the proposal's row is locked, and the lot bears its id. What the
ledger refuses at that moment (the payment was credited meanwhile, the ceiling was lowered) ends the
proposal as ``failed``; whoever still wants the credits proposes them anew.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import Row, bindparam, select, text

from shared.clock import add_seconds, to_wire
from shared.database import Database, Tx, insert_rows, patiently, update_rows
from shared.errors import Conflict, Forbidden, NotFound, Unavailable
from shared.ids import new_id
from shared.ledger.commands import Outcome
from shared.ledger.terms import Terms, TermsCache
from shared.models.operations import ConfigRow, MintProposal
from shared.models.types import UtcTime
from shared.operations import mint_orders
from shared.operations.audit import Actor, record
from shared.operations.four_eyes import Machine
from shared.operations.mint_orders import MintOrder
from shared.parameters import constant

PATH = "/admin/billing/mint-proposals"
TARGET = "mint_proposal"
EXPIRY_HOURS_DEFAULT = 168
EXPIRER = Actor("system", "mint-proposal-expirer")
_TABLE = MintProposal.__table__
_HOURS = re.compile(r"[1-9][0-9]{0,3}")
_EXPIRED_AT_ONCE = 100


class Action(StrEnum):
    """What can be done with a proposal. The audit log names it ``mint_proposal_<action>``."""

    APPROVE = "approve"
    FAIL = "fail"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"


MACHINE = Machine(
    subject="mint proposal",
    code="mint_proposal_state",
    transitions={
        ("pending", Action.APPROVE): "approved",
        ("pending", Action.FAIL): "failed",
        ("pending", Action.REJECT): "rejected",
        ("pending", Action.WITHDRAW): "withdrawn",
        ("pending", Action.EXPIRE): "expired",
    },
    not_by_the_proposer={Action.APPROVE, Action.FAIL},
    only_by_the_proposer={Action.WITHDRAW},
)


@dataclass(frozen=True)
class ProposalFilter:
    """Which proposals are wanted; ``after`` is the id of the last one of the page before."""

    status: str | None = None
    account_id: str | None = None
    limit: int = 50
    after: str | None = None


def propose(tx: Tx, actor: Actor, order: MintOrder) -> dict[str, Any]:
    """Keep *order* for a second person to decide, and return the proposal as callers see it."""
    proposal_id = new_id(tx.now)
    row = {
        "id": proposal_id,
        "account_id": order.account_id,
        "amount_micro": order.amount_micro,
        "source_type": order.source_type,
        "pool_id": order.pool_id,
        "description": order.description,
        "payment_id": order.payment_id,
        "idempotency_key": order.idempotency_key,
        "proposed_by": actor.id,
        "proposed_at": tx.now,
        "expires_at": add_seconds(tx.now, 3_600 * _expiry_hours(tx)),
    }
    insert_rows(tx, _TABLE, [row])
    facts = {
        "accountId": order.account_id,
        "amountMicro": str(order.amount_micro),
        "paymentId": order.payment_id,
    }
    _audit(tx, actor, "propose", proposal_id, facts)
    return show(tx, proposal_id)


def repeat(tx: Tx, actor: Actor, order: MintOrder) -> Outcome | None:
    """Return the proposal that was made of *order* before, by its key; None if there is none.

    Refuses with Conflict (``idempotency_conflict``) if the key stands for another content.
    """
    if order.idempotency_key is None:
        return None
    known = tx.first(_BY_KEY, account=order.account_id, key=order.idempotency_key)
    if known is None:
        return None
    if all(getattr(known, name) == getattr(order, name) for name in _CONTENT):
        return Outcome(_as_told(known, tx.now), is_replay=True)
    refusal = Conflict(
        "This key was used for a mint proposal with other content.",
        code="idempotency_conflict",
        details={"proposalId": known.id},
    )
    _audit(tx, actor, "propose_refused", known.id, {"refusedBecause": refusal.code})
    return Outcome(error=refusal)


def approve(database: Database, terms: TermsCache, actor: Actor, proposal_id: str) -> Outcome:
    """Mint what another person proposed, under today's rules; again is the same answer.

    Returns the ledger's refusal if it does not mint; then the proposal has failed.
    """
    return patiently(partial(_approve, database, terms.current(), actor, proposal_id))


def _approve(database: Database, terms: Terms, actor: Actor, proposal_id: str) -> Outcome:
    with database.transaction() as tx:
        proposal = _admit(tx, actor, proposal_id, Action.APPROVE)
        if isinstance(proposal, Outcome):
            return proposal
        minted = mint_orders.carry_out(
            tx,
            actor,
            mint_orders.prepare(tx, _order(proposal)),
            terms,
            proposalId=proposal.id,
            proposedBy=proposal.proposed_by,
        )
        refusal = minted.error
        if minted.is_replay:
            refusal = Conflict("The proposal's id was used as a mint's key.", code="already_minted")
        if refusal is not None:
            _settle(tx, actor, proposal, Action.FAIL, approved_by=actor.id, reason=refusal.code)
            return Outcome(error=refusal)
        _settle(tx, actor, proposal, Action.APPROVE, approved_by=actor.id)
        return Outcome(show(tx, proposal_id))


def reject(tx: Tx, actor: Actor, proposal_id: str, reason: str) -> Outcome:
    """Refuse a proposal for good; done or refused, it is audited, so the caller commits either."""
    proposal = _admit(tx, actor, proposal_id, Action.REJECT)
    if isinstance(proposal, Outcome):
        return proposal
    _settle(tx, actor, proposal, Action.REJECT, rejected_by=actor.id, reason=reason)
    return Outcome(show(tx, proposal_id))


def withdraw(tx: Tx, actor: Actor, proposal_id: str) -> Outcome:
    """Take one's own proposal back; done or refused, it is audited."""
    proposal = _admit(tx, actor, proposal_id, Action.WITHDRAW)
    if isinstance(proposal, Outcome):
        return proposal
    _settle(tx, actor, proposal, Action.WITHDRAW)
    return Outcome(show(tx, proposal_id))


def expire_due(database: Database) -> int:
    """Expire pending proposals whose time is over; return how many."""
    with database.transaction() as tx:
        due = tx.all(_DUE, now=tx.now)
        for proposal in due:
            _lock(tx, proposal.id)
    return len(due)


def show(tx: Tx, proposal_id: str) -> dict[str, Any]:
    """Return a proposal as callers see it. Raises NotFound (``mint_proposal_not_found``)."""
    row = tx.first(_BY_ID, id=proposal_id)
    if row is None:
        raise _not_found()
    return _as_told(row, tx.now)


def told(proposal: dict[str, Any]) -> dict[str, Any]:
    """Return what a mint is answered that became *proposal*: that, and where it is decided on."""
    path = f"{PATH}/{proposal['proposalId']}"
    is_waiting = proposal["status"] == "pending"
    return proposal | {
        "code": "four_eyes_required",
        "message": "A mint of this size needs the approval of a second admin.",
        "lookUp": path,
        "approve": f"{path}/approve" if is_waiting else None,
    }


def list_proposals(tx: Tx, wanted: ProposalFilter) -> dict[str, Any]:
    """Return proposals, oldest first, and the next page's cursor."""
    statement = select(*_TABLE.c).order_by(MintProposal.id)
    is_over = MintProposal.expires_at <= tx.now
    if wanted.status == "expired":  # swept already or not
        statement = statement.where(
            (MintProposal.status == "expired") | ((MintProposal.status == "pending") & is_over)
        )
    elif wanted.status is not None:
        statement = statement.where(MintProposal.status == wanted.status)
    if wanted.status == "pending":
        statement = statement.where(~is_over)
    if wanted.account_id is not None:
        statement = statement.where(MintProposal.account_id == wanted.account_id)
    if wanted.after is not None:
        statement = statement.where(MintProposal.id > wanted.after)
    rows = tx.all(statement.limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "mintProposals": [_as_told(row, tx.now) for row in page],
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def read_expiry_hours(written: str) -> int:
    """Read ``mint_proposal_expiry_hours``. Raises ValueError unless it is from 1 to 9,999."""
    if _HOURS.fullmatch(written) is None:
        raise ValueError(
            f"mint_proposal_expiry_hours is {written[:40]!r}, not a whole number from 1 to 9999"
        )
    return int(written)


def _admit(tx: Tx, actor: Actor, proposal_id: str, action: Action) -> Row[Any] | Outcome:
    """Lock a proposal for *action*, or return what to answer instead, which is audited.

    Who approved it and asks again gets the same answer.
    """
    proposal = _lock(tx, proposal_id)
    try:
        if proposal is None:
            raise _not_found()
        is_done = action is Action.APPROVE and proposal.status == "approved"
        if is_done and proposal.approved_by == actor.id:
            return Outcome(_as_told(proposal, tx.now), is_replay=True)
        MACHINE.next_status(
            proposal.status, action, proposer_id=proposal.proposed_by, actor_id=actor.id
        )
    except (NotFound, Conflict, Forbidden) as refusal:
        _audit(tx, actor, f"{action}_refused", proposal_id, {"refusedBecause": refusal.code})
        return Outcome(error=refusal)
    return proposal


def _lock(tx: Tx, proposal_id: str) -> Row[Any] | None:
    """Lock a proposal until *tx* ends and return it; one whose time is over is expired first."""
    proposal = tx.first(_BY_ID.with_for_update(), id=proposal_id)
    tx.restart_clock()
    if proposal is not None and _status(proposal, tx.now) != proposal.status:
        _settle(tx, EXPIRER, proposal, Action.EXPIRE)
        proposal = tx.first(_BY_ID, id=proposal_id)
    return proposal


def _settle(tx: Tx, actor: Actor, proposal: Row[Any], action: Action, **facts: Any) -> None:
    """Write what *action* makes of a locked proposal, and audit it."""
    status = MACHINE.next_status(
        proposal.status, action, proposer_id=proposal.proposed_by, actor_id=actor.id
    )
    row = {"id": proposal.id, "status": status, "decided_at": tx.now, **facts}
    update_rows(tx, _TABLE, [row])
    details = {
        "accountId": proposal.account_id,
        "amountMicro": str(proposal.amount_micro),
        "proposedBy": proposal.proposed_by,
        "reason": facts.get("reason"),
    }
    _audit(tx, actor, action, proposal.id, details)


def _order(proposal: Row[Any]) -> MintOrder:
    return MintOrder(
        lot_id=proposal.id,
        # Not the caller's key, nor the payment's: what has either already is a second credit.
        idempotency_key=proposal.id,
        account_id=proposal.account_id,
        description=proposal.description,
        **{name: getattr(proposal, name) for name in _CONTENT},
    )


def _expiry_hours(tx: Tx) -> int:
    hours = tx.scalar(_EXPIRY)
    if hours is None:
        return EXPIRY_HOURS_DEFAULT
    try:
        return read_expiry_hours(hours)
    except ValueError as error:
        raise Unavailable(f"{error}.", code="config_invalid") from error


def _audit(tx: Tx, actor: Actor, action: str, target_id: str, details: Mapping[str, Any]) -> None:
    name = f"{TARGET}_{action}"
    record(tx, actor, name, target_type=TARGET, target_id=target_id, details=details)


def _not_found() -> NotFound:
    return NotFound("Mint proposal not found.", code="mint_proposal_not_found")


def _status(row: Row[Any], now: datetime) -> str:
    is_over = row.status == "pending" and row.expires_at <= now
    return "expired" if is_over else str(row.status)


def _as_told(row: Row[Any], now: datetime) -> dict[str, Any]:
    return {
        "proposalId": row.id,
        "status": _status(row, now),
        "accountId": row.account_id,
        "amountMicro": str(row.amount_micro),
        "sourceType": row.source_type,
        "poolId": row.pool_id,
        "description": row.description,
        "paymentId": row.payment_id,
        "proposedBy": row.proposed_by,
        "proposedAt": to_wire(row.proposed_at),
        "expiresAt": to_wire(row.expires_at),
        "approvedBy": row.approved_by,
        "rejectedBy": row.rejected_by,
        "decidedAt": to_wire(row.decided_at) if row.decided_at else None,
        "reason": row.reason,
        "lotId": row.id if row.status == "approved" else None,
    }


# What a repeat must have.
_CONTENT = ("amount_micro", "source_type", "pool_id", "payment_id")
_EXPIRY = select(ConfigRow.value).where(ConfigRow.key == "mint_proposal_expiry_hours")
_BY_ID = select(*_TABLE.c).where(MintProposal.id == text(":id"))
_BY_KEY = select(*_TABLE.c).where(
    MintProposal.account_id == text(":account"), MintProposal.idempotency_key == text(":key")
)
_DUE = (
    select(MintProposal.id)
    .where(
        MintProposal.status == constant("pending"),
        MintProposal.expires_at <= bindparam("now", type_=UtcTime()),
    )
    .order_by(MintProposal.expires_at, MintProposal.id)
    .limit(_EXPIRED_AT_ONCE)
)
