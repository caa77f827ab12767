"""What the reconciliation has found, as operators, callers and alerts read it."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, select

from shared.clock import to_wire
from shared.database import Tx
from shared.errors import NotFound
from shared.models.operations import ConfigRow
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


def last_result(tx: Tx) -> dict[str, Any]:
    """Return when the last daily run ended, and what it found; None and {} before the first."""
    values = {row.key: row.value for row in tx.all(_PUBLISHED)}
    return {
        "lastReconciliationAt": values.get("last_reconciliation_at") or None,
        "result": json.loads(values.get("last_reconciliation_result") or "{}"),
    }


@dataclass(frozen=True)
class RunFilter:
    """Which runs are wanted; ``after`` is the id of the last one of the page before."""

    kind: str | None = None
    limit: int = 20
    after: str | None = None


def list_runs(tx: Tx, wanted: RunFilter) -> dict[str, Any]:
    """Return runs without their findings, newest first, and the next page's cursor."""
    statement = _RUNS.order_by(ReconciliationRun.id.desc())
    if wanted.kind is not None:
        statement = statement.where(ReconciliationRun.kind == wanted.kind)
    if wanted.after is not None:
        statement = statement.where(ReconciliationRun.id < wanted.after)
    rows = tx.all(statement.limit(wanted.limit + 1))
    page = rows[: wanted.limit]
    return {
        "runs": [_head(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > wanted.limit else None,
    }


def show_run(tx: Tx, run_id: str) -> dict[str, Any]:
    """Return a run with what it has found so far. Raises NotFound."""
    return describe_run(find_run(tx, run_id))


def find_run(tx: Tx, run_id: str) -> Row[Any]:
    """Return the row of a run. Raises NotFound (``reconciliation_run_not_found``)."""
    row = tx.first(_RUNS.where(ReconciliationRun.id == bindparam("id")), id=run_id)
    if row is None:
        raise NotFound(
            "There is no such run of the reconciliation.", code="reconciliation_run_not_found"
        )
    return row


def describe_run(row: Row[Any]) -> dict[str, Any]:
    """Write a run as callers see it."""
    return {**_head(row), "result": json.loads(row.result)}


def _head(row: Row[Any]) -> dict[str, Any]:
    is_begun = row.started_at is not None or row.lease_token is not None
    status = "completed" if row.state == "done" else "running" if is_begun else "queued"
    return {
        "runId": row.id,
        "kind": row.kind,
        "status": status,
        "passed": row.passed,
        "generation": row.generation,
        "checksDone": row.step,
        "accountsChecked": row.accounts_checked,
        "accountsDrifted": row.accounts_drifted,
        "requestedBy": row.requested_by,
        "createdAt": to_wire(row.created_at),
        "startedAt": to_wire(row.started_at) if row.started_at else None,
        "doneAt": to_wire(row.done_at) if row.done_at else None,
    }


_RUNS = select(*ReconciliationRun.__table__.c)
_PUBLISHED = select(ConfigRow.key, ConfigRow.value).where(
    ConfigRow.key.in_(("last_reconciliation_at", "last_reconciliation_result"))
)
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
