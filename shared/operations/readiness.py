"""The runbook's checklist before the mode goes up, computed from what is recorded (runbook 2).

That 402, clawbacks and dead letters work in a mode is shown by real events in it, or by a
rehearsal (:mod:`shared.operations.rehearsal`); each point says which.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, func, select

from shared.alerts import counts
from shared.clock import add_seconds, to_wire
from shared.database import Tx
from shared.ledger.terms import Mode
from shared.models.ledger import MODES, REHEARSAL_ACCOUNT, Entry, Lot, Reservation
from shared.models.operations import AuditRow, DeadLetter
from shared.operations import dlq, rehearsal

WINDOW_DAYS = 30
SHADOW_DAYS, SHADOW_ERRORS_BPS = 7, 100
SOFT_DAYS, SOFT_OVERRUNS_BPS = 3, 10
_DAY_SECONDS = 86_400
_OPEN_LETTERS = ("pending", "processing", "manual_review")
_REHEARSALS_READ = 1_000
_ASKS = {
    "402": "A reserve above the balance was answered as {mode} says",
    "refund": "A clawback took credits back in {mode}",
    "dlq": "A dead letter was retried and healed in {mode}",
}
# Each mode is left only when it is verified; live is verified before it is entered.
_BEFORE: Mapping[str, Mode] = {"shadow": "soft", "soft": "live", "live": "live"}


@dataclass(frozen=True)
class Item:
    """One point of the runbook's checklist.

    ``before`` is the mode that may not be entered without it. ``is_met`` is None while the data
    cannot tell; ``figures`` are what the answer rests on, ``evidence`` where they came from.
    """

    id: str
    asks: str
    before: Mode
    value: str | None
    threshold: str
    is_met: bool | None
    figures: Mapping[str, Any]
    evidence: Sequence[Mapping[str, Any]]


@dataclass
class _Holds:
    """The holds of one mode in the window. ``own_days`` are days without a hold of another mode."""

    days: set[str] = field(default_factory=set)
    own_days: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def readiness(tx: Tx) -> list[Item]:
    """Return the checklist, each point with what the data of 30 days says."""
    since = add_seconds(tx.now, -WINDOW_DAYS * _DAY_SECONDS)
    holds = _holds(tx, since)
    shadow, soft = holds["shadow"], holds["soft"]
    letters = dlq.depth(tx)
    waiting = sum(letters.get(status, 0) for status in _OPEN_LETTERS)
    return [
        _days("shadow_days", "Shadow mode for 7 days", "soft", shadow, SHADOW_DAYS),
        _rate(
            "shadow_error_rate",
            "Shadow holds that ended without finalize or release",
            "soft",
            bad=shadow.counts["expired"],
            of=shadow.counts["ended"],
            below_bps=SHADOW_ERRORS_BPS,
        ),
        _days("soft_days", "Soft mode for 3 days", "live", soft, SOFT_DAYS),
        _rate(
            "soft_overrun_rate",
            "Soft finalizations that cost more than their hold",
            "live",
            bad=soft.counts["overruns"],
            of=soft.counts["finalized"],
            below_bps=SOFT_OVERRUNS_BPS,
        ),
        *_verified(tx, since, holds),
        Item(
            "dead_letters_worked_off",
            "The dead-letter queue is worked off",
            "soft",
            str(waiting),
            "0 waiting",
            waiting == 0,
            {"byStatus": letters},
            [{"from": "dead letters", "count": sum(letters.values())}],
        ),
    ]


def missing(items: Sequence[Item], before: str, mode: str) -> list[Item]:
    """Return what *mode* still asks for: all of the steps from *before* up to it."""
    ranks = {name: rank for rank, name in enumerate(MODES)}
    steps = [name for name in MODES if ranks.get(before, 0) < ranks[name] <= ranks[mode]]
    return [item for item in items if item.before in steps and item.is_met is not True]


def describe(item: Item) -> dict[str, Any]:
    """Return a point as callers see it."""
    met = {True: "yes", False: "no", None: "unknown"}[item.is_met]
    return {
        "id": item.id,
        "asks": item.asks,
        "before": item.before,
        "value": item.value,
        "threshold": item.threshold,
        "met": met,
        "figures": item.figures,
        "evidence": item.evidence,
    }


def _verified(tx: Tx, since: datetime, holds: Mapping[str, _Holds]) -> list[Item]:
    """Return the points that ask for a check in each mode; a newest rehearsal that failed is no."""
    latest = _latest_rehearsals(tx, since)
    events = _events(tx, since, holds)
    items = []
    for mode in MODES:
        for check, asks in _ASKS.items():
            seen = events.get((mode, check), 0)
            evidence: list[Mapping[str, Any]] = [{"from": "events", "count": seen}] if seen else []
            value = "seen" if seen else None
            is_met = seen > 0
            told = latest.get((mode, check))
            if told is not None:
                evidence.append({"from": "rehearsal", **told})
                value = "rehearsed" if told["passed"] else "rehearsal failed"
                is_met = told["passed"]
            items.append(
                Item(
                    f"{mode}_{check}",
                    asks.format(mode=mode),
                    _BEFORE[mode],
                    value,
                    "seen, or rehearsed",
                    is_met,
                    {"events": seen},
                    evidence,
                )
            )
    return items


def _latest_rehearsals(tx: Tx, since: datetime) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the newest rehearsal of each mode and check: when, by whom, and whether it passed."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in tx.all(_REHEARSALS.where(AuditRow.created_at >= since)):
        details = json.loads(row.details)
        told = {"at": to_wire(row.created_at), "by": row.actor_id, "passed": details["passed"]}
        found.setdefault((row.target_id, details["check"]), told)
    return found


def _events(tx: Tx, since: datetime, holds: Mapping[str, _Holds]) -> dict[tuple[str, str], int]:
    """Count real events for each mode and check.

    Neither a clawback nor a dead letter names a mode, so one counts for the mode in which every
    hold of its day was made. Answers of 402 leave no row, but are counted by the minute.
    """
    found = {
        ("shadow", "402"): int(tx.scalar(_WOULD_BE_SHORT.where(Entry.created_at >= since))),
        ("soft", "402"): holds["soft"].counts["overdrafts"],
        ("live", "402"): counts.total(tx, counts.REFUSED_402, since),
    }
    for check, statement, column in (
        ("refund", _REFUNDS, Entry.created_at),
        ("dlq", _HEALED, DeadLetter.completed_at),
    ):
        for row in tx.all(statement.where(column >= since)):
            for mode in MODES:
                if str(row.day) in holds[mode].own_days:
                    found[mode, check] = found.get((mode, check), 0) + row.events
    return found


def _holds(tx: Tx, since: datetime) -> dict[str, _Holds]:
    found = {mode: _Holds() for mode in MODES}
    modes_of: dict[str, set[str]] = defaultdict(set)
    for row in tx.all(_HOLDS.where(Reservation.created_at >= since)):
        holds, day = found[row.billing_mode], str(row.day)
        holds.days.add(day)
        modes_of[day].add(row.billing_mode)
        for name in ("holds", "ended", "finalized", "expired", "overruns", "overdrafts"):
            holds.counts[name] += int(getattr(row, name))
    for day, modes in modes_of.items():
        if len(modes) == 1:
            found[modes.pop()].own_days.add(day)
    return found


def _days(id_: str, asks: str, before: Mode, holds: _Holds, least: int) -> Item:
    days = len(holds.days)
    figures = {"daysWithHolds": days, "holds": holds.counts["holds"]}
    evidence = [{"from": "holds", "count": holds.counts["holds"]}]
    return Item(id_, asks, before, str(days), f">= {least} days", days >= least, figures, evidence)


def _rate(id_: str, asks: str, before: Mode, *, bad: int, of: int, below_bps: int) -> Item:
    """Return a share that must stay below *below_bps*; unknown while there is nothing to share."""
    threshold = f"< {below_bps // 100}.{below_bps % 100:02d} %"
    figures, evidence = {"bad": bad, "of": of}, [{"from": "holds", "count": of}]
    if of == 0:
        return Item(id_, asks, before, None, threshold, None, figures, evidence)
    bps = bad * 10_000 // of
    value = f"{bps // 100}.{bps % 100:02d} %"
    is_met = bad * 10_000 < of * below_bps
    return Item(id_, asks, before, value, threshold, is_met, figures, evidence)


def _number_where(*conditions: Any) -> Any:
    return func.sum(case((and_(*conditions), 1), else_=0))


# date() cuts a stored time to its UTC day on both databases (sessions are in UTC).
_DAY_OF_HOLD = func.date(Reservation.created_at)
_HOLDS = (
    select(
        Reservation.billing_mode,
        _DAY_OF_HOLD.label("day"),
        func.count().label("holds"),
        _number_where(Reservation.status.in_(("finalized", "released", "expired"))).label("ended"),
        _number_where(Reservation.status == "finalized").label("finalized"),
        _number_where(Reservation.status == "expired").label("expired"),
        _number_where(Reservation.status == "finalized", Reservation.overrun_micro > 0).label(
            "overruns"
        ),
        _number_where(Reservation.overdraft_micro > 0).label("overdrafts"),
    )
    .where(Reservation.account_id != REHEARSAL_ACCOUNT)
    .group_by(Reservation.billing_mode, _DAY_OF_HOLD)
)
_WOULD_BE_SHORT = select(func.count()).where(
    Entry.entry_type == "shadow_reserve",
    Entry.amount_micro > Entry.pre_balance_micro,
    Entry.account_id != REHEARSAL_ACCOUNT,
)
# What was paid back, not a grant that was revoked: that shows nothing about clawbacks.
_REFUNDS = (
    select(func.date(Entry.created_at).label("day"), func.count().label("events"))
    .join(Lot, Lot.id == Entry.lot_id)
    .where(
        Entry.entry_type == "refund",
        Entry.account_id != REHEARSAL_ACCOUNT,
        Lot.source_type == "deposit",
    )
    .group_by(func.date(Entry.created_at))
)
# One that a person closed shows nothing about the retries.
_CLOSED_BY_HAND = (
    select(AuditRow.id)
    .where(
        AuditRow.target_type == "dead_letter",
        AuditRow.target_id == DeadLetter.id,
        AuditRow.action == "dlq_resolve",
    )
    .exists()
)
_HEALED = (
    select(func.date(DeadLetter.completed_at).label("day"), func.count().label("events"))
    .where(DeadLetter.status == "completed", ~_CLOSED_BY_HAND)
    .group_by(func.date(DeadLetter.completed_at))
)
_REHEARSALS = (
    select(AuditRow.target_id, AuditRow.actor_id, AuditRow.details, AuditRow.created_at)
    .where(AuditRow.action == rehearsal.ACTION)
    .order_by(AuditRow.id.desc())
    .limit(_REHEARSALS_READ)
)
