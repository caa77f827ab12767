"""Revenue rules: proposed by one admin, approved by another, in force after a cooldown (ADR 0011).

The machine is the one of behaviour 4. Whatever is done or refused leaves its audit row in the same
transaction. A rule that becomes active writes its shares into ``billing_config``, the one place
where charges read them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, bindparam, select, text

from shared.clock import add_seconds, to_wire
from shared.database import Database, Tx, insert_rows, update_rows, upsert_rows
from shared.errors import Conflict, Forbidden, NotFound, Unavailable
from shared.ids import new_id
from shared.ledger.commands import Outcome
from shared.ledger.terms import TermsError, load_terms
from shared.models.operations import ConfigRow, RevenueRule
from shared.models.types import UtcTime
from shared.operations.audit import Actor, record
from shared.operations.four_eyes import Machine

TARGET = "revenue_rule"
COOLDOWN_HOURS_DEFAULT = 48
ACTIVATOR = Actor("system", "revenue-rule-activator")
_TABLE = RevenueRule.__table__
_HOURS = re.compile(r"[0-9]{1,4}")


class Action(StrEnum):
    """What can be done with a rule. The audit log names it ``revenue_rule_<action>``."""

    SUBMIT = "submit"
    APPROVE = "approve"
    REJECT = "reject"
    OVERRIDE = "override_cooldown"
    ACTIVATE = "activate"
    SUPERSEDE = "supersede"


MACHINE = Machine(
    subject="revenue rule",
    code="revenue_rule_state",
    transitions={
        ("draft", Action.SUBMIT): "pending_approval",
        ("pending_approval", Action.APPROVE): "cooling_down",
        ("pending_approval", Action.REJECT): "rejected",
        ("cooling_down", Action.REJECT): "rejected",
        ("cooling_down", Action.OVERRIDE): "active",
        ("cooling_down", Action.ACTIVATE): "active",
        ("active", Action.SUPERSEDE): "superseded",
    },
    not_by_the_proposer={Action.APPROVE, Action.OVERRIDE},
)


@dataclass(frozen=True)
class Proposal:
    """What an admin proposes. The shares are in bps and add up to 10,000."""

    name: str
    commons_bps: int
    community_bps: int
    foundation_bps: int
    notes: str | None = None


def propose(tx: Tx, actor: Actor, proposal: Proposal) -> dict[str, Any]:
    """Keep *proposal* as a draft and return the rule as callers see it."""
    row = {
        "id": new_id(tx.now),
        "status": "draft",
        **vars(proposal),
        "proposed_by": actor.id,
        "proposed_at": tx.now,
    }
    insert_rows(tx, _TABLE, [row])
    _audit(tx, actor, "propose", row["id"], {"name": proposal.name, **_shares(proposal)})
    return show(tx, row["id"])


def submit(tx: Tx, actor: Actor, rule_id: str) -> Outcome:
    """Ask for the approval of a draft."""
    return _move(tx, actor, rule_id, Action.SUBMIT)


def approve(tx: Tx, actor: Actor, rule_id: str) -> Outcome:
    """Approve what another admin proposed: it becomes active after the cooldown.

    Raises Unavailable (``config_invalid``) if the configured cooldown makes no sense.
    """
    return _move(tx, actor, rule_id, Action.APPROVE)


def reject(tx: Tx, actor: Actor, rule_id: str, reason: str) -> Outcome:
    """Reject a rule that waits for approval or cools down, for good."""
    return _move(tx, actor, rule_id, Action.REJECT, reason)


def override_cooldown(tx: Tx, actor: Actor, rule_id: str, reason: str) -> Outcome:
    """Activate at once a rule that is cooling down; not by who proposed it."""
    _lock_rates(tx)
    return _move(tx, actor, rule_id, Action.OVERRIDE, reason)


def activate_due(database: Database) -> int:
    """Activate the rule whose cooldown ended first, if any; return how many: 1 or 0.

    One at a time, so that of several due rules the one that was due last stays active.
    """
    with database.transaction() as tx:
        _lock_rates(tx)
        rule = tx.first(_NEXT_DUE, now=tx.now)
        if rule is None:
            return 0
        _carry_out(tx, ACTIVATOR, rule, Action.ACTIVATE)
        return 1


def show(tx: Tx, rule_id: str) -> dict[str, Any]:
    """Return a rule as callers see it. Raises NotFound (``revenue_rule_not_found``)."""
    row = tx.first(_BY_ID, id=rule_id)
    if row is None:
        raise _not_found()
    return _as_told(row)


def list_rules(tx: Tx, *, limit: int, after: str | None) -> dict[str, Any]:
    """Return rules in the order of their ids, so oldest first, and the next page's cursor."""
    statement = select(*_TABLE.c).order_by(RevenueRule.id)
    if after is not None:
        statement = statement.where(RevenueRule.id > after)
    rows = tx.all(statement.limit(limit + 1))
    page = rows[:limit]
    return {
        "revenueRules": [_as_told(row) for row in page],
        "nextCursor": page[-1].id if len(rows) > limit else None,
    }


