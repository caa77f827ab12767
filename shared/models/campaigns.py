"""Campaign tables: a budget, the grants made from it (behaviour 3.4), and the lists worked off."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, Job, one_of
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
    """What one account got from one campaign: at most once. A failed one says why.

    ``formula_version`` is that of the formula which gave the amount, None if the caller did.
    """

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
    batch_id: Mapped[str | None]
    formula_version: Mapped[int | None]
    error: Mapped[str | None]
    updated_at: Mapped[datetime | None]


class GrantBatch(Job, Base):
    """A list of wallets as a job: granted from the front, ``position`` items are done.

    ``pending_micro`` is what it will still take from the budget; other lists leave that alone.
    ``stop_reason`` says why what was left of it is not granted. ``formula`` is JSON: which one,
    its version, its figures.
    """

    __tablename__ = "grant_batches"
    __table_args__ = (
        one_of("state", "new", "done", "parked"),
        CheckConstraint("pending_micro >= 0", name="pending"),
        CheckConstraint("position >= 0 AND position <= total", name="position"),
        UniqueConstraint("campaign_id", "idempotency_key"),
        Index(
            "ix_grant_batches_due",
            "due_at",
            "id",
            postgresql_where=text("state = 'new'"),
            sqlite_where=text("state = 'new'"),
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("credit_campaigns.id"))
    created_by: Mapped[str]
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[str]
    formula: Mapped[str | None]
    total: Mapped[int]
    position: Mapped[int] = mapped_column(server_default="0")
    granted: Mapped[int] = mapped_column(server_default="0")
    existing: Mapped[int] = mapped_column(server_default="0")
    skipped: Mapped[int] = mapped_column(server_default="0")
    failed: Mapped[int] = mapped_column(server_default="0")
    granted_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    pending_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    stop_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class GrantItem(Base):
    """One wallet of a list. The account need not exist: then the item fails and says so.

    ``committed_micro`` is the part of the batch's ``pending_micro`` that is this wallet's.
    """

    __tablename__ = "grant_items"
    __table_args__ = (
        one_of("status", "pending", "granted", "existing", "skipped", "failed"),
        CheckConstraint("amount_micro >= 0 AND committed_micro >= 0", name="amounts"),
        STRICT,
    )

    batch_id: Mapped[str] = mapped_column(ForeignKey("grant_batches.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[str]
    amount_micro: Mapped[int] = mapped_column(Micro)
    committed_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    formula_input: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="pending")
    error: Mapped[str | None]
