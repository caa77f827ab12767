"""Clients of payment providers: they speak HTTP and know nothing of our tables."""
