"""The API's process: granian serves ``app``."""

from services.api.app import create_app
from shared import garbage, schema, tracing
from shared.alerts.counts import Recorder
from shared.balance_cache import BalanceCache
from shared.config import ApiSettings, load_settings
from shared.database import Database
from shared.messaging import Publisher, make_celery
from shared.observability import configure_logging

settings = load_settings(ApiSettings)
configure_logging("api", settings.arrakis_log_level, secret_values=settings.secret_values())
balances = BalanceCache(settings.redis_url)
tracing.start("api", settings.otel_exporter_otlp_endpoint)
database = Database(
    settings.database_url,
    pool_size=settings.arrakis_database_pool,
    after_commit=[Publisher(make_celery(settings.redis_url)), balances],
)
# The runbook migrates by starting the application; on PostgreSQL that is an operator's choice.
if database.is_sqlite if settings.arrakis_auto_migrate is None else settings.arrakis_auto_migrate:
    schema.upgrade(database)
schema.require_current(database)
app = create_app(settings, database, balances)
Recorder(database).start()
garbage.settle()
