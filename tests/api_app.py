"""The real API in this process: for tests of the application as a whole, and of its document."""

from flask import Flask

from services.api.app import create_app
from shared.balance_cache import BalanceCache
from shared.config import ApiSettings, load_settings
from shared.database import Database
from tests.harness import service_environment

NOWHERE = "redis://127.0.0.1:9/0"


def make_app(database: Database, redis_url: str, **environment: str) -> Flask:
    """Return the API on *database*, built from settings as its process builds it."""
    settings = load_settings(
        ApiSettings, service_environment("sqlite://", redis_url, **environment)
    )
    return create_app(settings, database, BalanceCache(redis_url))


def idle_app() -> Flask:
    """Return an API that nobody calls; its database is never opened."""
    return make_app(Database("sqlite:///unopened.db"), NOWHERE)
