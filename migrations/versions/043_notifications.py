"""Outgoing webhooks: endpoints, events, deliveries."""

revision = "043_notifications"
down_revision = "042_alerts"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
