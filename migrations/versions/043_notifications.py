"""Outgoing webhooks: endpoints, events, deliveries, and who was told of a low balance."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import FLAG, NOW, TIME

revision = "043_notifications"
down_revision = "042_alerts"

_OPERATIONS = ("deposit", "refund", "distribution", "reconciliation", "webhook")
_SEEDS = (
    ("low_balance_threshold_micro", "0", "An account below it is told of by webhook; 0: none is"),
    ("expiry_notice_hours", "72", "How long before its end a lot is told of by webhook; 0: never"),
)


def upgrade() -> None:
    _allow_dead_letters_of((*_OPERATIONS, "notification"))
    op.create_table(
        "notification_endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("secret_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("secret_rotated_at", TIME, nullable=True),
        sa.Column("failing_since", TIME, nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "status IN ('active', 'disabled', 'removed')",
            name=op.f("ck_notification_endpoints_status"),
        ),
        sa.CheckConstraint(
            "secret_version >= 1", name=op.f("ck_notification_endpoints_secret_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_endpoints")),
        sqlite_strict=True,
    )
    op.create_table(
        "notification_subscriptions",
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["notification_endpoints.id"],
            name=op.f("fk_notification_subscriptions_endpoint_id"),
        ),
        sa.PrimaryKeyConstraint(
            "event_type", "endpoint_id", name=op.f("pk_notification_subscriptions")
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_notification_subscriptions_endpoint_id", "notification_subscriptions", ["endpoint_id"]
    )
    op.create_table(
        "notification_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_events")),
        sa.UniqueConstraint("key", name=op.f("uq_notification_events_key")),
        sqlite_strict=True,
    )
    _create_deliveries()
    op.create_table(
        "notification_balance_watch",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("is_low", FLAG, nullable=False),
        sa.Column("crossings", sa.Integer(), server_default="0", nullable=False),
        sa.Column("changed_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("crossings >= 0", name=op.f("ck_notification_balance_watch_crossings")),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["credit_accounts.id"],
            name=op.f("fk_notification_balance_watch_account_id"),
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_notification_balance_watch")),
        sqlite_strict=True,
    )
    setting = sa.text(
        "INSERT INTO billing_config (key, value, description) "
        "VALUES (:key, :value, :description) ON CONFLICT DO NOTHING"
    )
    for key, value, description in _SEEDS:
        op.execute(setting.bindparams(key=key, value=value, description=description))


def _create_deliveries() -> None:
    op.create_table(
        "notification_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("response", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("state", sa.Text(), server_default="new", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('new', 'done', 'parked')", name=op.f("ck_notification_deliveries_state")
        ),
        sa.CheckConstraint(
            "outcome IN ('delivered', 'gone', 'cancelled')",
            name=op.f("ck_notification_deliveries_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["event_id"],
            ["notification_events.id"],
            name=op.f("fk_notification_deliveries_event_id"),
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["notification_endpoints.id"],
            name=op.f("fk_notification_deliveries_endpoint_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notification_deliveries")),
        sa.UniqueConstraint(
            "event_id", "endpoint_id", name=op.f("uq_notification_deliveries_event_id_endpoint_id")
        ),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_notification_deliveries_endpoint", "notification_deliveries", ["endpoint_id", "id"]
    )
    op.create_index(
        "ix_notification_deliveries_due",
        "notification_deliveries",
        ["endpoint_id", "due_at", "id"],
        postgresql_where=sa.text("state = 'new'"),
        sqlite_where=sa.text("state = 'new'"),
    )


def _allow_dead_letters_of(operations: tuple[str, ...]) -> None:
    """Set the list of what a dead letter may be about. SQLite needs a new table for that."""
    allowed = f"operation_type IN ({', '.join(repr(one) for one in operations)})"
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_billing_dlq_operation_type"), "billing_dlq")
        op.create_check_constraint(op.f("ck_billing_dlq_operation_type"), "billing_dlq", allowed)
        return
    op.create_table(
        "billing_dlq_new",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("operation_type", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_retries", sa.Integer(), server_default="3", nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("next_retry_at", TIME, nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.Column("completed_at", TIME, nullable=True),
        sa.CheckConstraint(allowed, name=op.f("ck_billing_dlq_operation_type")),
        sa.CheckConstraint("retry_count >= 0", name=op.f("ck_billing_dlq_retry_count")),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed', 'manual_review')",
            name=op.f("ck_billing_dlq_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_dlq")),
        sqlite_strict=True,
    )
    columns = (
        "id, operation_type, subject_id, payload, error_message, retry_count, max_retries, status, "
        "next_retry_at, lease_until, lease_token, created_at, updated_at, completed_at"
    )
    op.execute(f"INSERT INTO billing_dlq_new ({columns}) SELECT {columns} FROM billing_dlq")
    op.drop_table("billing_dlq")
    op.rename_table("billing_dlq_new", "billing_dlq")
    op.create_index(
        "ix_billing_dlq_due",
        "billing_dlq",
        ["status", "next_retry_at"],
        sqlite_where=sa.text("status IN ('pending', 'processing')"),
    )
    op.create_index(
        "uq_billing_dlq_subject", "billing_dlq", ["operation_type", "subject_id"], unique=True
    )
    op.create_index(
        "ix_billing_dlq_open",
        "billing_dlq",
        ["status", "operation_type", "created_at"],
        sqlite_where=sa.text("status IN ('pending', 'processing', 'manual_review')"),
    )


def downgrade() -> None:
    keys = ", ".join(f"'{key}'" for key, _, _ in _SEEDS)
    op.execute(f"DELETE FROM billing_config WHERE key IN ({keys})")
    for table in ("balance_watch", "deliveries", "events", "subscriptions", "endpoints"):
        op.drop_table(f"notification_{table}")
    op.execute("DELETE FROM billing_dlq WHERE operation_type = 'notification'")
    _allow_dead_letters_of(_OPERATIONS)
