"""A notice remembers the trace of the request that brought it, so that its credit is part of it."""

import sqlalchemy as sa
from alembic import op

revision = "045_webhook_traces"
down_revision = "044_mint_proposals"


def upgrade() -> None:
    op.add_column("webhook_events", sa.Column("traceparent", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("webhook_events", "traceparent")
