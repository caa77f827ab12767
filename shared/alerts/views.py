"""The alerts as operators and Prometheus see them, and their acknowledgement."""

from typing import Any

from sqlalchemy import Row, bindparam, func, select, update

from shared.alerts.evaluating import Evaluation, Found, look, target_of
from shared.alerts.rules import RULES, Rule, condition
from shared.clock import to_wire
from shared.database import Database, Tx
from shared.errors import NotFound
from shared.models.alerts import Alert
from shared.operations import ticks
from shared.operations.audit import Actor, AuditFilter, list_rows, noting_refusals, record


def show_alerts(tx: Tx) -> dict[str, Any]:
    """Return every alert with what is true now: those that fire first, then by name.

    One fires if the workers have noted so, or if its figure is above its threshold now: where no
    worker lives, nobody else would tell. ``clearsInSeconds`` is how long the figure of one that
    fires must stay where it is to clear; None while it is above, and of what does not fire.
    """
    seen = look(tx)
    known = {(row.name, row.subject): row for row in tx.all(_FIRING_ROWS)}
    found = seen.by_state()
    shown = []
    for key in sorted(known.keys() | found.keys()):
        state, one = known.get(key), found.get(key)
        if state is not None or (one is not None and one.is_above):
            told = _describe(RULES[key[0]], one, state)
            told["since"] = to_wire(state.since if state is not None else seen.at)
            if state is not None and (one is None or not one.is_above):
                told["clearsInSeconds"] = _seconds_left(seen, state)
            shown.append(told)
    firing = {one["name"] for one in shown}
    for rule in sorted(RULES.values(), key=lambda rule: rule.name):
        if rule.name not in firing:
            figures = [one for one in seen.found if one.rule is rule]
            highest = max(figures, key=_height, default=None)
            shown.append(_describe(rule, highest, None) | {"status": "ok", "subject": ""})
    above = {key for key, one in found.items() if one.is_above}
    return {
        "firing": len(known.keys() | above),
        "evaluatedAt": to_wire(seen.at),
        "alerts": shown,
    }


def firing(tx: Tx) -> dict[Rule, int]:
    """Return for how many subjects each alert fires, as the workers have noted it.

    Missing ticks are counted now, because the evaluation itself may be among them.
    """
    noted = {row.name: int(row.subjects) for row in tx.all(_FIRING_NUMBERS)}
    missing = sum(tick.is_missing for tick in ticks.list_ticks(tx))
    noted["tick_missing"] = max(noted.get("tick_missing", 0), missing)
    return {rule: noted.get(name, 0) for name, rule in RULES.items()}


def list_history(tx: Tx, *, limit: int, before: str | None = None) -> dict[str, Any]:
    """Return what fired, cleared and was acknowledged, newest first, page by page."""
    found = list_rows(tx, AuditFilter(target_type="alert", limit=limit, before=before))
    return {"history": found["audit"], "nextCursor": found["nextCursor"]}


def acknowledge(
    database: Database, actor: Actor, name: str, *, subject: str = "", reason: str
) -> dict[str, Any]:
    """Note that *actor* has seen an alert; it fires on.

    Raises NotFound (``alert_not_firing``); that is audited too.
    """
    about: dict[str, Any] = {"target_type": "alert", "target_id": target_of(name, subject)}
    noting = noting_refusals(database, actor, "alert_acknowledge", **about)
    with noting, database.transaction() as tx:
        seen = {"acknowledged_by": actor.id, "acknowledged_at": tx.now}
        if not tx.run(_ACKNOWLEDGE.values(**seen), named=name, about=subject):
            raise NotFound("No such alert fires.", code="alert_not_firing")
        details = {"name": name, "subject": subject, "reason": reason}
        record(tx, actor, "alert_acknowledge", details=details, **about)
        return {
            "name": name,
            "subject": subject,
            "acknowledgedBy": actor.id,
            "acknowledgedAt": to_wire(tx.now),
        }


def _height(one: Found) -> float:
    """Order figures: by the number, or by the share."""
    if one.figure.out_of is None:
        return one.figure.value
    return one.figure.value / one.figure.out_of if one.figure.out_of else 0.0


def _seconds_left(seen: Evaluation, state: Row[Any]) -> int:
    """Return for how long a figure must stay calm; at 0 the next evaluation clears the alert."""
    calm_seconds = int((seen.at - state.above_at).total_seconds())
    return max(0, seen.clear_seconds - calm_seconds)


def _describe(rule: Rule, one: Found | None, state: Row[Any] | None) -> dict[str, Any]:
    figure = one.figure if one is not None else None
    acknowledged_at = state.acknowledged_at if state is not None else None
    return {
        "name": rule.name,
        "subject": figure.subject if figure is not None else state.subject if state else "",
        "severity": rule.severity,
        "status": "firing",
        "value": figure.value if figure is not None else None,
        "outOf": figure.out_of if figure is not None else None,
        "threshold": condition(rule, one.limits if one is not None else rule.limits),
        "since": None,
        "message": one.message if one is not None else state.message if state else None,
        "meaning": rule.meaning,
        "whatToDo": rule.command,
        "clears": rule.clears,
        "clearsInSeconds": None,
        "acknowledgedBy": state.acknowledged_by if state is not None else None,
        "acknowledgedAt": to_wire(acknowledged_at) if acknowledged_at else None,
    }


_FIRING_ROWS = select(*Alert.__table__.c).where(
    Alert.status == "firing", Alert.name.in_(sorted(RULES))
)
_FIRING_NUMBERS = (
    select(Alert.name, func.count().label("subjects"))
    .where(Alert.status == "firing")
    .group_by(Alert.name)
)
_ACKNOWLEDGE = update(Alert).where(
    Alert.name == bindparam("named"),
    Alert.subject == bindparam("about"),
    Alert.status == "firing",
)
