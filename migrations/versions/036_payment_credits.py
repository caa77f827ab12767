"""Credits of payments: what was credited on what ground, packs, quotes, x402 settlements."""

import json

import sqlalchemy as sa
from alembic import op

from migrations.columns import COIN, MICRO, NOW, TIME

revision = "036_payment_credits"
down_revision = "035_revenue_rules"

_PACKS = {
    "starter": {"priceMicro": 5_000_000, "bonusBps": 0},
    "standard": {"priceMicro": 10_000_000, "bonusBps": 500},
    "premium": {"priceMicro": 25_000_000, "bonusBps": 1000},
}
_USD_COINS = (
    "usd,dai,usdc,usdcbase,usdcbsc,usdcmatic,usdcsol,"
    "usdt,usdtbsc,usdterc20,usdtmatic,usdtsol,usdtton,usdttrc20"
)
_SEEDS = (
    ("partial_payment_policy", "credit", "A partial payment: credit what arrived, or review"),
    ("overpaid_tolerance_bps", "100", "What is paid above a price by no more is not credited"),
    ("usd_coins", _USD_COINS, "Currencies of a provider's outcome that are worth one US dollar"),
    ("credit_packs", json.dumps(_PACKS), "Credit packs: price in micro-USD and bonus in bps"),
    ("credit_pack_markup", "1", "A pack's credits are its price divided by this (1 to 10)"),
)


def upgrade() -> None:
    op.add_column("crypto_payments", sa.Column("pack_id", sa.Text(), nullable=True))
    op.add_column("crypto_payments", sa.Column("pack_micro", MICRO, nullable=True))
    op.add_column("crypto_payments", sa.Column("payer", sa.Text(), nullable=True))
    op.add_column(
        "webhook_events",
        sa.Column("source", sa.Text(), server_default="notice", nullable=False),
    )
    op.create_table(
        "payment_credits",
        sa.Column("lot_id", sa.Text(), nullable=False),
        sa.Column("payment_id", sa.Text(), nullable=False),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("basis", sa.Text(), nullable=False),
        sa.Column("rate", COIN, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_payment_credits_amount_micro")),
        sa.CheckConstraint(
            "basis IN ('price', 'pack', 'overpaid', 'outcome', 'transfer', 'admin')",
            name=op.f("ck_payment_credits_basis"),
        ),
        sa.ForeignKeyConstraint(
            ["lot_id"], ["credit_lots.id"], name=op.f("fk_payment_credits_lot_id")
        ),
        sa.ForeignKeyConstraint(
            ["payment_id"], ["crypto_payments.id"], name=op.f("fk_payment_credits_payment_id")
        ),
        sa.PrimaryKeyConstraint("lot_id", name=op.f("pk_payment_credits")),
        sqlite_strict=True,
    )
    op.create_index("ix_payment_credits_payment_id", "payment_credits", ["payment_id"])
    op.create_table(
        "credit_lot_purchases",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("pack_id", sa.Text(), nullable=False),
        sa.Column("payment_reference", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("lot_id", sa.Text(), nullable=False),
        sa.Column("amount_micro", MICRO, nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint("amount_micro > 0", name=op.f("ck_credit_lot_purchases_amount_micro")),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["credit_accounts.id"],
            name=op.f("fk_credit_lot_purchases_account_id"),
        ),
        sa.ForeignKeyConstraint(
            ["lot_id"], ["credit_lots.id"], name=op.f("fk_credit_lot_purchases_lot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credit_lot_purchases")),
        sa.UniqueConstraint(
            "idempotency_key", name=op.f("uq_credit_lot_purchases_idempotency_key")
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "ix_credit_lot_purchases_account_id", "credit_lot_purchases", ["account_id", "created_at"]
    )
    op.create_index("ix_credit_lot_purchases_lot_id", "credit_lot_purchases", ["lot_id"])
    _keep_the_credits_of_before()
    setting = sa.text(
        "INSERT INTO billing_config (key, value, description) "
        "VALUES (:key, :value, :description) ON CONFLICT DO NOTHING"
    )
    for key, value, description in _SEEDS:
        op.execute(setting.bindparams(key=key, value=value, description=description))


def _keep_the_credits_of_before() -> None:
    """Payments that were credited before this table existed: one lot each."""
    op.execute(
        "INSERT INTO payment_credits (lot_id, payment_id, amount_micro, basis, created_at) "
        "SELECT lot.id, payment.id, lot.original_micro, "
        "CASE WHEN payment.finished_at IS NULL THEN 'admin' ELSE 'price' END, lot.created_at "
        "FROM crypto_payments AS payment JOIN credit_lots AS lot ON lot.id = payment.lot_id"
    )


def downgrade() -> None:
    keys = ", ".join(f"'{key}'" for key, _, _ in _SEEDS)
    op.execute(f"DELETE FROM billing_config WHERE key IN ({keys})")
    op.drop_table("credit_lot_purchases")
    op.drop_table("payment_credits")
    op.drop_column("webhook_events", "source")
    for name in ("payer", "pack_micro", "pack_id"):
        op.drop_column("crypto_payments", name)
