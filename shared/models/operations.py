"""Operations tables: dead letters, audit, configuration (behaviour 3.3), revenue rules (3.5) and
the migrations list."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, one_of
from shared.models.types import Micro

# The five types of the earlier system, then ours: a webhook of ours that nobody took.
DLQ_OPERATIONS = (
    "deposit",
    "refund",
    "distribution",
    "reconciliation",
    "webhook",
    "notification",
)
RULE_STATUSES = (
    "draft",
    "pending_approval",
    "cooling_down",
    "active",
    "superseded",
    "rejected",
)
PROPOSAL_STATUSES = ("pending", "approved", "failed", "rejected", "withdrawn", "expired")
# Spelled out in statements: a parameter would hide the index.
WAITING_LETTER = text("status IN ('pending', 'processing')")
OPEN_LETTER = text("status IN ('pending', 'processing', 'manual_review')")
HEALED_LETTER = text("status = 'completed'")
_ACTIVE = text("status = 'active'")
_PENDING = text("status = 'pending'")


class DeadLetter(Base):
    """Work that failed and is retried after 60, 300 and 1800 s, then reviewed by a person."""

    __tablename__ = "billing_dlq"
    __table_args__ = (
        one_of("operation_type", *DLQ_OPERATIONS),
        one_of("status", "pending", "processing", "completed", "failed", "manual_review"),
        CheckConstraint("retry_count >= 0", name="retry_count"),
        Index(
            "ix_billing_dlq_due",
            "status",
            "next_retry_at",
            postgresql_where=WAITING_LETTER,
            sqlite_where=WAITING_LETTER,
        ),
        Index(
            "ix_billing_dlq_open",
            "status",
            "operation_type",
            "created_at",
            postgresql_where=OPEN_LETTER,
            sqlite_where=OPEN_LETTER,
        ),
        Index(
            "ix_billing_dlq_healed",
            "completed_at",
            postgresql_where=HEALED_LETTER,
            sqlite_where=HEALED_LETTER,
        ),
        Index("uq_billing_dlq_subject", "operation_type", "subject_id", unique=True),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    operation_type: Mapped[str]
    subject_id: Mapped[str | None]
    payload: Mapped[str]
    error_message: Mapped[str | None]
    retry_count: Mapped[int] = mapped_column(server_default="0")
    max_retries: Mapped[int] = mapped_column(server_default="3")
    status: Mapped[str] = mapped_column(server_default="pending")
    next_retry_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    completed_at: Mapped[datetime | None]


class AuditRow(Base):
    """Who did what, and what was refused. Written with the change, never altered."""

    __tablename__ = "admin_audit_log"
    __table_args__ = (
        one_of("actor_type", "system", "admin", "operator"),
        Index("ix_admin_audit_log_action", "action", "created_at"),
        Index("ix_admin_audit_log_target", "target_type", "target_id"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    actor_type: Mapped[str]
    actor_id: Mapped[str]
    action: Mapped[str]
    target_type: Mapped[str | None]
    target_id: Mapped[str | None]
    details: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ConfigRow(Base):
    """A setting that operators change while the system runs (contract 2)."""

    __tablename__ = "billing_config"
    __table_args__ = (STRICT,)

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    description: Mapped[str | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RevenueRule(Base):
    """The shares of a charge, in bps, on their way from a proposal to being in force (ADR 0011).

    ``reason`` is why it was rejected, or activated before ``activates_at``.
    """

    __tablename__ = "revenue_rules"
    __table_args__ = (
        one_of("status", *RULE_STATUSES),
        CheckConstraint(
            "commons_bps >= 0 AND community_bps >= 0 AND foundation_bps >= 0", name="bps"
        ),
        CheckConstraint("commons_bps + community_bps + foundation_bps = 10000", name="bps_sum"),
        CheckConstraint("length(name) BETWEEN 1 AND 200", name="name"),
        CheckConstraint("length(notes) <= 1000", name="notes"),
        CheckConstraint("length(reason) BETWEEN 1 AND 1000", name="reason"),
        CheckConstraint(
            "approved_by <> proposed_by AND overridden_by <> proposed_by", name="four_eyes"
        ),
        CheckConstraint(
            "status <> 'cooling_down' OR activates_at IS NOT NULL", name="activates_at"
        ),
        Index(
            "uq_revenue_rules_active",
            "status",
            unique=True,
            postgresql_where=_ACTIVE,
            sqlite_where=_ACTIVE,
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="draft")
    commons_bps: Mapped[int]
    community_bps: Mapped[int]
    foundation_bps: Mapped[int]
    notes: Mapped[str | None]
    proposed_by: Mapped[str]
    proposed_at: Mapped[datetime] = mapped_column(server_default=NOW)
    submitted_by: Mapped[str | None]
    submitted_at: Mapped[datetime | None]
    approved_by: Mapped[str | None]
    approved_at: Mapped[datetime | None]
    activates_at: Mapped[datetime | None]
    overridden_by: Mapped[str | None]
    activated_at: Mapped[datetime | None]
    rejected_by: Mapped[str | None]
    rejected_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    superseded_at: Mapped[datetime | None]


class MintProposal(Base):
    """A mint that a second person must approve; the lot that it becomes bears its id.

    ``reason`` is why it was rejected, or the code of the refusal that let its approval fail.
    """

    __tablename__ = "mint_proposals"
    __table_args__ = (
        one_of("status", *PROPOSAL_STATUSES),
        one_of("source_type", "grant", "deposit"),
        CheckConstraint("amount_micro > 0", name="amount_micro"),
        CheckConstraint("length(reason) BETWEEN 1 AND 1000", name="reason"),
        CheckConstraint("approved_by <> proposed_by", name="four_eyes"),
        CheckConstraint(
            "(status IN ('approved', 'failed')) = (approved_by IS NOT NULL)", name="approved_by"
        ),
        CheckConstraint("(status = 'rejected') = (rejected_by IS NOT NULL)", name="rejected_by"),
        CheckConstraint("(status = 'pending') = (decided_at IS NULL)", name="decided_at"),
        UniqueConstraint("account_id", "idempotency_key"),
        Index(
            "ix_mint_proposals_due",
            "expires_at",
            "id",
            postgresql_where=_PENDING,
            sqlite_where=_PENDING,
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    amount_micro: Mapped[int] = mapped_column(Micro)
    source_type: Mapped[str]
    pool_id: Mapped[str]
    description: Mapped[str | None]
    payment_id: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="pending")
    proposed_by: Mapped[str]
    proposed_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    approved_by: Mapped[str | None]
    rejected_by: Mapped[str | None]
    decided_at: Mapped[datetime | None]
    reason: Mapped[str | None]


class Tick(Base):
    """When a kind of the workers' work last succeeded, and last failed."""

    __tablename__ = "worker_ticks"
    __table_args__ = (STRICT,)

    name: Mapped[str] = mapped_column(primary_key=True)
    every_seconds: Mapped[int]
    succeeded_at: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class RevokedToken(Base):
    """An admin's token that is refused although its time is not over; kept until it is."""

    __tablename__ = "revoked_tokens"
    __table_args__ = (Index("ix_revoked_tokens_expires_at", "expires_at"), STRICT)

    jti: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
    revoked_by: Mapped[str]
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class MigrationRow(Base):
    """A migration that was applied, as the runbook lists them."""

    __tablename__ = "migrations"
    __table_args__ = (STRICT,)

    name: Mapped[str] = mapped_column(primary_key=True)
    applied_at: Mapped[datetime] = mapped_column(server_default=NOW)
