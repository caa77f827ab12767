"""The bodies and queries about alerts."""

from typing import Annotated

from pydantic import Field

from services.api.schemas.fields import Identifier, Reason, Request


class HistoryQuery(Request):
    """A page of what fired and cleared."""

    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None


class AcknowledgeRequest(Request):
    """Which subject of an alert is seen, and why nothing else needs to be done."""

    subject: Annotated[str, Field(max_length=200)] = ""
    reason: Reason
