"""Runs of the reconciliation: asked for, due by the clock, done check by check under a lease.

A run is a job (ADR 0005): what a chunk has found is kept with where the next one begins, so a
worker that is killed costs a chunk, and a large database takes many short turns.
"""

import json
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, bindparam, delete, select, text, update

from shared.clock import add_seconds, to_wire
from shared.database import Database, Message, Tx, insert_rows, patiently, upsert_rows
from shared.errors import Unavailable
from shared.ids import new_id
from shared.jobs import Claim, claim, finished, give_back, held_rows, release
from shared.ledger.commands import Outcome
from shared.messaging import TaskName
from shared.models.operations import ConfigRow, MigrationRow
from shared.models.reconciliation import ReconciliationRun
from shared.models.types import UtcTime
from shared.operations.audit import Actor, record
from shared.parameters import constant, member_of
from shared.reconciliation.booking import SYSTEM, check_repairs
from shared.reconciliation.books import check_deposits, check_orphans, check_sums, invariant
from shared.reconciliation.cache import check_cache
from shared.reconciliation.desk import Check, Desk
from shared.reconciliation.findings import Report, describe, from_json, to_json
from shared.reconciliation.provider import check_provider
from shared.reconciliation.views import describe_run, find_run

log = structlog.get_logger()
_CACHE = Check("balance_cache", check_cache)
CHECKS: dict[str, tuple[Check, ...]] = {
    "cache": (_CACHE,),
    # Repairs come before the sums that they would break.
    "daily": (
        _CACHE,
        Check("operator_repairs", check_repairs),
        *(
            Check(name, invariant(name))
            for name in ("lot_balance_invariant", "zero_sum_distribution", "campaign_spent_grants")
        ),
        Check("orphan_reservations", check_orphans),
        Check("webhook_deposit_match", check_deposits),
        Check("ledger_sums", check_sums),
        Check("provider_three_way", check_provider),
    ),
}
# A wake-up that comes a little early counts, or every other one would be missed.
_EVERY_SECONDS = {"cache": 240, "daily": 86_400}
_TASKS = {"cache": TaskName.RECONCILE_CACHE, "daily": TaskName.RECONCILE_DAILY}
_TURN_SECONDS = 2.0
_ATTEMPTS_MAX = 3
_KEPT_DAYS, _SWEPT_AT_ONCE = 30, 500
_SECONDS_A_DAY = 86_400


def request(
    database: Database, actor: Actor, kind: str, *, asks_provider: bool = True, days: int = 7
) -> Outcome:
    """Ask for a run; the answer is the job. One of a kind is open at a time: then it is that one.

    The request is audited.
    """
    asked = partial(_request, database, actor, kind, asks_provider=asks_provider, days=days)
    return patiently(asked)


def _request(
    database: Database, actor: Actor, kind: str, *, asks_provider: bool, days: int
) -> Outcome:
    with database.transaction() as tx:
        known = tx.first(_OPEN, kind=kind)
        run_id = known.id if known is not None else None
        if run_id is None:
            run_id = _open(tx, actor.id, kind, asks_provider=asks_provider, days=days)
        record(
            tx,
            actor,
            "reconciliation_requested",
            target_type="reconciliation_run",
            target_id=run_id,
            details={"kind": kind, "isOpenAlready": known is not None},
        )
        return Outcome(describe_run(find_run(tx, run_id)), is_replay=known is not None)


def _open(
    tx: Tx, requested_by: str, kind: str, *, asks_provider: bool = True, days: int = 7
) -> str:
    run_id = f"rr_{new_id(tx.now)}"
    row = {
        "id": run_id,
        "kind": kind,
        "requested_by": requested_by,
        "asks_provider": asks_provider,
        "provider_days": days,
        "due_at": tx.now,
        "created_at": tx.now,
    }
    insert_rows(tx, ReconciliationRun.__table__, [row])
    tx.messages.append(Message(_TASKS[kind]))
    return run_id


def work(desk: Desk, kind: str) -> int:
    """Open a run of *kind* if its time has come, and do one turn of whichever run is due.

    The daily wake-up also forgets old runs. Returns 0 if there was nothing to do.
    """
    opened = patiently(partial(_open_due, desk.database, kind))
    swept = sweep(desk.database) if kind == "daily" else 0
    return opened + swept + work_off(desk)


def _open_due(database: Database, kind: str) -> int:
    with database.reading() as tx:  # most wake-ups find nothing to do, and take no lock for that
        if not _is_due(tx, kind):
            return 0
    with database.transaction() as tx:
        if not _is_due(tx, kind):
            return 0
        _open(tx, SYSTEM.id, kind)
        return 1


def _is_due(tx: Tx, kind: str) -> bool:
    last = tx.first(_LAST, kind=kind)
    if last is None and kind == "daily":  # a new installation begins with an empty result
        begun = tx.scalar(_BEGUN)
        return begun is not None and tx.now >= add_seconds(begun, _EVERY_SECONDS[kind])
    if last is None:
        return True
    return last.state == "done" and tx.now >= add_seconds(last.created_at, _EVERY_SECONDS[kind])


def work_off(desk: Desk, *, only: str | None = None) -> int:
    """Do one turn of the run that is due first: chunks of one check; 0 if none is due.

    A check that fails says why and stops no other. Raises Unavailable if the database is away.
    """
    held = claim(desk.database, ReconciliationRun, limit=1, only=None if only is None else [only])
    if not held.ids:
        return 0
    try:
        with desk.database.reading() as tx:
            run = find_run(tx, held.ids[0])
        place, report = _turn(desk, run)
        with desk.database.transaction() as tx:
            _note(tx, held, report, place)
    except Unavailable:
        with suppress(Unavailable), desk.database.transaction() as tx:
            give_back(tx, ReconciliationRun, held)
        raise
    return 1


