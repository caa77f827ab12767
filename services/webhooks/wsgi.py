"""The receiver's process: granian serves ``app``."""

from services.webhooks.app import create_app
from shared import garbage, tracing
from shared.config import WebhookSettings, load_settings
from shared.database import Database
from shared.messaging import Publisher, make_celery
from shared.observability import configure_logging

settings = load_settings(WebhookSettings)
configure_logging("webhooks", settings.arrakis_log_level, secret_values=settings.secret_values())
tracing.start("webhooks", settings.otel_exporter_otlp_endpoint)
database = Database(
    settings.database_url,
    pool_size=settings.arrakis_database_pool,
    after_commit=[Publisher(make_celery(settings.redis_url))],
)
app = create_app(settings, database)
garbage.settle()
