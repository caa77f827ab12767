"""Quotes and settlements of x402."""

import sqlalchemy as sa
from alembic import op

from migrations.columns import FLAG, MICRO, NOW, TIME

revision = "037_x402"
down_revision = "036_payment_credits"


def upgrade() -> None:
    op.create_table(
        "payment_quotes",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("credit_micro", MICRO, nullable=False),
        sa.Column("pack_id", sa.Text(), nullable=True),
        sa.Column("offers", sa.Text(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_payment_quotes_amount_micro")),
        sa.CheckConstraint("credit_micro > 0", name=op.f("ck_payment_quotes_credit_micro")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["credit_accounts.id"], name=op.f("fk_payment_quotes_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payment_quotes")),
        sqlite_strict=True,
    )
    op.create_index("ix_payment_quotes_account_id", "payment_quotes", ["account_id", "created_at"])
    op.create_index("ix_payment_quotes_expires_at", "payment_quotes", ["expires_at"])
    op.create_table(
        "x402_settlements",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("quote_id", sa.Text(), nullable=True),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("asset", sa.Text(), nullable=False),
        sa.Column("payer", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=True),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("valid_before", MICRO, nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=True),
        sa.Column("terms", sa.Text(), nullable=True),
        sa.Column("transaction_hash", sa.Text(), nullable=True),
        sa.Column("from_block", MICRO, nullable=True),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("is_open", FLAG, server_default=sa.text("true"), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("state", sa.Text(), server_default="new", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", TIME, server_default=NOW, nullable=False),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("done_at", TIME, nullable=True),
        sa.CheckConstraint(
            "phase IN ('reserved', 'settling', 'confirming', 'settled', 'refused')",
            name=op.f("ck_x402_settlements_phase"),
        ),
        sa.CheckConstraint(
            "state IN ('new', 'done', 'parked')", name=op.f("ck_x402_settlements_state")
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["crypto_payments.id"], name=op.f("fk_x402_settlements_payment_id")
        ),
        sa.ForeignKeyConstraint(
            ["quote_id"], ["payment_quotes.id"], name=op.f("fk_x402_settlements_quote_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_x402_settlements")),
        sqlite_strict=True,
    )
    for name, columns, where, is_unique in (
        ("uq_x402_settlements_authorization", ["network", "asset", "payer", "nonce"], "is_open", 1),
        ("uq_x402_settlements_quote", ["quote_id"], "is_open", 1),
        ("ix_x402_settlements_due", ["due_at", "id"], "state = 'new'", 0),
    ):
        op.create_index(
            name,
            "x402_settlements",
            columns,
            unique=bool(is_unique),
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )
    op.create_index("ix_x402_settlements_quote_id", "x402_settlements", ["quote_id"])
    op.create_index("uq_x402_settlements_payment", "x402_settlements", ["payment_id"], unique=True)


def downgrade() -> None:
    op.drop_table("x402_settlements")
    op.drop_table("payment_quotes")
