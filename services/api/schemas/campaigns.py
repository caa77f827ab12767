"""What admins may send about campaigns and lists of wallets (behaviour 14.3)."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from services.api.schemas.fields import (
    Identifier,
    Metadata,
    Micro,
    Moment,
    Name,
    Notes,
    OptionalMicro,
    Pool,
    Reason,
    Request,
)
from shared.campaigns.lists import BATCH_MAX, LIST_MAX, Wish

CampaignType = Literal["reverse_airdrop", "promotional", "loyalty", "referral"]
CampaignStatus = Literal["draft", "active", "paused", "completed", "expired"]
FormulaName = Literal["fixed_amount", "proportional_loss", "tiered"]


class CampaignRequest(Request):
    """A campaign to be drafted. ``grantConfig`` is what its formula needs (docs/campaigns.md)."""

    name: Name
    description: Notes | None = None
    campaign_type: CampaignType
    budget_micro: Micro
    per_wallet_cap_micro: Micro = 5_000_000
    grant_formula: FormulaName = "fixed_amount"
    grant_config: Metadata = None
    pool_id: Pool | None = None
    expires_at: Moment | None = None


class CampaignChange(Request):
    """Fields of a draft to be changed; what is not named stays."""

    name: Name = ""
    description: Notes | None = None
    campaign_type: CampaignType = "promotional"
    budget_micro: Micro = 1
    per_wallet_cap_micro: Micro = 1
    grant_formula: FormulaName = "fixed_amount"
    grant_config: Metadata = None
    pool_id: Pool | None = None
    expires_at: Moment | None = None

    def changes(self) -> dict[str, Any]:
        """Return what was named."""
        return self.model_dump(include=self.model_fields_set)


class CampaignsQuery(Request):
    """Which campaigns are wanted."""

    status: CampaignStatus | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None


class GrantsQuery(Request):
    """Which grants of a campaign are wanted."""

    status: Literal["pending", "granted", "failed", "revoked"] | None = None
    account_id: Identifier | None = None
    batch_id: Identifier | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None


class GrantWish(Request):
    """One wallet: an amount, or what the campaign's formula works with."""

    account_id: Identifier
    amount_micro: OptionalMicro = None
    formula_input: Metadata = None


def _to_wishes(grants: list[GrantWish]) -> list[Wish]:
    return [Wish(one.account_id, one.amount_micro, one.formula_input) for one in grants]


class GrantsRequest(Request):
    """1 to 1000 wallets (behaviour 110)."""

    grants: Annotated[list[GrantWish], Field(min_length=1, max_length=BATCH_MAX)]

    def wishes(self) -> list[Wish]:
        """Return the wallets as the domain has them."""
        return _to_wishes(self.grants)


class GrantListRequest(Request):
    """1 to 100,000 wallets."""

    grants: Annotated[list[GrantWish], Field(min_length=1, max_length=LIST_MAX)]

    def wishes(self) -> list[Wish]:
        """Return the wallets as the domain has them."""
        return _to_wishes(self.grants)


class PreviewRequest(GrantsRequest):
    """Wallets to compute for; with another formula or other figures to try them."""

    grant_formula: FormulaName | None = None
    grant_config: Metadata = None

    @model_validator(mode="after")
    def _has_figures(self) -> Self:
        if self.grant_formula is not None and self.grant_config is None:
            raise ValueError("grantFormula needs its grantConfig")
        return self


class RevokeGrantRequest(Request):
    """Why a grant is revoked."""

    reason: Reason
