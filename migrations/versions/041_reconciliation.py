"""Runs of the reconciliation, and what each check found."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import FLAG, NOW, TIME

revision = "041_reconciliation"
down_revision = "040_revoked_tokens"


def upgrade() -> None:
    op.create_table(
        "reconciliation_runs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("asks_provider", FLAG, server_default=sa.text("true"), nullable=False),
        sa.Column("provider_days", sa.Integer(), server_default="7", nullable=False),
        sa.Column("step", sa.Integer(), server_default="0", nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.Column("accounts_checked", sa.Integer(), nullable=True),
        sa.Column("accounts_drifted", sa.Integer(), nullable=True),
        sa.Column("passed", FLAG, nullable=True),
        sa.Column("result", sa.Text(), server_default="{}", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("state", sa.Text(), server_default="new", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        sa.CheckConstraint("kind IN ('cache', 'daily')", name=op.f("ck_reconciliation_runs_kind")),
        sa.CheckConstraint("state IN ('new', 'done')", name=op.f("ck_reconciliation_runs_state")),
        sa.CheckConstraint("step >= 0", name=op.f("ck_reconciliation_runs_step")),
        sa.CheckConstraint(
            "accounts_drifted >= 0 AND accounts_drifted <= accounts_checked",
            name=op.f("ck_reconciliation_runs_accounts"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reconciliation_runs")),
        sqlite_strict=True,
    )
    op.create_index(
        "uq_reconciliation_runs_open",
        "reconciliation_runs",
        ["kind"],
        unique=True,
        postgresql_where=sa.text("state = 'new'"),
        sqlite_where=sa.text("state = 'new'"),
    )
    op.create_index("ix_reconciliation_runs_kind", "reconciliation_runs", ["kind", "created_at"])
    op.create_index("ix_reconciliation_runs_done_at", "reconciliation_runs", ["done_at"])
    # What changed lately is compared with the provider.
    op.create_index("ix_crypto_payments_updated_at", "crypto_payments", ["updated_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_crypto_payments_updated_at", table_name="crypto_payments")
    op.drop_table("reconciliation_runs")
