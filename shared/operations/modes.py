"""The billing mode: shadow, soft, live. Going up asks for the runbook's evidence; going down never.

What can be known from the data is computed when it is asked for (runbook 2). What cannot be known
is told as unknown, and stops nobody where the runbook asks for it only after the step.
"""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, and_, case, func, select

from shared.clock import add_seconds, to_wire
from shared.database import Tx, upsert_rows
from shared.errors import Conflict
from shared.ledger.commands import Outcome
from shared.ledger.terms import Mode
from shared.models.ledger import MODES, Entry, Reservation
from shared.models.operations import AuditRow, ConfigRow
from shared.operations import dlq
from shared.operations.audit import Actor, record

TARGET, TARGET_ID = "setting", "billing_mode"
WINDOW_DAYS = 30
SHADOW_DAYS, SHADOW_ERRORS_BPS = 7, 100
SOFT_DAYS, SOFT_OVERRUNS_BPS = 3, 10
_DAY_SECONDS = 86_400
_OPEN_LETTERS = ("pending", "processing", "manual_review")


@dataclass(frozen=True)
class Item:
    """One point of the runbook's checklist.

    ``before`` is the mode that may not be entered without it, None if it can only be seen after.
    ``is_met`` is None while the data cannot tell; ``figures`` are what the answer rests on.
    """

    id: str
    asks: str
    before: Mode | None
    value: str | None
    threshold: str
    is_met: bool | None
    figures: dict[str, Any]


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
        "items": [_describe(item) for item in items],
        "ready": {wanted: not _missing(items, mode, wanted) for wanted in MODES},
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
    missing = [_describe(item) for item in _missing(readiness(tx), before, mode)]
    unmet = [item["id"] for item in missing]
    details = {"from": before, "to": mode, "reason": reason, "force": is_forced, "unmet": unmet}
    if unmet and not is_forced:
        refusal = Conflict(
            f"Not ready for {mode}: {', '.join(unmet)}. Look at the readiness, or force it "
            "with a reason.",
            code="mode_not_ready",
            details={"items": missing},
        )
        _audit(tx, actor, "mode_set_refused", details | {"refusedBecause": refusal.code})
        return Outcome(error=refusal)
    new = {"key": TARGET_ID, "value": mode, "updated_at": tx.now}
    upsert_rows(tx, ConfigRow.__table__, [new], key=("key",))
    _audit(tx, actor, "mode_set", details)
    return Outcome({"mode": mode, "before": before, "isChanged": True, "unmet": unmet})


def readiness(tx: Tx) -> list[Item]:
    """Return the checklist of runbook 2, each point with what the data of 30 days says."""
    since = add_seconds(tx.now, -WINDOW_DAYS * _DAY_SECONDS)
    holds = {row.billing_mode: row for row in tx.all(_HOLDS.where(Reservation.created_at >= since))}
    shadow, soft, live = (holds.get(mode) for mode in MODES)
    refunds = int(tx.scalar(_REFUNDS.where(Entry.created_at >= since)))
    letters = dlq.depth(tx)
    waiting = sum(letters.get(status, 0) for status in _OPEN_LETTERS)
    return [
        _days("shadow_days", "Shadow mode for 7 days", "soft", shadow, SHADOW_DAYS),
        _rate(
            "shadow_error_rate",
            "Shadow holds that ended without finalize or release",
            "soft",
            bad=_count(shadow, "expired"),
            of=_count(shadow, "ended"),
            below_bps=SHADOW_ERRORS_BPS,
        ),
        _days("soft_days", "Soft mode for 3 days", "live", soft, SOFT_DAYS),
        _rate(
            "soft_overrun_rate",
            "Soft finalizations that cost more than their hold",
            "live",
            bad=_count(soft, "overruns"),
            of=_count(soft, "finalized"),
            below_bps=SOFT_OVERRUNS_BPS,
        ),
        Item(
            "live_402",
            "402 handling works end to end: send a reserve that is too large, in live mode",
            None,
            None,
            "seen",
            # A refused reserve leaves no row (nothing was held), so only the caller can tell.
            None,
            {"liveHolds": _count(live, "holds")},
        ),
        Item(
            "refund_seen",
            "A refund has clawed credits back",
            "live",
            str(refunds),
            ">= 1",
            refunds > 0,
            {"refundEntries": refunds},
        ),
        Item(
            "dead_letters_worked_off",
            "The dead-letter queue is worked off",
            "soft",
            str(waiting),
            "0 waiting",
            waiting == 0,
            {"byStatus": letters},
        ),
    ]


