"""``arrakis mint-proposals``: large mints that wait for a second person."""

from typing import Any

import click

from shared.cli.acting import operator, with_reason
from shared.cli.desk import on_host, open_database
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.ledger.terms import TermsCache
from shared.models.operations import PROPOSAL_STATUSES
from shared.money import format_usd
from shared.operations import mint_proposals


@click.group("mint-proposals")
def proposals() -> None:
    """Decide on mints that are too large for one person.

    Who proposed one cannot approve it, whether by command or by API. By command you are the user
    of this host who runs it.
    """


@proposals.command("list")
@click.option("--status", type=click.Choice(PROPOSAL_STATUSES), help="Only these.")
@click.option("--account", "account_id", help="Only this account's.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--after", metavar="CURSOR", help="The nextCursor of the page before.")
@as_json
@on_host
def list_proposals(
    settings: OperatorSettings,
    status: str | None,
    account_id: str | None,
    limit: int,
    after: str | None,
    *,
    is_json: bool,
) -> None:
    """List proposals, oldest first.

    \b
    Example:
        arrakis mint-proposals list --status pending
    """
    wanted = mint_proposals.ProposalFilter(status, account_id, limit, after)
    with open_database(settings).reading() as tx:
        found = mint_proposals.list_proposals(tx, wanted)
    lines = [
        f"{one['proposalId']}  {one['status']:9} {format_usd(int(one['amountMicro']))} "
        f"to {one['accountId']}, by {one['proposedBy']}"
        for one in found["mintProposals"]
    ]
    more = [f"More: --after {found['nextCursor']}"] if found["nextCursor"] else []
    tell(found, is_json=is_json, text="\n".join([*lines, *more]) or "There are none.")


@proposals.command()
@click.argument("proposal_id")
@as_json
@on_host
def show(settings: OperatorSettings, proposal_id: str, *, is_json: bool) -> None:
    """Show PROPOSAL_ID.

    \b
    Example:
        arrakis mint-proposals show PROPOSAL
    """
    with open_database(settings).reading() as tx:
        found = mint_proposals.show(tx, proposal_id)
    tell(found, is_json=is_json, text=describe_proposal(found))


@proposals.command()
@click.argument("proposal_id")
@as_json
@on_host
def approve(settings: OperatorSettings, proposal_id: str, *, is_json: bool) -> None:
    """Mint what another person proposed.

    It is checked against today's rules; if they refuse it, the proposal has failed for good.

    \b
    Example:
        arrakis mint-proposals approve PROPOSAL
    """
    database = open_database(settings)
    terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
    found = mint_proposals.approve(database, terms, operator(), proposal_id).unwrap()
    tell(found, is_json=is_json, text=describe_proposal(found))


@proposals.command()
@click.argument("proposal_id")
@with_reason
@as_json
@on_host
def reject(settings: OperatorSettings, proposal_id: str, reason: str, *, is_json: bool) -> None:
    """Reject PROPOSAL_ID for good.

    \b
    Example:
        arrakis mint-proposals reject PROPOSAL --reason "the wrong account"
    """
    with open_database(settings).transaction() as tx:
        outcome = mint_proposals.reject(tx, operator(), proposal_id, reason)
    found = outcome.unwrap()
    tell(found, is_json=is_json, text=describe_proposal(found))


@proposals.command()
@click.argument("proposal_id")
@as_json
@on_host
def withdraw(settings: OperatorSettings, proposal_id: str, *, is_json: bool) -> None:
    """Take your own proposal PROPOSAL_ID back.

    \b
    Example:
        arrakis mint-proposals withdraw PROPOSAL
    """
    with open_database(settings).transaction() as tx:
        outcome = mint_proposals.withdraw(tx, operator(), proposal_id)
    found = outcome.unwrap()
    tell(found, is_json=is_json, text=describe_proposal(found))


def describe_proposal(found: dict[str, Any]) -> str:
    """Say in a sentence or two what is proposed and where it stands."""
    amount = f"{found['amountMicro']} ({format_usd(int(found['amountMicro']))})"
    words = f"Proposal {found['proposalId']} of {amount} for {found['accountId']}"
    match found["status"]:
        case "pending":
            return (
                f"{words} waits for a second person until {found['expiresAt']}. "
                f"Approve: arrakis mint-proposals approve {found['proposalId']}"
            )
        case "approved":
            return f"{words} was approved by {found['approvedBy']}: lot {found['lotId']}."
        case "rejected":
            return f"{words} was rejected by {found['rejectedBy']}: {found['reason']}."
        case "failed":
            return f"{words} was approved by {found['approvedBy']} but refused: {found['reason']}."
        case status:
            return f"{words} is {status}."
