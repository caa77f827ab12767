"""Outgoing webhooks: what happened is told to endpoints that asked for it, signed."""