def _missing(items: list[Item], before: str, mode: str) -> list[Item]:
    """Return what *mode* still asks for: all of the steps from *before* up to it."""
    ranks = {name: rank for rank, name in enumerate(MODES)}
    steps = [name for name in MODES if ranks.get(before, 0) < ranks[name] <= ranks[mode]]
    return [item for item in items if item.before in steps and item.is_met is not True]


def _days(id_: str, asks: str, before: Mode, row: Row[Any] | None, least: int) -> Item:
    days = _count(row, "days")
    figures = {"daysWithHolds": days, "holds": _count(row, "holds")}
    return Item(id_, asks, before, str(days), f">= {least} days", days >= least, figures)


def _rate(id_: str, asks: str, before: Mode, *, bad: int, of: int, below_bps: int) -> Item:
    """Return a share that must stay below *below_bps*; unknown while there is nothing to share."""
    threshold = f"< {below_bps // 100}.{below_bps % 100:02d} %"
    figures = {"bad": bad, "of": of}
    if of == 0:
        return Item(id_, asks, before, None, threshold, None, figures)
    bps = bad * 10_000 // of
    value = f"{bps // 100}.{bps % 100:02d} %"
    return Item(id_, asks, before, value, threshold, bad * 10_000 < of * below_bps, figures)


def _count(row: Row[Any] | None, name: str) -> int:
    return int(getattr(row, name) or 0) if row is not None else 0


def _describe(item: Item) -> dict[str, Any]:
    met = {True: "yes", False: "no", None: "unknown"}[item.is_met]
    return {
        "id": item.id,
        "asks": item.asks,
        "before": item.before,
        "value": item.value,
        "threshold": item.threshold,
        "met": met,
        "figures": item.figures,
    }


def _audit(tx: Tx, actor: Actor, action: str, details: dict[str, Any]) -> None:
    record(tx, actor, action, target_type=TARGET, target_id=TARGET_ID, details=details)


def _number_where(*conditions: Any) -> Any:
    return func.sum(case((and_(*conditions), 1), else_=0))


_MODE = select(*ConfigRow.__table__.c).where(ConfigRow.key == TARGET_ID)
_CHANGES = (
    select(AuditRow.action, AuditRow.actor_id, AuditRow.created_at, AuditRow.details)
    .where(AuditRow.target_type == TARGET, AuditRow.target_id == TARGET_ID)
    .order_by(AuditRow.id.desc())
    .limit(10)
)
_ENDED = Reservation.status.in_(("finalized", "released", "expired"))
_HOLDS = select(
    Reservation.billing_mode,
    func.count().label("holds"),
    # date() cuts a stored time to its UTC day on both databases (sessions are in UTC).
    func.count(func.date(Reservation.created_at).distinct()).label("days"),
    _number_where(_ENDED).label("ended"),
    _number_where(Reservation.status == "finalized").label("finalized"),
    _number_where(Reservation.status == "expired").label("expired"),
    _number_where(Reservation.status == "finalized", Reservation.overrun_micro > 0).label(
        "overruns"
    ),
).group_by(Reservation.billing_mode)
_REFUNDS = select(func.count()).select_from(Entry).where(Entry.entry_type == "refund")
