"""Wake-ups for the workers: the only way to reach Celery from the API and the receiver.

A wake-up says "there is work of this kind" and nothing else. It is sent after the commit by a
thread of its own, at most once in a short while for each kind, and may be lost: the rows are the
jobs and the sweeps find them (ADR 0005). So neither a slow nor a dead Redis delays an answer.
"""

import threading
import time
from enum import StrEnum

import structlog
from celery import Celery

from shared.database import Tx
from shared.observability import HINTS

log = structlog.get_logger()
_COALESCE_SECONDS = 0.02


class TaskName(StrEnum):
    """The kinds of work. The part before the dot is the queue."""

    DRAIN_WEBHOOKS = "payments.drain_webhooks"
    POLL_PAYMENTS = "maintenance.poll_payments"
    SEARCH_PAYMENTS = "maintenance.search_payments"
    WATCH_SETTLEMENTS = "payments.watch_settlements"
    EXPIRE_HOLDS = "ledger.expire_holds"
    EXPIRE_LOTS = "ledger.expire_lots"
    ROLL_UP_REVENUE = "ledger.roll_up_revenue"
    RETRY_DEAD_LETTERS = "maintenance.retry_dead_letters"
    SWEEP_KEYS = "maintenance.sweep_idempotency_keys"
    SWEEP_QUOTES = "maintenance.sweep_quotes"
    ACTIVATE_RULES = "maintenance.activate_revenue_rules"
    EXPIRE_MINT_PROPOSALS = "maintenance.expire_mint_proposals"
    GRANT_LISTS = "ledger.grant_lists"
    EXPIRE_CAMPAIGNS = "maintenance.expire_campaigns"
    EVALUATE_ALERTS = "maintenance.evaluate_alerts"
    DELIVER_WEBHOOKS = "maintenance.deliver_webhooks"
    WATCH_ACCOUNTS = "maintenance.watch_accounts"
    RECONCILE_CACHE = "maintenance.reconcile_cache"
    RECONCILE_DAILY = "maintenance.reconcile_daily"

    @property
    def queue(self) -> str:
        """The queue that carries this kind."""
        return self.value.partition(".")[0]


QUEUES = tuple(sorted({name.queue for name in TaskName}))


def make_celery(redis_url: str) -> Celery:
    """Return a Celery app with the one set of transport settings (reliability B4).

    Messages are hints, so nothing is acknowledged, retried, delayed or kept as a result.
    """
    app = Celery("arrakis", broker=redis_url, set_as_current=False)
    app.conf.update(
        broker_transport_options={
            "ack_emulation": False,
            "socket_timeout": 2,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": "billing:",
            "queue_order_strategy": "round_robin",
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=10,
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue="maintenance",
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=10,
        worker_hijack_root_logger=False,
        beat_max_loop_interval=1,
        timezone="UTC",
    )
    return app


class Publisher:
    """Sends wake-ups from a background thread; give it to ``Database(after_commit=…)``."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._pending: set[str] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, tx: Tx) -> None:
        """Note what *tx* wants to be woken for, and return at once."""
        if not tx.messages:
            return
        with self._lock:
            self._pending.update(message.task for message in tx.messages)
            if self._thread is None:  # started late, so that it lives in the process after a fork
                self._thread = threading.Thread(target=self._send, name="publisher", daemon=True)
                self._thread.start()
        self._wake.set()

    def _send(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(_COALESCE_SECONDS)  # a burst of notices needs one wake-up, not hundreds
            self._wake.clear()
            with self._lock:
                tasks, self._pending = self._pending, set()
            for task in tasks:
                self._send_one(TaskName(task))

    def _send_one(self, task: TaskName) -> None:
        try:
            self._app.send_task(task.value, queue=task.queue, retry=False, ignore_result=True)
        except Exception as error:  # noqa: BLE001  whatever it is, the thread must go on
            HINTS.labels(task.value, "failed").inc()
            log.warning("hint_failed", task=task.value, reason=type(error).__name__)
        else:
            HINTS.labels(task.value, "sent").inc()
