"""Booking an operator's repair: one entry a lot, so that the books sum again (ADR 0016).

The entry is an ``adjust``; in the lot what was taken counts as clawed back. Of a hold that loses
its cover the missing part becomes overdraft: it is settled from other lots, and else as debt.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import bindparam, select, text, update

from shared.database import Database, DatabaseBusy, Tx, insert_rows, patiently, upsert_rows
from shared.ids import new_id
from shared.ledger import queries
from shared.models.ledger import (
    GENERAL_POOL,
    Account,
    AccountSeq,
    Balance,
    Entry,
    Lot,
    Reservation,
    ReservationLot,
)
from shared.operations.audit import Actor, record
from shared.reconciliation.desk import Desk
from shared.reconciliation.findings import Finding, Report
from shared.reconciliation.repairs import LotRepair, find_repairs, suspects

SYSTEM = Actor("system", "reconciliation")
DESCRIPTION = "Operator repair: the lot was changed by hand."


@dataclass
class _Pool:
    """A pool's balance as it is being changed."""

    available_micro: int = 0
    reserved_micro: int = 0
    debt_micro: int = 0
    version: int = 0
    next_seq: int = 1


def check_repairs(desk: Desk, report: Report, _place: None) -> None:
    """Find what operators took from lots by hand, and book it. Anything else is left alone."""
    with desk.database.reading() as tx:
        accounts = suspects(tx)
    for account_id in accounts:
        try:
            repairs = patiently(partial(_book, desk.database, account_id, desk.run_id))
        except DatabaseBusy:
            report.counts["accountsBusy"] += 1
            continue
        for repair in repairs:
            report.add(_describe(account_id, repair))


def _book(database: Database, account_id: str, run_id: str) -> list[LotRepair]:
    with database.transaction() as tx:
        tx.all(_LOCK, id=account_id)
        tx.restart_clock()
        repairs = find_repairs(tx, account_id)
        if repairs:
            _write(tx, account_id, repairs, run_id)
        return repairs


def _write(tx: Tx, account_id: str, repairs: Sequence[LotRepair], run_id: str) -> None:
    pools = {row.pool_id: _Pool(*row[1:]) for row in tx.all(_POOLS, id=account_id)}
    changed = {repair.pool_id: pools.setdefault(repair.pool_id, _Pool()) for repair in repairs}
    entries = []
    for repair in repairs:
        _shorten_holds(tx, repair)
        tx.run(_LOT, lot=repair.lot_id, taken=repair.taken_micro)
        pool = changed[repair.pool_id]
        seen = {repair.pool_id, GENERAL_POOL} & pools.keys()
        before = sum(pools[name].available_micro for name in seen)
        pool.available_micro += repair.available_micro
        pool.reserved_micro += repair.reserved_micro
        entries.append(_entry(tx, account_id, repair, run_id, seq=pool.next_seq, before=before))
        pool.next_seq += 1
        _audit(tx, account_id, repair, run_id)
    insert_rows(tx, Entry.__table__, entries)
    _save(tx, account_id, changed)
    shown = pools if GENERAL_POOL in changed else changed
    tx.balances += [queries.current_balance(tx, account_id, name) for name in shown]


def _entry(
    tx: Tx, account_id: str, repair: LotRepair, run_id: str, *, seq: int, before: int
) -> dict[str, Any]:
    details = {
        "operatorRepair": {
            "takenMicro": str(repair.taken_micro),
            "heldMicro": str(-repair.reserved_micro),
            "runId": run_id,
        }
    }
    return {
        "id": new_id(tx.now),
        "account_id": account_id,
        "pool_id": repair.pool_id,
        "lot_id": repair.lot_id,
        "entry_seq": seq,
        "entry_type": "adjust",
        "amount_micro": repair.available_micro,
        "description": DESCRIPTION,
        "metadata": json.dumps(details),
        "pre_balance_micro": before,
        "post_balance_micro": before + repair.available_micro,
        "created_at": tx.now,
    }


