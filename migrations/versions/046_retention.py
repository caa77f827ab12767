"""Indexes for what is forgotten in time: bodies of done notices, healed dead letters."""

import sqlalchemy as sa
from alembic import op

INDEXES = (
    (
        "ix_webhook_events_body",
        "webhook_events",
        ["done_at"],
        "state = 'done' AND length(raw_body) > 0",
    ),
    ("ix_billing_dlq_healed", "billing_dlq", ["completed_at"], "status = 'completed'"),
)

revision = "046_retention"
down_revision = "045_webhook_traces"


def upgrade() -> None:
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