def _turn(desk: Desk, run: Row[Any]) -> tuple[Any, Report]:
    """Go on with the next check of *run* for a while; return where it goes on, and its report."""
    known = json.loads(run.progress) if run.progress else {"place": None, "report": None}
    report = from_json(known["report"]) if known["report"] else Report()
    check = CHECKS[run.kind][run.step]
    if run.attempts > _ATTEMPTS_MAX:
        report.error = "It has ended its process several times."
        return None, report
    place, ends = known["place"], time.monotonic() + _TURN_SECONDS
    asked = replace(
        desk,
        run_id=run.id,
        asks_provider=run.asks_provider,
        provider_days=run.provider_days,
    )
    try:
        while True:
            place = check.look(asked, report, place)
            if place is None or time.monotonic() >= ends:
                return place, report
    except Unavailable as error:
        if error.code == "database_unavailable":
            raise
        report.not_checked, report.is_away = error.message, True
    except Exception as error:
        log.exception("billing.daily_reconciliation.check_failed", check=check.name)
        report.error = repr(error)[:500]
    return None, report


def _note(tx: Tx, held: Claim, report: Report, place: Any) -> None:
    """Keep what a turn has found, unless the lease has lapsed and somebody else goes on."""
    for run in held_rows(tx, ReconciliationRun, held, held.ids):
        checks = CHECKS[run.kind]
        values: dict[str, Any] = {"attempts": 0, "started_at": run.started_at or tx.now}
        if place is not None:
            values["progress"] = json.dumps({"place": place, "report": to_json(report)})
        else:
            name = checks[run.step].name
            results = [*json.loads(run.result).get("checks", []), describe(name, report)]
            values |= {"step": run.step + 1, "progress": None}
            values |= {"result": json.dumps({"checks": results}, ensure_ascii=False)}
            if name == _CACHE.name and report.passed is not None:
                values["accounts_checked"] = report.counts["accountsChecked"]
                values["accounts_drifted"] = report.counts["accountsDrifted"]
        tx.run(_CHANGE.values(**values), run=run.id)
        if values.get("step") == len(checks):
            _finish(tx, run, results, values["started_at"])
        else:
            release(tx, ReconciliationRun, run.id, after_seconds=0)


def _finish(tx: Tx, run: Row[Any], results: list[dict[str, Any]], started_at: datetime) -> None:
    passed = all(check["passed"] is not False for check in results)
    summary: dict[str, Any] = {
        "timestamp": to_wire(tx.now),
        "passed": passed,
        "checks": results,
        "notChecked": [check["name"] for check in results if check["passed"] is None],
        "durationMs": int((tx.now - started_at).total_seconds() * 1000),
    }
    generation = None
    if run.kind == "daily":
        generation = int(tx.scalar(_GENERATION) or 0) + 1
        summary["generation"] = generation
        _publish(tx, summary)
    values = {"passed": passed, "result": json.dumps(summary, ensure_ascii=False)}
    done = finished(tx.now, generation=generation, **values)
    tx.run(_CHANGE.values(**done), run=run.id)
    log.info(
        "billing.daily_reconciliation" if run.kind == "daily" else "billing.reconcile",
        run_id=run.id,
        passed=passed,
        generation=generation,
        failed=[check["name"] for check in results if check["passed"] is False],
    )


def _publish(tx: Tx, summary: dict[str, Any]) -> None:
    """Leave the result where the runbook's SQL reads it (behaviour 10)."""
    values = {
        "last_reconciliation_at": summary["timestamp"],
        "last_reconciliation_result": json.dumps(summary, ensure_ascii=False),
        "reconciliation_generation": str(summary["generation"]),
    }
    rows = [{"key": key, "value": value, "updated_at": tx.now} for key, value in values.items()]
    upsert_rows(tx, ConfigRow.__table__, rows, key=("key",))


def sweep(database: Database) -> int:
    """Forget a bounded number of runs that ended a month ago; return how many."""
    with database.reading() as tx:
        before = add_seconds(tx.now, -_KEPT_DAYS * _SECONDS_A_DAY)
        ids = [row.id for row in tx.all(_OLD, before=before)]
    if not ids:
        return 0
    with database.transaction() as tx:
        return tx.run(_FORGET, ids=ids)


_OPEN = select(ReconciliationRun.id).where(
    ReconciliationRun.kind == bindparam("kind"), ReconciliationRun.state == constant("new")
)
_LAST = (
    select(ReconciliationRun.created_at, ReconciliationRun.state)
    .where(ReconciliationRun.kind == bindparam("kind"))
    .order_by(ReconciliationRun.created_at.desc(), ReconciliationRun.id.desc())
    .limit(1)
)
_BEGUN = select(MigrationRow.applied_at).where(MigrationRow.name == "041_reconciliation")
_CHANGE = update(ReconciliationRun).where(ReconciliationRun.id == text(":run"))
_GENERATION = (
    select(ConfigRow.value).where(ConfigRow.key == "reconciliation_generation").with_for_update()
)
_OLD = (
    select(ReconciliationRun.id)
    .where(ReconciliationRun.done_at < bindparam("before", type_=UtcTime()))
    .order_by(ReconciliationRun.done_at)
    .limit(_SWEPT_AT_ONCE)
)
_FORGET = delete(ReconciliationRun).where(
    member_of(ReconciliationRun.id, "ids"), ReconciliationRun.state == "done"
)
