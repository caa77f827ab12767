"""The bodies and queries about the dead-letter queue."""

from typing import Annotated, Literal

from pydantic import Field

from services.api.schemas.fields import Identifier, Reason, Request


class LettersQuery(Request):
    """Which dead letters an admin wants to see."""

    status: Literal["pending", "processing", "completed", "failed", "manual_review"] | None = None
    operation: (
        Literal["deposit", "refund", "distribution", "reconciliation", "webhook", "notification"]
        | None
    ) = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None


class RetryQuery(Request):
    """Whether the retry is only rehearsed."""

    dry_run: Annotated[bool, Field(strict=False)] = False


class ResolveRequest(Request):
    """Why a dead letter is closed, and how."""

    reason: Reason
    resolution: Literal["completed", "failed"] = "completed"
