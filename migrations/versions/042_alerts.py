"""Alerts that fire, and counts of what leaves no row."""

revision = "042_alerts"
down_revision = "041_reconciliation"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
