"""What the checks work with."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.balance_upkeep import CachedBalances
from shared.database import Database
from shared.payments.providers.nowpayments import NowPayments
from shared.reconciliation.findings import Report


@dataclass(frozen=True)
class Desk:
    """The collaborators of the checks, and what a run asks for. *pause* waits some seconds."""

    database: Database
    cached: CachedBalances
    provider: NowPayments
    run_id: str = ""
    asks_provider: bool = True
    provider_days: int = 7
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Check:
    """One comparison, done in chunks.

    ``look`` notes in the report what a chunk shows; it is given where to begin (None at first) and
    returns where to go on, as JSON, or None at the end. A chunk may be done twice.
    """

    name: str
    look: Callable[[Desk, Report, Any], Any]
