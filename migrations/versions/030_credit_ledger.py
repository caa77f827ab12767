"""Ledger tables: accounts, lots, holds, entries, debts, answers."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import FLAG, MICRO, NOW, TIME, make_append_only

revision = "030_credit_ledger"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "migrations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("applied_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_migrations")),
        sqlite_strict=True,
        if_not_exists=True,  # it outlives a downgrade of this step, to say that it happened
    )
    op.create_table(
        "credit_accounts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("entity_type", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "entity_type IN ('agent', 'person', 'community', 'mod', 'protocol', 'foundation', 'commons')",
            name=op.f("ck_credit_accounts_entity_type"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_accounts")),
        sa.UniqueConstraint(
            "entity_type", "entity_id", name=op.f("uq_credit_accounts_entity_type_entity_id")
        ),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 80},
    )
    op.create_table(
        "credit_lots",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), server_default="general", nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=True),
        sa.Column("original_micro", MICRO, nullable=False),
        sa.Column("available_micro", MICRO, server_default="0", nullable=False),
        sa.Column("reserved_micro", MICRO, server_default="0", nullable=False),
        sa.Column("consumed_micro", MICRO, server_default="0", nullable=False),
        sa.Column("expired_micro", MICRO, server_default="0", nullable=False),
        sa.Column("clawed_back_micro", MICRO, server_default="0", nullable=False),
        sa.Column("refunded_at", TIME, nullable=True),
        sa.Column("is_open", FLAG, server_default=sa.text("true"), nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "available_micro >= 0 AND reserved_micro >= 0 AND consumed_micro >= 0",
            name=op.f("ck_credit_lots_lot_balance"),
        ),
        sa.CheckConstraint(
            "available_micro + reserved_micro + consumed_micro = original_micro",
            name=op.f("ck_credit_lots_lot_invariant"),
        ),
        sa.CheckConstraint(
            "expired_micro >= 0 AND clawed_back_micro >= 0", name=op.f("ck_credit_lots_lot_parts")
        ),
        sa.CheckConstraint(
            "source_type IN ('deposit', 'grant', 'purchase', 'transfer_in', 'commons_dividend')",
            name=op.f("ck_credit_lots_source_type"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_lots_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_lots")),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_credit_lots_account", "credit_lots", ["account_id", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_credit_lots_expiring",
        "credit_lots",
        ["expires_at", "account_id"],
        unique=False,
        postgresql_where=sa.text("is_open AND expires_at IS NOT NULL"),
        sqlite_where=sa.text("is_open AND expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_credit_lots_open",
        "credit_lots",
        ["account_id", "pool_id", "expires_at", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("is_open"),
        sqlite_where=sa.text("is_open"),
    )
    op.create_index(
        "uq_credit_lots_source",
        "credit_lots",
        ["source_type", "source_id"],
        unique=True,
        postgresql_where=sa.text("source_id IS NOT NULL"),
        sqlite_where=sa.text("source_id IS NOT NULL"),
    )
    op.create_table(
        "credit_balances",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), server_default="general", nullable=False),
        sa.Column("available_micro", MICRO, server_default="0", nullable=False),
        sa.Column("reserved_micro", MICRO, server_default="0", nullable=False),
        sa.Column("debt_micro", MICRO, server_default="0", nullable=False),
        sa.Column("version", MICRO, server_default="0", nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_balances_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "pool_id", name=op.f("pk_credit_balances")),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 60},
    )
    op.create_table(
        "credit_account_seq",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), server_default="__all__", nullable=False),
        sa.Column("next_seq", MICRO, server_default="1", nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_account_seq_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "pool_id", name=op.f("pk_credit_account_seq")),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 60},
    )
    op.create_table(
        "credit_reservations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), server_default="general", nullable=False),
        sa.Column("total_reserved_micro", MICRO, nullable=False),
        sa.Column("overdraft_micro", MICRO, server_default="0", nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("billing_mode", sa.Text(), server_default="live", nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("finalized_at", TIME, nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("requested_cost_micro", MICRO, nullable=True),
        sa.Column("finalized_micro", MICRO, server_default="0", nullable=False),
        sa.Column("released_micro", MICRO, server_default="0", nullable=False),
        sa.Column("overrun_micro", MICRO, server_default="0", nullable=False),
        sa.Column("uncharged_micro", MICRO, server_default="0", nullable=False),
        sa.Column("debt_micro", MICRO, server_default="0", nullable=False),
        sa.Column("is_late", FLAG, server_default=sa.text("false"), nullable=False),
        sa.Column("commons_micro", MICRO, server_default="0", nullable=False),
        sa.Column("community_micro", MICRO, server_default="0", nullable=False),
        sa.Column("foundation_micro", MICRO, server_default="0", nullable=False),
        sa.Column("is_revenue_posted", FLAG, server_default=sa.text("true"), nullable=False),
        sa.CheckConstraint(
            "total_reserved_micro >= 0 AND overdraft_micro >= 0",
            name=op.f("ck_credit_reservations_amounts"),
        ),
        sa.CheckConstraint(
            "billing_mode IN ('shadow', 'soft', 'live')",
            name=op.f("ck_credit_reservations_billing_mode"),
        ),
        sa.CheckConstraint(
            "commons_micro + community_micro + foundation_micro = finalized_micro OR billing_mode = 'shadow'",
            name=op.f("ck_credit_reservations_split_conserves"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'finalized', 'released', 'expired')",
            name=op.f("ck_credit_reservations_status"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_reservations_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_reservations")),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_credit_reservations_account",
        "credit_reservations",
        ["account_id", "created_at"],
        unique=False,
    )
    op.create_index(
        "ix_credit_reservations_expiring",
        "credit_reservations",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
        sqlite_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_credit_reservations_unposted",
        "credit_reservations",
        ["finalized_at"],
        unique=False,
        postgresql_where=sa.text("NOT is_revenue_posted"),
        sqlite_where=sa.text("NOT is_revenue_posted"),
    )
    op.create_table(
        "reservation_lots",
        sa.Column("reservation_id", sa.Text(), nullable=False),
        sa.Column("lot_id", sa.Text(), nullable=False),
        sa.Column("reserved_micro", MICRO, server_default="0", nullable=False),
        sa.Column("consumed_micro", MICRO, server_default="0", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "reserved_micro >= 0 AND consumed_micro >= 0", name=op.f("ck_reservation_lots_amounts")
        ),
        sa.ForeignKeyConstraint(
            ["lot_id"], ["credit_lots.id"], name=op.f("fk_reservation_lots_lot_id")
        ),
        sa.ForeignKeyConstraint(
            ["reservation_id"],
            ["credit_reservations.id"],
            name=op.f("fk_reservation_lots_reservation_id"),
        ),
        sa.PrimaryKeyConstraint("reservation_id", "lot_id", name=op.f("pk_reservation_lots")),
        sqlite_strict=True,
        postgresql_with={"fillfactor": 80},
    )
    op.create_index("ix_reservation_lots_lot", "reservation_lots", ["lot_id"], unique=False)
    op.create_table(
        "credit_debts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), server_default="general", nullable=False),
        sa.Column("debt_micro", MICRO, nullable=False),
        sa.Column("original_micro", MICRO, nullable=True),
        sa.Column("source_payment_id", sa.Text(), nullable=True),
        sa.Column("source_lot_id", sa.Text(), nullable=True),
        sa.Column("source_reservation_id", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("resolved_at", TIME, nullable=True),
        sa.CheckConstraint("debt_micro > 0", name=op.f("ck_credit_debts_debt_positive")),
        sa.CheckConstraint(
            "original_micro IS NULL OR original_micro >= debt_micro",
            name=op.f("ck_credit_debts_original"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_debts_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["source_lot_id"], ["credit_lots.id"], name=op.f("fk_credit_debts_source_lot_id")
        ),
        sa.ForeignKeyConstraint(
            ["source_reservation_id"],
            ["credit_reservations.id"],
            name=op.f("fk_credit_debts_source_reservation_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_debts")),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_credit_debts_open",
        "credit_debts",
        ["account_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("resolved_at IS NULL"),
        sqlite_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "credit_debt_payments",
        sa.Column("debt_id", sa.Text(), nullable=False),
        sa.Column("lot_id", sa.Text(), nullable=False),
        sa.Column("paid_micro", MICRO, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("paid_micro > 0", name=op.f("ck_credit_debt_payments_paid")),
        sa.ForeignKeyConstraint(
            ["debt_id"], ["credit_debts.id"], name=op.f("fk_credit_debt_payments_debt_id")
        ),
        sa.ForeignKeyConstraint(
            ["lot_id"], ["credit_lots.id"], name=op.f("fk_credit_debt_payments_lot_id")
        ),
        sa.PrimaryKeyConstraint("debt_id", "lot_id", name=op.f("pk_credit_debt_payments")),
        sqlite_strict=True,
    )
    op.create_table(
        "credit_ledger",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pool_id", sa.Text(), server_default="general", nullable=False),
        sa.Column("lot_id", sa.Text(), nullable=True),
        sa.Column("reservation_id", sa.Text(), nullable=True),
        sa.Column("entry_seq", MICRO, nullable=True),
        sa.Column("entry_type", sa.Text(), nullable=False),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("pre_balance_micro", MICRO, nullable=True),
        sa.Column("post_balance_micro", MICRO, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "entry_type IN ('deposit', 'reserve', 'finalize', 'release', 'refund', 'grant', 'shadow_charge', 'shadow_reserve', 'shadow_finalize', 'commons_contribution', 'revenue_share', 'marketplace_sale', 'marketplace_purchase', 'escrow', 'escrow_release', 'expire', 'adjust')",
            name=op.f("ck_credit_ledger_entry_type"),
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_ledger_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["lot_id"], ["credit_lots.id"], name=op.f("fk_credit_ledger_lot_id")
        ),
        sa.ForeignKeyConstraint(
            ["reservation_id"],
            ["credit_reservations.id"],
            name=op.f("fk_credit_ledger_reservation_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_ledger")),
        sa.UniqueConstraint(
            "account_id",
            "pool_id",
            "entry_seq",
            name=op.f("uq_credit_ledger_account_id_pool_id_entry_seq"),
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_credit_ledger_account",
        "credit_ledger",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_credit_ledger_reservation",
        "credit_ledger",
        ["reservation_id"],
        unique=False,
        postgresql_where=sa.text("reservation_id IS NOT NULL"),
        sqlite_where=sa.text("reservation_id IS NOT NULL"),
    )
    op.create_index(
        "ix_credit_ledger_revenue",
        "credit_ledger",
        ["created_at", "entry_type"],
        unique=False,
        postgresql_where=sa.text("entry_type IN ('commons_contribution', 'revenue_share')"),
        sqlite_where=sa.text("entry_type IN ('commons_contribution', 'revenue_share')"),
    )
    op.create_table(
        "credit_operations",
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_credit_operations_account_id")
        ),
        sa.PrimaryKeyConstraint(
            "idempotency_key", "account_id", "operation", name=op.f("pk_credit_operations")
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "billing_idempotency_keys",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("response_hash", sa.Text(), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint(
            "scope", "idempotency_key", name=op.f("pk_billing_idempotency_keys")
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_billing_idempotency_keys_expires_at",
        "billing_idempotency_keys",
        ["expires_at"],
        unique=False,
    )
    make_append_only("credit_ledger")


def downgrade() -> None:
    op.drop_table("billing_idempotency_keys")
    op.drop_table("credit_operations")
    op.drop_table("credit_ledger")
    op.drop_table("credit_debt_payments")
    op.drop_table("credit_debts")
    op.drop_table("reservation_lots")
    op.drop_table("credit_reservations")
    op.drop_table("credit_account_seq")
    op.drop_table("credit_balances")
    op.drop_table("credit_lots")
    op.drop_table("credit_accounts")
