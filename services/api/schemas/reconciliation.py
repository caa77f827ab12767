"""The bodies and queries about the reconciliation."""

from typing import Annotated, Literal

from pydantic import Field

from services.api.schemas.fields import Identifier, Request

RunKind = Literal["cache", "daily"]


class RunRequest(Request):
    """What to compare: the cached balances only, or everything; with the provider, how far back."""

    kind: RunKind = "daily"
    provider: bool = True
    provider_days: Annotated[int, Field(ge=1, le=90)] = 7


class RunsQuery(Request):
    """Which runs an admin wants to see."""

    kind: RunKind | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 20
    cursor: Identifier | None = None
