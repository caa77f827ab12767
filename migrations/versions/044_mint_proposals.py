"""Large mints that wait for a second admin."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import MICRO, NOW, TIME

revision = "044_mint_proposals"
down_revision = "043_notifications"

EXPIRY = (
    "mint_proposal_expiry_hours",
    "168",
    "hours after which a mint that nobody approved can no longer be approved",
)


def upgrade() -> None:
    op.create_table(
        "mint_proposals",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("proposed_by", sa.Text(), nullable=False),
        sa.Column("proposed_at", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("rejected_by", sa.Text(), nullable=True),
        sa.Column("decided_at", TIME, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'approved', 'failed', 'rejected', 'withdrawn', 'expired')",
            name=op.f("ck_mint_proposals_status"),
        ),
        sa.CheckConstraint(
            "source_type IN ('grant', 'deposit')", name=op.f("ck_mint_proposals_source_type")
        ),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_mint_proposals_amount_micro")),
        sa.CheckConstraint(
            "length(reason) BETWEEN 1 AND 1000", name=op.f("ck_mint_proposals_reason")
        ),
        sa.CheckConstraint("approved_by <> proposed_by", name=op.f("ck_mint_proposals_four_eyes")),
        sa.CheckConstraint(
            "(status IN ('approved', 'failed')) = (approved_by IS NOT NULL)",
            name=op.f("ck_mint_proposals_approved_by"),
        ),
        sa.CheckConstraint(
            "(status = 'rejected') = (rejected_by IS NOT NULL)",
            name=op.f("ck_mint_proposals_rejected_by"),
        ),
        sa.CheckConstraint(
            "(status = 'pending') = (decided_at IS NULL)",
            name=op.f("ck_mint_proposals_decided_at"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_mint_proposals_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mint_proposals")),
        sa.UniqueConstraint(
            "account_id",
            "idempotency_key",
            name=op.f("uq_mint_proposals_account_id_idempotency_key"),
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_mint_proposals_due",
        "mint_proposals",
        ["expires_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
        sqlite_where=sa.text("status = 'pending'"),
    )
    key, value, description = EXPIRY
    op.execute(
        sa.text(
            "INSERT INTO billing_config (key, value, description) "
            "VALUES (:key, :value, :description) ON CONFLICT DO NOTHING"
        ).bindparams(key=key, value=value, description=description)
    )


def downgrade() -> None:
    op.execute(f"DELETE FROM billing_config WHERE key = '{EXPIRY[0]}'")
    op.drop_table("mint_proposals")
