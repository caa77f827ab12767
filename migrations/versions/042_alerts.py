"""Alerts that fire, counts of what leaves no row, and indexes for what alerts look at."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import MICRO, NOW, TIME

INDEXES = (
    (
        "ix_credit_reservations_ended",
        "credit_reservations",
        ["finalized_at"],
        "finalized_at IS NOT NULL",
    ),
    ("ix_credit_reservations_expired", "credit_reservations", ["expires_at"], "status = 'expired'"),
    (
        "ix_billing_dlq_open",
        "billing_dlq",
        ["status", "operation_type", "created_at"],
        "status IN ('pending', 'processing', 'manual_review')",
    ),
    (
        "ix_crypto_payments_uncredited",
        "crypto_payments",
        ["updated_at"],
        "lot_id IS NULL AND status IN ('confirmed', 'sending', 'partially_paid', 'finished')",
    ),
)

revision = "042_alerts"
down_revision = "041_reconciliation"


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("above_at", TIME, nullable=False),
        sa.Column("evaluated_at", TIME, nullable=False),
        sa.Column("value", MICRO, nullable=False),
        sa.Column("out_of", MICRO, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("severity IN ('critical', 'warning')", name=op.f("ck_alerts_severity")),
        sa.CheckConstraint("status IN ('firing', 'cleared')", name=op.f("ck_alerts_status")),
        sa.PrimaryKeyConstraint("name", "subject", name=op.f("pk_alerts")),
        sqlite_strict=True,
    )
    op.create_index("ix_alerts_status", "alerts", ["status"])
    op.create_table(
        "minute_counts",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("minute", TIME, nullable=False),
        sa.Column("total", MICRO, nullable=False),
        sa.CheckConstraint("total >= 0", name=op.f("ck_minute_counts_total")),
        sa.PrimaryKeyConstraint("name", "minute", name=op.f("pk_minute_counts")),
        sqlite_strict=True,
    )
    op.create_index("ix_minute_counts_minute", "minute_counts", ["minute"])
    for name, table, columns, where in INDEXES:
        op.create_index(
            name,
            table,
            columns,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )


def downgrade() -> None:
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)
    op.drop_table("minute_counts")
    op.drop_table("alerts")