def show_active(tx: Tx) -> dict[str, Any]:
    """Return the active rule, the rates in force, and whether they differ.

    They differ after an operator changed a rate by SQL. If the configuration makes no sense,
    ``fault`` says why, and running processes keep the last rates that made sense.
    """
    rule = tx.first(_ACTIVE)
    rates, fault = None, None
    try:
        terms = load_terms(tx)
    except TermsError as error:
        fault = str(error)
    else:
        rates = {
            "commonsBps": terms.commons_rate_bps,
            "communityBps": terms.community_rate_bps,
            "foundationBps": terms.foundation_rate_bps,
        }
    return {
        "revenueRule": _as_told(rule) if rule is not None else None,
        "ratesInForce": rates,
        "differs": rule is None or _shares(rule) != rates,
        "fault": fault,
    }


def _move(tx: Tx, actor: Actor, rule_id: str, action: Action, reason: str | None = None) -> Outcome:
    """Carry out *action* or refuse it; both are audited, so the caller commits either."""
    rule = tx.first(_BY_ID.with_for_update(), id=rule_id)
    tx.restart_clock()
    try:
        if rule is None:
            raise _not_found()
        _carry_out(tx, actor, rule, action, reason)
    except (NotFound, Conflict, Forbidden) as refusal:
        details = {"refusedBecause": refusal.code, "reason": reason}
        _audit(tx, actor, f"{action.value}_refused", rule_id, details)
        return Outcome(error=refusal)
    return Outcome(show(tx, rule_id))


def _carry_out(
    tx: Tx,
    actor: Actor,
    rule: Row[Any],
    action: Action,
    reason: str | None = None,
    **details: Any,
) -> None:
    """Write what *action* makes of *rule*, which the caller has locked, and audit it.

    Raises as ``MACHINE.next_status`` does, before anything is written.
    """
    status = MACHINE.next_status(
        rule.status, action, proposer_id=rule.proposed_by, actor_id=actor.id
    )
    if status == "active":
        details["configBefore"] = _put_in_force(tx, actor, rule)
    changes = _changes(tx, actor, action)
    row = {"id": rule.id, "status": status, "reason": reason or rule.reason, **changes}
    update_rows(tx, _TABLE, [row])
    _audit(tx, actor, action.value, rule.id, {"reason": reason, **details})


def _put_in_force(tx: Tx, actor: Actor, rule: Row[Any]) -> dict[str, str]:
    """Supersede the active rule and configure the shares of *rule*; return what was configured."""
    before = _lock_rates(tx)
    rates = [
        {"key": key, "value": str(share), "updated_at": tx.now}
        for key, share in zip(_RATE_KEYS, _shares(rule).values(), strict=True)
    ]
    upsert_rows(tx, ConfigRow.__table__, rates, key=("key",))
    old = tx.first(_ACTIVE)
    if old is not None:
        _carry_out(tx, actor, old, Action.SUPERSEDE, supersededBy=rule.id)
    return before


def _lock_rates(tx: Tx) -> dict[str, str]:
    """Lock the configured rates until *tx* ends, and return them as they are written.

    Activations take this lock before any rule's, so none waits for another that waits for it, and
    each sees the active rule of the one before. The unique index has the last word.
    """
    rates = {row.key: row.value for row in tx.all(_RATES)}
    tx.restart_clock()
    return rates


