"""Lists of grants as jobs, and what a grant says of itself."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import MICRO, NOW, TIME

revision = "039_campaign_grants"
down_revision = "038_worker_ticks"


def upgrade() -> None:
    op.add_column("credit_grants", sa.Column("batch_id", sa.Text(), nullable=True))
    op.add_column("credit_grants", sa.Column("formula_version", sa.Integer(), nullable=True))
    op.add_column("credit_grants", sa.Column("error", sa.Text(), nullable=True))
    op.add_column("credit_grants", sa.Column("updated_at", TIME, nullable=True))
    op.create_table(
        "grant_batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("formula", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), server_default="0", nullable=False),
        sa.Column("granted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("existing", sa.Integer(), server_default="0", nullable=False),
        sa.Column("skipped", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("granted_micro", MICRO, server_default="0", nullable=False),
        sa.Column("pending_micro", MICRO, server_default="0", nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.Column("state", sa.Text(), server_default="new", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        sa.CheckConstraint("pending_micro >= 0", name=op.f("ck_grant_batches_pending")),
        sa.CheckConstraint(
            "position >= 0 AND position <= total", name=op.f("ck_grant_batches_position")
        ),
        sa.CheckConstraint(
            "state IN ('new', 'done', 'parked')", name=op.f("ck_grant_batches_state")
        ),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["credit_campaigns.id"], name=op.f("fk_grant_batches_campaign_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grant_batches")),
        sa.UniqueConstraint(
            "campaign_id",
            "idempotency_key",
            name=op.f("uq_grant_batches_campaign_id_idempotency_key"),
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_grant_batches_due",
        "grant_batches",
        ["due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
        sqlite_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "grant_items",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("committed_micro", MICRO, server_default="0", nullable=False),
        sa.Column("formula_input", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "amount_micro >= 0 AND committed_micro >= 0", name=op.f("ck_grant_items_amounts")
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'granted', 'existing', 'skipped', 'failed')",
            name=op.f("ck_grant_items_status"),
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["grant_batches.id"], name=op.f("fk_grant_items_batch_id")
        ),
        sa.PrimaryKeyConstraint("batch_id", "position", name=op.f("pk_grant_items")),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("grant_items")
    op.drop_table("grant_batches")
    for name in ("updated_at", "error", "formula_version", "batch_id"):
        op.drop_column("credit_grants", name)
