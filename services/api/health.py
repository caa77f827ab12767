"""Readiness of the API: the database is needed; Redis and the workers are missed, but not needed.

Holds are placed and settled without them, so their absence is told and takes no API away; for a
probe of the workers there is ``arrakis status``.
"""

from typing import Any

from services.api.context import Services
from shared import schema
from shared.errors import Unavailable
from shared.operations import ticks
from shared.version import VERSION

CONTRACT_VERSION = "8.3.0"
CAPABILITIES = (
    "reserve",
    "extend",
    "finalize",
    "release",
    "batch",
    "estimate",
    "balance",
    "history",
    "payments",
    "topup",
    "packs",
)


def health_report(services: Services) -> tuple[dict[str, Any], bool]:
    """Return the report and whether the process is ready."""
    database, missing = "ok", list[str]()
    try:
        schema.require_current(services.database)
        with services.database.reading() as tx:
            missing = [tick.name for tick in ticks.list_ticks(tx) if tick.is_missing]
    except Unavailable as error:
        database = error.message
    is_ready = database == "ok"
    return {
        "status": "ok" if is_ready else "unavailable",
        "contract_version": CONTRACT_VERSION,
        "version": VERSION,
        "capabilities": list(CAPABILITIES),
        "billing_enabled": services.settings.is_billing_enabled,
        "dependencies": {
            "database": database,
            "redis": "ok" if services.limiter.is_shared() else "away",
            "workers": f"missing: {', '.join(missing)}" if missing else "ok",
        },
    }, is_ready
