"""A Celery task that does nothing: ``celery -A bench.yardsticks.noop worker``."""

import os

from celery import Celery

app = Celery("noop", broker=os.environ.get("REDIS_URL", ""))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(name="noop")
def noop() -> None:
    """Do nothing."""
