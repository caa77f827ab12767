"""The workers' process, beat's and Flower's: ``celery -A services.workers.main …``."""

from celery import signals
from prometheus_client import start_http_server

from services.workers.app import install
from services.workers.schedule import beat_schedule
from services.workers.watchdog import Watchdog
from services.workers.work import Work
from shared import garbage, tracing
from shared.alerts.counts import Recorder
from shared.balance_cache import BalanceCache
from shared.config import WorkerSettings, load_settings
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.messaging import make_celery
from shared.notifications.courier import Courier
from shared.notifications.watching import AccountWatch
from shared.observability import HINTS, configure_logging, process_registry
from shared.wiring import make_cashier, make_desk, make_intake, make_keys

settings = load_settings(WorkerSettings)
tracing.start("worker", settings.otel_exporter_otlp_endpoint)
database = Database(
    settings.database_url,
    pool_size=settings.arrakis_database_pool,
    after_commit=[BalanceCache(settings.redis_url)],
)
app = make_celery(settings.redis_url)
app.conf.beat_schedule = beat_schedule()
app.set_default()
terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
work = Work(
    make_intake(settings, database, terms),
    make_cashier(settings, database, terms),
    Courier(
        database,
        make_keys(settings),
        allow_private=settings.arrakis_webhook_allow_private,
    ),
    AccountWatch(database),
    make_desk(settings, database),
)
install(app, work, Watchdog(work.longest_run_seconds, settings.arrakis_worker_memory_mb))


# A forked child must not share its parent's sockets.
signals.worker_process_init.connect(lambda **_: database.leave_to_parent(), weak=False)
signals.setup_logging.connect(
    lambda **_: configure_logging(
        "worker", settings.arrakis_log_level, secret_values=settings.secret_values()
    ),
    weak=False,
)


def _serve_metrics(**_: object) -> None:
    """Tell Prometheus what this worker or beat has counted, if it was given a port for that."""
    if settings.arrakis_metrics_port:
        start_http_server(
            settings.arrakis_metrics_port,
            addr=settings.arrakis_metrics_address,
            registry=process_registry(),
        )


def _count_hint(sender: str, **_: object) -> None:
    HINTS.labels(sender, "sent").inc()


signals.worker_init.connect(_serve_metrics, weak=False)
signals.beat_init.connect(_serve_metrics, weak=False)
signals.after_task_publish.connect(_count_hint, weak=False)  # beat's: workers send none
signals.worker_init.connect(lambda **_: Recorder(database).start(), weak=False)
garbage.settle()
