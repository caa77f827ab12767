"""Answers about campaigns and their lists of wallets."""

from typing import Any, Literal

from services.api.schemas.answers.fields import Answer, Micro, NextCursor, Time
from services.api.schemas.campaigns import CampaignStatus, CampaignType, FormulaName


class Campaign(Answer):
    """A campaign; ``committedMicro`` is what lists that are not done yet will take."""

    campaign_id: str
    name: str
    description: str | None
    campaign_type: CampaignType
    status: CampaignStatus
    budget_micro: Micro
    spent_micro: Micro
    committed_micro: Micro
    per_wallet_cap_micro: Micro
    grant_formula: FormulaName
    grant_config: dict[str, Any] | None
    pool_id: str | None
    expires_at: Time | None
    created_by: str
    created_at: Time
    updated_at: Time


class Campaigns(Answer):
    """A page of campaigns."""

    campaigns: list[Campaign]
    next_cursor: NextCursor


class Grant(Answer):
    """What a wallet was granted; ``error`` says why not."""

    grant_id: str
    account_id: str
    lot_id: str | None
    amount_micro: Micro
    status: Literal["pending", "granted", "failed", "revoked"]
    error: str | None
    grant_formula: str | None
    formula_version: int | None
    formula_input: dict[str, Any] | None
    batch_id: str | None


class RevokedGrant(Grant):
    """A grant that was taken back, as far as it was not spent."""

    revoked_micro: Micro
    kept_micro: Micro


class Grants(Answer):
    """A page of grants."""

    grants: list[Grant]
    next_cursor: NextCursor


class GrantBatch(Answer):
    """A list of wallets and how far it has come."""

    batch_id: str
    campaign_id: str
    status: Literal["queued", "running", "paused", "completed", "stopped"]
    total: int
    done: int
    total_granted: int
    total_existing: int
    total_skipped: int
    total_failed: int
    total_amount_micro: Micro
    formula: dict[str, Any] | None
    stop_reason: str | None
    created_by: str
    created_at: Time
    done_at: Time | None


class GrantBatches(Answer):
    """A page of a campaign's lists."""

    batches: list[GrantBatch]
    next_cursor: NextCursor


class GrantFailure(Answer):
    """A wallet that got nothing."""

    account_id: str
    amount_micro: Micro
    error: str | None


class ShownGrantBatch(GrantBatch):
    """A list with its first hundred failures."""

    failures: list[GrantFailure]


class GrantResult(Answer):
    """What became of one wallet of a list."""

    grant_id: str | None
    account_id: str
    lot_id: str | None
    amount_micro: Micro
    status: Literal["granted", "skipped", "failed", "pending"]
    is_new: bool
    error: str | None


class GrantResults(GrantBatch):
    """A list that was granted at once, wallet by wallet."""

    grants: list[GrantResult]


class GrantForecast(Answer):
    """What a wallet would get."""

    account_id: str
    amount_micro: Micro
    status: str


class GrantPreview(Answer):
    """What a list would grant; nothing was changed."""

    campaign_id: str
    formula: dict[str, Any] | None
    wallets: int
    total_new: int
    total_amount_micro: Micro
    remaining_micro: Micro
    grants: list[GrantForecast]
