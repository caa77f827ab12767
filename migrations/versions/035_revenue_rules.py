"""Revenue rules: who shares each charge, proposed by one admin and approved by another."""

import re

import sqlalchemy as sa
from alembic import op

from migrations.columns import NOW, TIME

revision = "035_revenue_rules"
down_revision = "034_webhook_inbox"

RATE_KEYS = ("commons_rate_bps", "community_rate_bps", "foundation_rate_bps")
SEEDED_RATES = (500, 7000, 2500)
SEEDED_RULE = "00000000-0000-7000-8000-000000000035"  # the first, so it sorts before all others
COOLDOWN = (
    "revenue_rule_cooldown_hours",
    "48",
    "hours from the approval of a revenue rule to its activation",
)


def upgrade() -> None:
    op.create_table(
        "revenue_rules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="draft", nullable=False),
        sa.Column("commons_bps", sa.Integer(), nullable=False),
        sa.Column("community_bps", sa.Integer(), nullable=False),
        sa.Column("foundation_bps", sa.Integer(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("proposed_by", sa.Text(), nullable=False),
        sa.Column("proposed_at", TIME, server_default=NOW, nullable=False),
        sa.Column("submitted_by", sa.Text(), nullable=True),
        sa.Column("submitted_at", TIME, nullable=True),
        sa.Column("approved_by", sa.Text(), nullable=True),
        sa.Column("approved_at", TIME, nullable=True),
        sa.Column("activates_at", TIME, nullable=True),
        sa.Column("overridden_by", sa.Text(), nullable=True),
        sa.Column("activated_at", TIME, nullable=True),
        sa.Column("rejected_by", sa.Text(), nullable=True),
        sa.Column("rejected_at", TIME, nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("superseded_at", TIME, nullable=True),
        sa.CheckConstraint(
            "status IN ('draft', 'pending_approval', 'cooling_down', 'active', 'superseded', 'rejected')",
            name=op.f("ck_revenue_rules_status"),
        ),
        sa.CheckConstraint(
            "commons_bps >= 0 AND community_bps >= 0 AND foundation_bps >= 0",
            name=op.f("ck_revenue_rules_bps"),
        ),
        sa.CheckConstraint(
            "commons_bps + community_bps + foundation_bps = 10000",
            name=op.f("ck_revenue_rules_bps_sum"),
        ),
        sa.CheckConstraint("length(name) BETWEEN 1 AND 200", name=op.f("ck_revenue_rules_name")),
        sa.CheckConstraint("length(notes) <= 1000", name=op.f("ck_revenue_rules_notes")),
        sa.CheckConstraint(
            "length(reason) BETWEEN 1 AND 1000", name=op.f("ck_revenue_rules_reason")
        ),
        sa.CheckConstraint(
            "approved_by <> proposed_by AND overridden_by <> proposed_by",
            name=op.f("ck_revenue_rules_four_eyes"),
        ),
        sa.CheckConstraint(
            "status <> 'cooling_down' OR activates_at IS NOT NULL",
            name=op.f("ck_revenue_rules_activates_at"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revenue_rules")),
        sqlite_strict=True,
    )
    op.create_index(
        "uq_revenue_rules_active",
        "revenue_rules",
        ["status"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
        sqlite_where=sa.text("status = 'active'"),
    )
    # One audit log for everything, append-only already; this is the name for the rules' part of it.
    op.execute(
        "CREATE VIEW revenue_rule_audit_log AS SELECT id, target_id AS rule_id, action, actor_type, "
        "actor_id, details, created_at FROM admin_audit_log WHERE target_type = 'revenue_rule'"
    )
    key, value, description = COOLDOWN
    op.execute(
        sa.text(
            "INSERT INTO billing_config (key, value, description) "
            "VALUES (:key, :value, :description) ON CONFLICT DO NOTHING"
        ).bindparams(key=key, value=value, description=description)
    )
    commons, community, foundation = _rates_in_force()
    op.execute(
        sa.text(
            "INSERT INTO revenue_rules (id, name, status, commons_bps, community_bps, "
            "foundation_bps, proposed_by, activated_at) VALUES (:id, 'Initial rates', 'active', "
            ":commons, :community, :foundation, 'system', CURRENT_TIMESTAMP)"
        ).bindparams(id=SEEDED_RULE, commons=commons, community=community, foundation=foundation)
    )


def _rates_in_force() -> tuple[int, ...]:
    """Return the rates that operators have set, or the seeds if those make no sense."""
    found = dict(op.get_bind().execute(sa.text("SELECT key, value FROM billing_config")).all())
    texts = [
        found.get(key, str(seed)).strip() for key, seed in zip(RATE_KEYS, SEEDED_RATES, strict=True)
    ]
    if not all(re.fullmatch("[0-9]{1,20}", text) for text in texts):
        return SEEDED_RATES
    rates = tuple(map(int, texts))
    return rates if sum(rates) == sum(SEEDED_RATES) else SEEDED_RATES


def downgrade() -> None:
    op.execute(f"DELETE FROM billing_config WHERE key = '{COOLDOWN[0]}'")
    op.execute("DROP VIEW revenue_rule_audit_log")
    op.drop_table("revenue_rules")
