"""Large mints that wait for a second admin."""

revision = "044_mint_proposals"
down_revision = "043_notifications"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
