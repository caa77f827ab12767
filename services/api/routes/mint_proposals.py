"""The admin API of large mints: a second admin approves or rejects what one proposed."""

from flask import Response

from services.api.context import (
    actor,
    answer,
    answer_outcome,
    parse_body,
    parse_query,
    services,
)
from services.api.operations import count_outcome
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.operations import MintProposal, MintProposals
from services.api.schemas.mint_proposals import ProposalsQuery
from services.api.schemas.revenue_rules import ReasonRequest
from shared.ledger.commands import Outcome
from shared.openapi.operations import documented
from shared.operations import mint_proposals

PATH = mint_proposals.PATH
_ERRORS = ("mint_proposal_not_found", "mint_proposal_state")
routes = admin_blueprint("mint_proposals", approvals=("approve", "reject"))


def answer_proposal(outcome: Outcome) -> Response:
    """Answer a mint that became a proposal: 202 while it waits, 200 once it is decided."""
    proposal = outcome.unwrap()
    status = 202 if proposal["status"] == "pending" else 200
    return answer(mint_proposals.told(proposal), status, is_replay=outcome.is_replay)


@routes.get("")
@documented({200: MintProposals}, query=ProposalsQuery)
def list_proposals() -> Response:
    """List proposals, oldest first."""
    query = parse_query(ProposalsQuery)
    wanted = mint_proposals.ProposalFilter(
        status=query.status,
        account_id=query.account_id,
        limit=query.limit,
        after=query.cursor,
    )
    with services().database.reading() as tx:
        return answer(mint_proposals.list_proposals(tx, wanted))


@routes.get("/<proposal_id>")
@documented({200: MintProposal}, errors=("mint_proposal_not_found",))
def show(proposal_id: str) -> Response:
    """Show a proposal."""
    with services().database.reading() as tx:
        return answer(mint_proposals.show(tx, proposal_id))


@routes.post("/<proposal_id>/approve")
@documented(
    {200: MintProposal},
    errors=(
        *_ERRORS,
        "account_not_found",
        "already_credited",
        "amount_above_ceiling",
        "config_invalid",
        "four_eyes_violation",
        "payment_not_confirmed",
        "payment_of_another_account",
    ),
)
def approve(proposal_id: str) -> Response:
    """Mint what another admin proposed; what the ledger refuses ends the proposal."""
    outcome = mint_proposals.approve(services().database, services().terms, actor(), proposal_id)
    count_outcome(services(), "approve_mint", outcome)
    return answer_outcome(outcome)


@routes.post("/<proposal_id>/reject")
@documented({200: MintProposal}, body=ReasonRequest, errors=(*_ERRORS, "four_eyes_violation"))
def reject(proposal_id: str) -> Response:
    """Reject a proposal, with the reason."""
    reason = parse_body(ReasonRequest).reason
    with services().database.transaction() as tx:
        outcome = mint_proposals.reject(tx, actor(), proposal_id, reason)
    return answer_outcome(outcome)


@routes.post("/<proposal_id>/withdraw")
@documented({200: MintProposal}, errors=(*_ERRORS, "not_the_proposer"))
def withdraw(proposal_id: str) -> Response:
    """Take one's own proposal back."""
    with services().database.transaction() as tx:
        outcome = mint_proposals.withdraw(tx, actor(), proposal_id)
    return answer_outcome(outcome)
