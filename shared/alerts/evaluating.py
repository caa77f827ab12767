"""Evaluate the alerts: read the figures, then write what fires and what clears, each once.

The figures are read without a lock. The states are written under the lock of their rows; whoever
inserts a state second finds the unique key, reads again, and sees that it fires already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, select

from shared.alerts import rules
from shared.alerts.figures import measure
from shared.alerts.rules import RULES, Figure, Limits, Move, Rule
from shared.clock import to_wire
from shared.database import Database, Tx, insert_rows, patiently, update_rows
from shared.models.alerts import Alert
from shared.models.operations import ConfigRow
from shared.notifications import outbox
from shared.operations import modes
from shared.operations.audit import Actor, record

log = structlog.get_logger()
SYSTEM = Actor("system", "alerts")
_TABLE = Alert.__table__
_LOT_INVARIANT, _REFUSALS = "lot_invariant", "refusals_402"


@dataclass(frozen=True)
class Found:
    """A figure beside its rule, and whether it is above the threshold."""

    rule: Rule
    limits: Limits
    figure: Figure
    is_above: bool

    @property
    def message(self) -> str:
        """What was found, in words."""
        return rules.message(self.rule, self.limits, self.figure)


@dataclass(frozen=True)
class Evaluation:
    """All that was found at one instant, and the settings in force."""

    at: datetime
    found: Sequence[Found]
    clear_seconds: int
    is_demoting: bool

    def by_state(self) -> dict[tuple[str, str], Found]:
        """Return what was found by the key of its state."""
        return {(one.rule.name, one.figure.subject): one for one in self.found}


def look(tx: Tx) -> Evaluation:
    """Read every figure and compare it with its limits; nothing is written."""
    values = {row.key: row.value for row in tx.all(_CONFIG)}
    limits = {
        name: _read(values, rule.key, partial(rules.read_limits, rule), rule.limits)
        for name, rule in RULES.items()
    }
    found = [
        Found(RULES[name], limits[name], figure, rules.is_above(limits[name], figure))
        for name, figures in measure(tx, limits).items()
        for figure in figures
    ]
    return Evaluation(
        tx.now,
        found,
        _read(values, rules.CLEAR_SECONDS_KEY, rules.read_clear_seconds, rules.CLEAR_SECONDS),
        _read(values, rules.DEMOTE_KEY, rules.read_demote, rules.DEMOTE == "yes"),
    )


def evaluate(database: Database) -> int:
    """Evaluate every alert; return how many fired or cleared."""
    with database.reading() as tx:
        seen = look(tx)
        is_quiet = tx.first(_FIRING) is None and not any(one.is_above for one in seen.found)
    if is_quiet:
        return 0
    moved = patiently(lambda: _write(database, seen))
    for move, message in moved:
        if move is Move.FIRE:
            log.warning("alert_fired", message=message)
        else:
            log.info("alert_cleared", message=message)
    return len(moved)


def _read(values: dict[str, str], key: str, reader: Any, default: Any) -> Any:
    """Read a setting; one that SQL has left senseless must not silence the alerts."""
    if key not in values:
        return default
    try:
        return reader(values[key].strip())
    except ValueError as error:
        log.warning("alert_setting_ignored", key=key, reason=str(error))
        return default


def _write(database: Database, seen: Evaluation) -> list[tuple[Move, str]]:
    found = seen.by_state()
    moved: list[tuple[Move, str]] = []
    with database.transaction() as tx:
        known = {(row.name, row.subject): row for row in tx.all(_STATES)}
        for key in sorted(found.keys() | known.keys()):
            state, one = known.get(key), found.get(key) or _gone(*key)
            if one is None or (state is not None and state.evaluated_at > seen.at):
                continue
            move = rules.decide(
                above=one.is_above,
                firing=state is not None and state.status == "firing",
                above_at=state.above_at if state is not None else None,
                now=seen.at,
                clear_seconds=seen.clear_seconds,
            )
            if move is not Move.NONE:
                _save(tx, one, state, move, seen.at)
            if move in (Move.FIRE, Move.CLEAR):
                moved.append((move, one.message))
                _tell(tx, one, move, seen.at)
            if move is Move.FIRE:
                _demote(tx, one, is_demoting=seen.is_demoting)
    return moved


def _gone(name: str, subject: str) -> Found | None:
    """Return what stands for a subject that is no more; None for an alert that is no more."""
    rule = RULES.get(name)
    if rule is None:
        return None
    figure = Figure(0, 0 if rule.limits.is_rate else None, subject)
    return Found(rule, rule.limits, figure, is_above=False)


def _save(tx: Tx, one: Found, state: Row[Any] | None, move: Move, at: datetime) -> None:
    row: dict[str, Any] = {
        "name": one.rule.name,
        "subject": one.figure.subject,
        "severity": one.rule.severity,
        "value": one.figure.value,
        "out_of": one.figure.out_of,
        "message": one.message,
        "evaluated_at": at,
    }
    if one.is_above:
        row["above_at"] = at
    if move is Move.FIRE:
        row |= {"status": "firing", "since": at, "acknowledged_by": None, "acknowledged_at": None}
    elif move is Move.CLEAR:
        row |= {"status": "cleared", "since": at}
    if state is None:
        insert_rows(tx, _TABLE, [row])
    else:
        update_rows(tx, _TABLE, [row], key=("name", "subject"))


def _tell(tx: Tx, one: Found, move: Move, at: datetime) -> None:
    fired = move is Move.FIRE
    name, subject = one.rule.name, one.figure.subject
    facts = {
        "name": name,
        "subject": subject,
        "severity": one.rule.severity,
        "status": "firing" if fired else "cleared",
        "message": one.message,
        "since": to_wire(at),
    }
    target = target_of(name, subject)
    action = "alert_fired" if fired else "alert_cleared"
    record(tx, SYSTEM, action, target_type="alert", target_id=target, details=facts)
    kind = outbox.EventType.ALERT_FIRED if fired else outbox.EventType.ALERT_CLEARED
    outbox.emit(tx, kind, key=f"{action}:{target}:{at.isoformat()}", data=facts)


def _demote(tx: Tx, one: Found, *, is_demoting: bool) -> None:
    """Lower the mode, once for each time that the alert fires: an operator may raise it again."""
    if one.rule.name == _LOT_INVARIANT:
        modes.set_mode(tx, SYSTEM, "shadow", reason=one.message)
    elif one.rule.name == _REFUSALS and is_demoting and modes.show_mode(tx)["mode"] == "live":
        modes.set_mode(tx, SYSTEM, "soft", reason=one.message)


def target_of(name: str, subject: str) -> str:
    """Return how the audit log names an alert."""
    return f"{name}:{subject}" if subject else name


_CONFIG = select(ConfigRow.key, ConfigRow.value)
_FIRING = select(Alert.name).where(Alert.status == "firing").limit(1)
_STATES = select(*_TABLE.c).order_by(Alert.name, Alert.subject).with_for_update()
