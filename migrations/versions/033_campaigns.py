"""Campaigns and their grants."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import MICRO, NOW, TIME

revision = "033_campaigns"
down_revision = "032_billing_ops"


def upgrade() -> None:
    op.create_table(
        "credit_campaigns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("campaign_type", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="draft", nullable=False),
        sa.Column("budget_micro", MICRO, server_default="0", nullable=False),
        sa.Column("spent_micro", MICRO, server_default="0", nullable=False),
        sa.Column("grant_formula", sa.Text(), server_default="fixed_amount", nullable=False),
        sa.Column("grant_config", sa.Text(), nullable=True),
        sa.Column("pool_id", sa.Text(), nullable=True),
        sa.Column("per_wallet_cap_micro", MICRO, server_default="5000000", nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "budget_micro >= 0 AND spent_micro >= 0 AND spent_micro <= budget_micro",
            name=op.f("ck_credit_campaigns_budget"),
        ),
        sa.CheckConstraint(
            "campaign_type IN ('reverse_airdrop', 'promotional', 'loyalty', 'referral')",
            name=op.f("ck_credit_campaigns_campaign_type"),
        ),
        sa.CheckConstraint(
            "grant_formula IN ('proportional_loss', 'fixed_amount', 'tiered')",
            name=op.f("ck_credit_campaigns_grant_formula"),
        ),
        sa.CheckConstraint(
            "status IN ('draft', 'active', 'paused', 'completed', 'expired')",
            name=op.f("ck_credit_campaigns_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_campaigns")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_credit_campaigns_running",
        "credit_campaigns",
        ["status"],
        unique=False,
        postgresql_where=sa.text("status IN ('active', 'paused')"),
        sqlite_where=sa.text("status IN ('active', 'paused')"),
    )
    op.create_table(
        "credit_grants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("lot_id", sa.Text(), nullable=True),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("grant_formula", sa.Text(), nullable=True),
        sa.Column("formula_input", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_credit_grants_amount")),
        sa.CheckConstraint(
            "status IN ('pending', 'granted', 'failed', 'revoked')",
            name=op.f("ck_credit_grants_status"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_grants_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["credit_campaigns.id"], name=op.f("fk_credit_grants_campaign_id")
        ),
        sa.ForeignKeyConstraint(
            ["lot_id"], ["credit_lots.id"], name=op.f("fk_credit_grants_lot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_grants")),
        sa.UniqueConstraint(
            "campaign_id", "account_id", name=op.f("uq_credit_grants_campaign_id_account_id")
        ),
        sqlite_strict=True,
    )
    op.create_index("ix_credit_grants_account_id", "credit_grants", ["account_id"], unique=False)


def downgrade() -> None:
    op.drop_table("credit_grants")
    op.drop_table("credit_campaigns")
