"""The queries about large mints that wait for a second admin."""

from typing import Annotated

from pydantic import Field

from services.api.schemas.fields import Identifier, Request
from shared.models.operations import PROPOSAL_STATUSES

ProposalStatus = Annotated[str, Field(pattern=f"^({'|'.join(PROPOSAL_STATUSES)})$")]


class ProposalsQuery(Request):
    """Which proposals an admin wants to see."""

    status: ProposalStatus | None = None
    account_id: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None
