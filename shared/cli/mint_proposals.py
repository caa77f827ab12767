"""``arrakis mint-proposals``: large mints that wait for a second person."""

from dataclasses import replace
from typing import Any

import click

from shared.cli.acting import confirm, confirmed, with_reason
from shared.cli.api import Api
from shared.cli.desk import Host, get, post, with_desk
from shared.cli.options import limited, paged
from shared.cli.output import as_json, money, more, table, tell
from shared.models.operations import PROPOSAL_STATUSES
from shared.operations import mint_proposals

_GROUP = "mint-proposals"


@click.group(_GROUP)
def proposals() -> None:
    """Decide on mints that are too large for one person.

    Who proposed one cannot approve it, whether by command or by API. On the host you are its user
    who runs the command; over an API you are who the token names.
    """


@proposals.command("list")
@click.option("--status", type=click.Choice(PROPOSAL_STATUSES), help="Only these.")
@click.option("--account", "account_id", help="Only this account's.")
@limited
@paged
@as_json
@with_desk
def list_proposals(
    desk: Host | Api,
    *,
    status: str | None,
    account_id: str | None,
    limit: int,
    cursor: str | None,
    is_json: bool,
) -> None:
    """List proposals, oldest first.

    \b
    Example:
        arrakis mint-proposals list --status pending
    """
    query = {"status": status, "accountId": account_id, "limit": limit, "cursor": cursor}
    wanted = mint_proposals.ProposalFilter(status, account_id, limit, cursor)
    found = desk.read(
        get(_GROUP, query=query), lambda tx: mint_proposals.list_proposals(tx, wanted)
    )
    rows = [
        (one["proposalId"], one["status"], money(one["amountMicro"]), one["accountId"],
         one["proposedBy"])
        for one in found["mintProposals"]
    ]  # fmt: skip
    lines = [table(("proposal", "status", "micro-USD", "account", "by"), rows), *more(found)]
    tell(found, is_json=is_json, text="\n".join(lines) if rows else "There is no such proposal.")


@proposals.command()
@click.argument("proposal_id")
@as_json
@with_desk
def show(desk: Host | Api, proposal_id: str, *, is_json: bool) -> None:
    """Show PROPOSAL_ID.

    \b
    Example:
        arrakis mint-proposals show PROPOSAL
    """
    found = _show(desk, proposal_id)
    tell(found, is_json=is_json, text=describe_proposal(found))


@proposals.command()
@click.argument("proposal_id")
@confirmed
@as_json
@with_desk
def approve(desk: Host | Api, proposal_id: str, *, is_sure: bool, is_json: bool) -> None:
    """Mint what another person proposed.

    It is checked against today's rules; if they refuse it, the proposal has failed for good. Again
    is harmless.

    \b
    Example:
        arrakis mint-proposals approve PROPOSAL --yes
    """
    if not is_sure:
        asked = _show(desk, proposal_id)
        confirm(f"Mint {money(asked['amountMicro'])} for {asked['accountId']}?", is_sure=False)
    found = desk.work(
        post(_GROUP, proposal_id, "approve"),
        lambda host: mint_proposals.approve(host.database, host.terms, host.actor, proposal_id),
    ).facts
    tell(found, is_json=is_json, text=describe_proposal(found))


@proposals.command()
@click.argument("proposal_id")
@with_reason
@as_json
@with_desk
def reject(desk: Host | Api, proposal_id: str, reason: str, *, is_json: bool) -> None:
    """Reject PROPOSAL_ID for good.

    \b
    Example:
        arrakis mint-proposals reject PROPOSAL --reason "the wrong account"
    """
    call = post(_GROUP, proposal_id, "reject", body={"reason": reason})
    found = desk.change(
        replace(call, is_repeatable=False),  # what is decided is not decided again
        lambda tx, actor: mint_proposals.reject(tx, actor, proposal_id, reason),
    ).facts
    tell(found, is_json=is_json, text=describe_proposal(found))


@proposals.command()
@click.argument("proposal_id")
@as_json
@with_desk
def withdraw(desk: Host | Api, proposal_id: str, *, is_json: bool) -> None:
    """Take your own proposal PROPOSAL_ID back.

    \b
    Example:
        arrakis mint-proposals withdraw PROPOSAL
    """
    found = desk.change(
        replace(post(_GROUP, proposal_id, "withdraw"), is_repeatable=False),
        lambda tx, actor: mint_proposals.withdraw(tx, actor, proposal_id),
    ).facts
    tell(found, is_json=is_json, text=describe_proposal(found))


def _show(desk: Host | Api, proposal_id: str) -> dict[str, Any]:
    return desk.read(get(_GROUP, proposal_id), lambda tx: mint_proposals.show(tx, proposal_id))


def describe_proposal(found: dict[str, Any]) -> str:
    """Say in a sentence or two what is proposed and where it stands."""
    words = f"Proposal {found['proposalId']} of {money(found['amountMicro'])}"
    words += f" for {found['accountId']}"
    match found["status"]:
        case "pending":
            return (
                "Nothing was credited yet: a second person has to run "
                f"`arrakis mint-proposals approve {found['proposalId']}`.\n"
                f"{words} waits for that until {found['expiresAt']}."
            )
        case "approved":
            return f"{words} was approved by {found['approvedBy']}: lot {found['lotId']}."
        case "rejected":
            return f"{words} was rejected by {found['rejectedBy']}: {found['reason']}."
        case "failed":
            return f"{words} was approved by {found['approvedBy']} but refused: {found['reason']}."
        case status:
            return f"{words} is {status}."
