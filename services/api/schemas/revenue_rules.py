"""What admins may send about revenue rules (behaviours 14.3 and 112)."""

from pydantic import ValidationInfo, field_validator

from services.api.schemas.fields import Bps, Name, Notes, Reason, Request
from shared.money import BPS_WHOLE


class RevenueRuleRequest(Request):
    """Shares of a charge, in bps of it, that an admin proposes."""

    name: Name
    commons_bps: Bps
    community_bps: Bps
    foundation_bps: Bps
    notes: Notes | None = None

    @field_validator("foundation_bps")
    @classmethod
    def _completes_the_whole(cls, value: int, info: ValidationInfo) -> int:
        if {"commons_bps", "community_bps"} <= info.data.keys():
            total = info.data["commons_bps"] + info.data["community_bps"] + value
            if total != BPS_WHOLE:
                raise ValueError(f"The three shares add up to {total}, not to {BPS_WHOLE}.")
        return value


class ReasonRequest(Request):
    """Why something is done that needs a reason."""

    reason: Reason
