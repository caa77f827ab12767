"""The billing mode: shadow, soft, live. Going up asks for the runbook's evidence; going down never.

What the evidence is, and where it comes from, is in :mod:`shared.operations.readiness`.
"""

import json
from typing import Any

from sqlalchemy import select

from shared.clock import to_wire
from shared.database import Tx, upsert_rows
from shared.errors import Conflict
from shared.ledger.commands import Outcome
from shared.ledger.terms import Mode
from shared.models.ledger import MODES
from shared.models.operations import AuditRow, ConfigRow
from shared.operations.audit import Actor, record
from shared.operations.readiness import WINDOW_DAYS, describe, missing, readiness

TARGET, TARGET_ID = "setting", "billing_mode"


def show_mode(tx: Tx) -> dict[str, Any]:
    """Return the mode as it is configured, since when, and the last changes that were audited."""
    row = tx.first(_MODE)
    changes = tx.all(_CHANGES)
    return {
        "mode": row.value if row is not None else "shadow",
        "since": to_wire(row.updated_at) if row is not None else None,
        "changes": [
            {
                "action": one.action,
                "actorId": one.actor_id,
                "at": to_wire(one.created_at),
                "details": json.loads(one.details or "{}"),
            }
            for one in changes
        ],
    }


def show_readiness(tx: Tx) -> dict[str, Any]:
    """Return the runbook's checklist with what the data says, and which modes may be entered."""
    items = readiness(tx)
    mode = show_mode(tx)["mode"]
    return {
        "mode": mode,
        "windowDays": WINDOW_DAYS,
        "items": [describe(item) for item in items],
        "ready": {wanted: not missing(items, mode, wanted) for wanted in MODES},
    }


def set_mode(tx: Tx, actor: Actor, mode: Mode, *, reason: str, is_forced: bool = False) -> Outcome:
    """Set the mode, or refuse; both are audited, so the caller commits either.

    Going up (shadow, soft, live) without evidence is refused with Conflict ``mode_not_ready`` and
    the items, unless *is_forced*. Going down is always allowed. Running processes obey within
    five seconds; holds keep the mode in which they began.
    """
    row = tx.first(_MODE.with_for_update())
    tx.restart_clock()
    before = row.value if row is not None else "shadow"
    if mode == before:
        return Outcome({"mode": mode, "before": before, "isChanged": False, "unmet": []})
    items = [describe(item) for item in missing(readiness(tx), before, mode)]
    unmet = [item["id"] for item in items]
    details = {"from": before, "to": mode, "reason": reason, "force": is_forced, "unmet": unmet}
    if unmet and not is_forced:
        refusal = Conflict(
            f"Not ready for {mode}: {', '.join(unmet)}. Look at the readiness, or force it "
            "with a reason.",
            code="mode_not_ready",
            details={"items": items},
        )
        _audit(tx, actor, "mode_set_refused", details | {"refusedBecause": refusal.code})
        return Outcome(error=refusal)
    new = {"key": TARGET_ID, "value": mode, "updated_at": tx.now}
    upsert_rows(tx, ConfigRow.__table__, [new], key=("key",))
    _audit(tx, actor, "mode_set", details)
    return Outcome({"mode": mode, "before": before, "isChanged": True, "unmet": unmet})


def _audit(tx: Tx, actor: Actor, action: str, details: dict[str, Any]) -> None:
    record(tx, actor, action, target_type=TARGET, target_id=TARGET_ID, details=details)


_MODE = select(*ConfigRow.__table__.c).where(ConfigRow.key == TARGET_ID)
_CHANGES = (
    select(AuditRow.action, AuditRow.actor_id, AuditRow.created_at, AuditRow.details)
    .where(AuditRow.target_type == TARGET, AuditRow.target_id == TARGET_ID)
    .order_by(AuditRow.id.desc())
    .limit(10)
)
