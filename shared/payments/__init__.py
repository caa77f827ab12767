"""Payments: creating them at a provider, moving them through their states, crediting them once."""
