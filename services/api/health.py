"""Readiness of the API: the database is needed; Redis is missed, but not needed."""

from typing import Any

from sqlalchemy import text

from services.api.context import Services
from shared import schema
from shared.errors import Unavailable

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
)


def health_report(services: Services) -> tuple[dict[str, Any], bool]:
    """Return the report and whether the process is ready."""
    database = "ok"
    try:
        with services.database.reading() as tx:
            tx.scalar(text("SELECT 1"))
        schema.require_current(services.database)
    except Unavailable as error:
        database = error.message
    is_ready = database == "ok"
    return {
        "status": "ok" if is_ready else "unavailable",
        "contract_version": CONTRACT_VERSION,
        "capabilities": list(CAPABILITIES),
        "billing_enabled": services.settings.is_billing_enabled,
        "dependencies": {
            "database": database,
            "redis": "ok" if services.limiter.is_shared() else "away",
        },
    }, is_ready
