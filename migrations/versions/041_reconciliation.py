"""Runs of the reconciliation, and what each check found."""

revision = "041_reconciliation"
down_revision = "040_revoked_tokens"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