def _shorten_holds(tx: Tx, repair: LotRepair) -> None:
    """Turn what pending holds no longer have in the lot into overdraft, the newest hold first."""
    missing = -repair.reserved_micro
    for row in tx.all(_HOLDS, lot=repair.lot_id) if missing else ():
        part = min(missing, row.reserved_micro)
        tx.run(_SHORTEN_ALLOCATION, hold=row.id, lot=repair.lot_id, part=part)
        tx.run(_SHORTEN_HOLD, hold=row.id, part=part)
        missing -= part
    if missing:  # its hold is being settled by somebody who waits for this account
        raise DatabaseBusy("A hold on the lot is being settled; the next run books the repair.")


def _save(tx: Tx, account_id: str, changed: dict[str, _Pool]) -> None:
    key = ("account_id", "pool_id")
    balances = [
        {
            "account_id": account_id,
            "pool_id": name,
            "available_micro": pool.available_micro,
            "reserved_micro": pool.reserved_micro,
            "debt_micro": pool.debt_micro,
            "version": pool.version + 1,
            "updated_at": tx.now,
        }
        for name, pool in changed.items()
    ]
    sequences = [
        {"account_id": account_id, "pool_id": name, "next_seq": pool.next_seq}
        for name, pool in changed.items()
    ]
    upsert_rows(tx, Balance.__table__, balances, key=key)
    upsert_rows(tx, AccountSeq.__table__, sequences, key=key)


def _audit(tx: Tx, account_id: str, repair: LotRepair, run_id: str) -> None:
    details = {
        "lotId": repair.lot_id,
        "poolId": repair.pool_id,
        "takenMicro": str(repair.taken_micro),
        "heldMicro": str(-repair.reserved_micro),
        "runId": run_id,
    }
    record(
        tx,
        SYSTEM,
        "operator_repair_booked",
        target_type="account",
        target_id=account_id,
        details=details,
    )


def _describe(account_id: str, repair: LotRepair) -> Finding:
    held = f", {-repair.reserved_micro} of it held" if repair.reserved_micro else ""
    return Finding(
        "operator_repair",
        "info",
        repair.lot_id,
        f"{repair.taken_micro} micro-USD{held} were taken from a lot of {account_id} by hand.",
        "It was booked as an adjustment: nothing has to be done. If nobody of yours did it: "
        f"arrakis account statement {account_id}",
        {
            "accountId": account_id,
            "poolId": repair.pool_id,
            "takenMicro": str(repair.taken_micro),
            "heldMicro": str(-repair.reserved_micro),
        },
    )


_LOCK = select(Account.id).where(Account.id == bindparam("id")).with_for_update(key_share=True)
_POOLS = text(
    "SELECT b.pool_id, b.available_micro, b.reserved_micro, b.debt_micro, b.version,"
    " COALESCE(s.next_seq, 1) FROM credit_balances b LEFT JOIN credit_account_seq s"
    " ON s.account_id = b.account_id AND s.pool_id = b.pool_id WHERE b.account_id = :id"
)
_HOLDS = (
    select(Reservation.id, ReservationLot.reserved_micro)
    .join(ReservationLot, ReservationLot.reservation_id == Reservation.id)
    .where(
        ReservationLot.lot_id == bindparam("lot"),
        Reservation.status == "pending",
        ReservationLot.reserved_micro > 0,
    )
    .order_by(Reservation.created_at.desc(), Reservation.id.desc())
    .with_for_update(key_share=True, skip_locked=True, of=Reservation)
)
_SHORTEN_ALLOCATION = (
    update(ReservationLot)
    .where(
        ReservationLot.reservation_id == bindparam("hold"),
        ReservationLot.lot_id == bindparam("lot"),
    )
    .values(reserved_micro=ReservationLot.reserved_micro - bindparam("part"))
)
_SHORTEN_HOLD = (
    update(Reservation)
    .where(Reservation.id == bindparam("hold"))
    .values(overdraft_micro=Reservation.overdraft_micro + bindparam("part"))
)
_LOT = (
    update(Lot)
    .where(Lot.id == bindparam("lot"))
    .values(
        clawed_back_micro=Lot.clawed_back_micro + bindparam("taken"),
        is_open=Lot.available_micro + Lot.reserved_micro > 0,
    )
)
