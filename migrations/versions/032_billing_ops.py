"""Operations: dead letters, audit, configuration; system accounts."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import NOW, TIME, make_append_only

# An operator's value is never overwritten: rows are inserted where they are missing (W, R1).
SYSTEM_ACCOUNTS = (
    ("sys-foundation", "foundation", "revenue"),
    ("sys-commons", "commons", "pool"),
    ("sys-community-pool", "community", "revenue-pool"),
)
MODEL_PRICES = """{
  "gpt-4o": {"inputMicroPer1k": 2500, "outputMicroPer1k": 10000},
  "claude-sonnet-4-5": {"inputMicroPer1k": 3000, "outputMicroPer1k": 15000},
  "claude-opus-4-5": {"inputMicroPer1k": 15000, "outputMicroPer1k": 75000}
}"""
SETTINGS = (
    ("billing_mode", "shadow", "shadow, soft or live; kept in each reservation"),
    ("commons_rate_bps", "500", "share of each charge for the commons"),
    ("community_rate_bps", "7000", "share of each charge for the community"),
    ("foundation_rate_bps", "2500", "share of each charge for the foundation, with the rest"),
    ("safety_multiplier", "1.1", "estimates are multiplied by it"),
    ("reserve_ttl_seconds", "300", "life of a hold that names none"),
    ("late_finalize_grace_seconds", "3600", "a finalize this late is still settled"),
    ("ceiling_micro", "100000000000", "largest amount of one request"),
    ("overrun_alert_threshold_pct", "5", "overruns above this share are alerted"),
    ("four_eyes_threshold_micro", "1000000000", "a mint above needs a second admin"),
    (
        "model_prices",
        MODEL_PRICES,
        "micro-USD for 1,000 tokens, read for estimates",
    ),
    ("foundation_account_id", "sys-foundation", "who receives the foundation's share"),
    ("commons_account_id", "sys-commons", "who receives the commons' share"),
    ("community_account_id", "sys-community-pool", "who receives the community's share"),
    ("last_reconciliation_at", "", "when the books were last compared"),
    ("last_reconciliation_result", "{}", "what the last comparison found"),
)

revision = "032_billing_ops"
down_revision = "031_crypto_payments_v2"


def upgrade() -> None:
    op.create_table(
        "billing_dlq",
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
        sa.CheckConstraint(
            "operation_type IN ('deposit', 'refund', 'distribution', 'reconciliation', 'webhook')",
            name=op.f("ck_billing_dlq_operation_type"),
        ),
        sa.CheckConstraint("retry_count >= 0", name=op.f("ck_billing_dlq_retry_count")),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed', 'manual_review')",
            name=op.f("ck_billing_dlq_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_billing_dlq")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_billing_dlq_due",
        "billing_dlq",
        ["status", "next_retry_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'processing')"),
        sqlite_where=sa.text("status IN ('pending', 'processing')"),
    )
    op.create_index(
        "uq_billing_dlq_subject", "billing_dlq", ["operation_type", "subject_id"], unique=True
    )
    op.create_table(
        "admin_audit_log",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("actor_type", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target_type", sa.Text(), nullable=True),
        sa.Column("target_id", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "actor_type IN ('system', 'admin', 'operator')",
            name=op.f("ck_admin_audit_log_actor_type"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_audit_log")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_admin_audit_log_action", "admin_audit_log", ["action", "created_at"], unique=False
    )
    op.create_index(
        "ix_admin_audit_log_target", "admin_audit_log", ["target_type", "target_id"], unique=False
    )
    op.create_table(
        "billing_config",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_billing_config")),
        sqlite_strict=True,
    )
    make_append_only("admin_audit_log")
    account = sa.text(
        "INSERT INTO credit_accounts (id, entity_type, entity_id) "
        "VALUES (:id, :entity_type, :entity_id) ON CONFLICT DO NOTHING"
    )
    for identifier, entity_type, entity_id in SYSTEM_ACCOUNTS:
        op.execute(account.bindparams(id=identifier, entity_type=entity_type, entity_id=entity_id))
    setting = sa.text(
        "INSERT INTO billing_config (key, value, description) "
        "VALUES (:key, :value, :description) ON CONFLICT DO NOTHING"
    )
    for key, value, description in SETTINGS:
        op.execute(setting.bindparams(key=key, value=value, description=description))


def downgrade() -> None:
    op.drop_table("billing_config")
    op.drop_table("admin_audit_log")
    op.drop_table("billing_dlq")
