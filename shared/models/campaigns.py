"""Campaign tables: a budget, and the grants made from it (behaviour 3.4)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, one_of
from shared.models.types import Micro

_RUNNING = text("status IN ('active', 'paused')")


class Campaign(Base):
    """A budget of credits that is granted to wallets by a formula."""

    __tablename__ = "credit_campaigns"
    __table_args__ = (
        one_of("campaign_type", "reverse_airdrop", "promotional", "loyalty", "referral"),
        one_of("status", "draft", "active", "paused", "completed", "expired"),
        one_of("grant_formula", "proportional_loss", "fixed_amount", "tiered"),
        CheckConstraint(
            "budget_micro >= 0 AND spent_micro >= 0 AND spent_micro <= budget_micro", name="budget"
        ),
        Index(
            "ix_credit_campaigns_running",
            "status",
            postgresql_where=_RUNNING,
            sqlite_where=_RUNNING,
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str | None]
    campaign_type: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="draft")
    budget_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    spent_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    grant_formula: Mapped[str] = mapped_column(server_default="fixed_amount")
    grant_config: Mapped[str | None]
    pool_id: Mapped[str | None]
    per_wallet_cap_micro: Mapped[int] = mapped_column(Micro, server_default="5000000")
    expires_at: Mapped[datetime | None]
    created_by: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Grant(Base):
    """What one account got, or is to get, from one campaign: at most once."""

    __tablename__ = "credit_grants"
    __table_args__ = (
        one_of("status", "pending", "granted", "failed", "revoked"),
        CheckConstraint("amount_micro > 0", name="amount"),
        UniqueConstraint("campaign_id", "account_id"),
        Index("ix_credit_grants_account_id", "account_id"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("credit_campaigns.id"))
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    lot_id: Mapped[str | None] = mapped_column(ForeignKey("credit_lots.id"))
    amount_micro: Mapped[int] = mapped_column(Micro)
    grant_formula: Mapped[str | None]
    formula_input: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="pending")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
