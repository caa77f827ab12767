"""Flower's Celery application in a container: the broker, and no code of the workers.

``celery -A deploy.flower flower …``. Tasks and their states come with the workers' events.
"""

import os

from shared.config import CommonSettings, SettingsError, load_settings, read_setting
from shared.messaging import make_celery

_AUTHENTICATION = "FLOWER_BASIC_AUTH"


def _require_authentication() -> None:
    """Hand ``name:password`` to Flower, which reads its environment and no files."""
    value = read_setting(_AUTHENTICATION)
    if not value.partition(":")[2]:
        raise SettingsError(f"Cannot start: {_AUTHENTICATION} must be name:password.")
    os.environ[_AUTHENTICATION] = value


_require_authentication()
app = make_celery(load_settings(CommonSettings).redis_url)