def _changes(tx: Tx, actor: Actor, action: Action) -> dict[str, Any]:
    """Return what a rule's row tells of *action* afterwards: its status, who, and when."""
    match action:
        case Action.SUBMIT:
            facts = {"submitted_by": actor.id, "submitted_at": tx.now}
        case Action.APPROVE:
            activates_at = add_seconds(tx.now, 3_600 * _cooldown_hours(tx))
            facts = {
                "approved_by": actor.id,
                "approved_at": tx.now,
                "activates_at": activates_at,
            }
        case Action.REJECT:
            facts = {"rejected_by": actor.id, "rejected_at": tx.now}
        case Action.OVERRIDE:
            facts = {"overridden_by": actor.id, "activated_at": tx.now}
        case Action.ACTIVATE:
            facts = {"activated_at": tx.now}
        case Action.SUPERSEDE:
            facts = {"superseded_at": tx.now}
    return facts


def _cooldown_hours(tx: Tx) -> int:
    hours = tx.scalar(_COOLDOWN)
    if hours is None:
        return COOLDOWN_HOURS_DEFAULT
    try:
        return read_cooldown_hours(hours)
    except ValueError as error:
        raise Unavailable(f"{error}.", code="config_invalid") from error


def read_cooldown_hours(written: str) -> int:
    """Read ``revenue_rule_cooldown_hours``. Raises ValueError unless it is from 0 to 9,999."""
    if _HOURS.fullmatch(written) is None:
        raise ValueError(
            f"revenue_rule_cooldown_hours is {written[:40]!r}, "
            "not a whole number of at most 4 digits"
        )
    return int(written)


def _audit(tx: Tx, actor: Actor, action: str, rule_id: str, details: Mapping[str, Any]) -> None:
    record(tx, actor, f"{TARGET}_{action}", target_type=TARGET, target_id=rule_id, details=details)


def _not_found() -> NotFound:
    return NotFound("Revenue rule not found.", code="revenue_rule_not_found")


def _shares(rule: Any) -> dict[str, int]:
    """Return the shares of a rule or a proposal as callers see them."""
    return {
        "commonsBps": rule.commons_bps,
        "communityBps": rule.community_bps,
        "foundationBps": rule.foundation_bps,
    }


def _as_told(row: Row[Any]) -> dict[str, Any]:
    return {
        "ruleId": row.id,
        "name": row.name,
        "status": row.status,
        **_shares(row),
        "notes": row.notes,
        "reason": row.reason,
        "proposedBy": row.proposed_by,
        "submittedBy": row.submitted_by,
        "approvedBy": row.approved_by,
        "overriddenBy": row.overridden_by,
        "rejectedBy": row.rejected_by,
        "proposedAt": to_wire(row.proposed_at),
        "submittedAt": _time(row.submitted_at),
        "approvedAt": _time(row.approved_at),
        "activatesAt": _time(row.activates_at),
        "activatedAt": _time(row.activated_at),
        "rejectedAt": _time(row.rejected_at),
        "supersededAt": _time(row.superseded_at),
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else to_wire(moment)


# In the order of the shares.
_RATE_KEYS = ("commons_rate_bps", "community_rate_bps", "foundation_rate_bps")
_RATES = (
    select(ConfigRow.key, ConfigRow.value)
    .where(ConfigRow.key.in_(_RATE_KEYS))
    .order_by(ConfigRow.key)
    .with_for_update()
)
_COOLDOWN = select(ConfigRow.value).where(ConfigRow.key == "revenue_rule_cooldown_hours")
_BY_ID = select(*_TABLE.c).where(RevenueRule.id == text(":id"))
_ACTIVE = select(*_TABLE.c).where(RevenueRule.status == "active")
_NEXT_DUE = (
    select(*_TABLE.c)
    .where(
        RevenueRule.status == "cooling_down",
        RevenueRule.activates_at <= bindparam("now", type_=UtcTime()),
    )
    .order_by(RevenueRule.activates_at, RevenueRule.id)
    .limit(1)
    .with_for_update()
)
