"""The tables, one module an area: ledger, payments, operations, campaigns (behaviour 3)."""

from shared.models import (
    alerts,
    campaigns,
    ledger,
    notifications,
    operations,
    payments,
    reconciliation,
    x402,
)
from shared.models.base import Base

metadata = Base.metadata

__all__ = [
    "Base",
    "alerts",
    "campaigns",
    "ledger",
    "notifications",
    "operations",
    "payments",
    "reconciliation",
    "x402",
]
