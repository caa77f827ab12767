"""Alembic migrations: how a database gets and keeps its shape."""
