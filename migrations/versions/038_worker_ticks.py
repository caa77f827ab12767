"""Heartbeats of the workers' ticks."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import NOW, TIME

revision = "038_worker_ticks"
down_revision = "037_x402"


def upgrade() -> None:
    op.create_table(
        "worker_ticks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("every_seconds", sa.Integer(), nullable=False),
        sa.Column("succeeded_at", TIME, nullable=True),
        sa.Column("failed_at", TIME, nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker_ticks")),
        sqlite_strict=True,
    )


def downgrade() -> None:
    op.drop_table("worker_ticks")
