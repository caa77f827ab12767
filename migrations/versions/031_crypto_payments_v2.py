"""Payments at providers."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import COIN, MICRO, NOW, TIME

revision = "031_crypto_payments_v2"
down_revision = "030_credit_ledger"


def upgrade() -> None:
    op.create_table(
        "crypto_payments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), server_default="nowpayments", nullable=False),
        sa.Column("provider_payment_id", sa.Text(), nullable=True),
        sa.Column("payment_id", sa.Text(), nullable=True),
        sa.Column("parent_payment_id", sa.Text(), nullable=True),
        sa.Column("community_id", sa.Text(), nullable=True),
        sa.Column("tier", sa.Text(), nullable=True),
        sa.Column("price_amount", COIN, nullable=True),
        sa.Column("price_currency", sa.Text(), server_default="usd", nullable=False),
        sa.Column("pay_amount", COIN, nullable=True),
        sa.Column("pay_currency", sa.Text(), nullable=True),
        sa.Column("pay_address", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("actually_paid", COIN, nullable=True),
        sa.Column("outcome_amount", COIN, nullable=True),
        sa.Column("outcome_currency", sa.Text(), nullable=True),
        sa.Column("order_id", sa.Text(), nullable=True),
        sa.Column("account_id", sa.Text(), nullable=True),
        sa.Column("amount_usd_micro", MICRO, nullable=True),
        sa.Column("lot_id", sa.Text(), nullable=True),
        sa.Column("review_reason", sa.Text(), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_fingerprint", sa.Text(), nullable=True),
        sa.Column("raw_payload", sa.Text(), nullable=True),
        sa.Column("next_poll_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.CheckConstraint(
            "provider IN ('nowpayments', 'x402')", name=op.f("ck_crypto_payments_provider")
        ),
        sa.CheckConstraint(
            "provider_payment_id IS NOT NULL OR status = 'creating'",
            name=op.f("ck_crypto_payments_provider_payment_id"),
        ),
        sa.CheckConstraint(
            "status IN ('waiting', 'confirming', 'confirmed', 'sending', 'partially_paid', 'finished', 'failed', 'refunded', 'expired', 'creating', 'manual_review')",
            name=op.f("ck_crypto_payments_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crypto_payments")),
        sa.UniqueConstraint(
            "provider",
            "provider_payment_id",
            name=op.f("uq_crypto_payments_provider_provider_payment_id"),
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_crypto_payments_account_id",
        "crypto_payments",
        ["account_id", "created_at"],
        unique=False,
    )
    op.create_index(
        "ix_crypto_payments_community_id",
        "crypto_payments",
        ["community_id", "status"],
        unique=False,
    )
    op.create_index(
        "ix_crypto_payments_created_at", "crypto_payments", ["created_at"], unique=False
    )
    op.create_index("ix_crypto_payments_lot_id", "crypto_payments", ["lot_id"], unique=False)
    op.create_index("ix_crypto_payments_order_id", "crypto_payments", ["order_id"], unique=True)
    op.create_index(
        "ix_crypto_payments_payment_id", "crypto_payments", ["payment_id"], unique=False
    )
    op.create_index(
        "ix_crypto_payments_poll",
        "crypto_payments",
        ["next_poll_at"],
        unique=False,
        postgresql_where=sa.text("next_poll_at IS NOT NULL"),
        sqlite_where=sa.text("next_poll_at IS NOT NULL"),
    )
    op.create_index(
        "uq_crypto_payments_idempotency",
        "crypto_payments",
        ["account_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    keep_payment_id_equal()


def downgrade() -> None:
    op.drop_table("crypto_payments")


def keep_payment_id_equal() -> None:
    """Keep the legacy ``payment_id`` equal to ``provider_payment_id`` (behaviour 3.2)."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("INSERT", "UPDATE OF provider_payment_id"):
            op.execute(
                f"CREATE TRIGGER crypto_payments_alias_{verb.split()[0].lower()} "
                f"AFTER {verb} ON crypto_payments "
                "WHEN NEW.payment_id IS NOT NEW.provider_payment_id BEGIN "
                "UPDATE crypto_payments SET payment_id = NEW.provider_payment_id "
                "WHERE id = NEW.id; END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION keep_payment_id_equal() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NEW.payment_id := NEW.provider_payment_id; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER crypto_payments_alias BEFORE INSERT OR UPDATE ON crypto_payments "
        "FOR EACH ROW EXECUTE FUNCTION keep_payment_id_equal()"
    )
