"""What operators need: settings, audit, mints, dead letters, reconciliation, alerts."""
