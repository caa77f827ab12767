"""What the reconciliation has found, as operators, callers and alerts read it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from shared.database import Tx
from shared.models.reconciliation import ReconciliationRun


@dataclass(frozen=True)
class Drift:
    """How many accounts had a cached balance, how many of those a wrong one, and when that was."""

    accounts_checked: int
    accounts_drifted: int
    measured_at: datetime


def latest_drift(tx: Tx) -> Drift | None:
    """Return what the last run found that could look at the cached balances; None before it."""
    row = tx.first(_LATEST_DRIFT)
    return None if row is None else Drift(row.accounts_checked, row.accounts_drifted, row.done_at)


_LATEST_DRIFT = (
    select(
        ReconciliationRun.accounts_checked,
        ReconciliationRun.accounts_drifted,
        ReconciliationRun.done_at,
    )
    .where(ReconciliationRun.done_at.is_not(None), ReconciliationRun.accounts_checked.is_not(None))
    .order_by(ReconciliationRun.done_at.desc())
    .limit(1)
)
