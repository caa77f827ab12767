"""The audit log: who did what, written in the transaction of the change (W69)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.database import Tx, insert_rows
from shared.ids import new_id
from shared.models.operations import AuditRow


@dataclass(frozen=True)
class Actor:
    """Who acts: an admin by token, an operator by command line, or the system itself."""

    kind: str
    id: str
    address: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None


def record(
    tx: Tx,
    actor: Actor,
    action: str,
    *,
    target_type: str,
    target_id: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one row; it can never be altered."""
    facts = {
        **(details or {}),
        "ip": actor.address,
        "userAgent": actor.user_agent,
        "correlationId": actor.correlation_id,
    }
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    insert_rows(
        tx,
        AuditRow.__table__,
        [
            {
                "id": new_id(tx.now),
                "actor_type": actor.kind,
                "actor_id": actor.id,
                "action": action,
                "target_type": target_type,
                "target_id": target_id,
                "details": json.dumps(known, ensure_ascii=False),
                "created_at": tx.now,
            }
        ],
    )
