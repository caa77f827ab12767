"""The inbox of provider notices."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import NOW, TIME

revision = "034_webhook_inbox"
down_revision = "033_campaigns"


def upgrade() -> None:
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("provider_payment_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=True),
        sa.Column("notice", sa.Text(), nullable=False),
        sa.Column("raw_body", sa.LargeBinary(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("received_at", TIME, server_default=NOW, nullable=False),
        sa.Column("state", sa.Text(), server_default="new", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('new', 'done', 'parked')", name=op.f("ck_webhook_events_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
        sa.UniqueConstraint(
            "provider", "dedupe_key", name=op.f("uq_webhook_events_provider_dedupe_key")
        ),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_webhook_events_due",
        "webhook_events",
        ["due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
        sqlite_where=sa.text("state = 'new'"),
    )
    op.create_index(
        "ix_webhook_events_payment",
        "webhook_events",
        ["provider", "provider_payment_id"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("webhook_events")
