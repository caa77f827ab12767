"""How one would write it at first: SQLAlchemy Core, a statement a step, on our own tables."""

import json
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from shared.clock import system_clock
from shared.ids import new_id
from shared.models.ledger import (
    Account,
    AccountSeq,
    Balance,
    Entry,
    Lot,
    Operation,
    Reservation,
    ReservationLot,
)

_SPLIT_BPS = (("sys-commons", 500), ("sys-community-pool", 7000))


def pair(engine: Engine, account_id: str, held: int, cost: int) -> None:
    """Hold *held* micro-USD and settle *cost*: two commits."""
    with engine.begin() as connection:
        reservation_id = _reserve(connection, account_id, held)
    with engine.begin() as connection:
        _finalize(connection, account_id, reservation_id, cost)


def _reserve(db: Connection, account_id: str, held: int) -> str:
    now = system_clock()
    key, reservation_id = new_id(now), new_id(now)
    db.execute(select(Account.id).where(Account.id == account_id)).one()
    db.execute(select(Operation.answer).where(Operation.idempotency_key == key)).first()
    lots = db.execute(
        select(Lot.id, Lot.available_micro)
        .where(Lot.account_id == account_id, Lot.pool_id == "general", Lot.is_open)
        .order_by(Lot.expires_at, Lot.created_at, Lot.id)
    )
    db.execute(
        insert(Reservation).values(
            id=reservation_id,
            account_id=account_id,
            total_reserved_micro=held,
            expires_at=now + timedelta(seconds=300),
            created_at=now,
            idempotency_key=key,
        )
    )
    missing = held
    for lot in lots.all():
        part = min(missing, lot.available_micro)
        db.execute(
            update(Lot)
            .where(Lot.id == lot.id)
            .values(
                available_micro=Lot.available_micro - part, reserved_micro=Lot.reserved_micro + part
            )
        )
        db.execute(
            insert(ReservationLot).values(
                reservation_id=reservation_id, lot_id=lot.id, reserved_micro=part, created_at=now
            )
        )
        missing -= part
        if missing == 0:
            break
    _enter(
        db,
        now,
        account_id=account_id,
        reservation_id=reservation_id,
        kind="reserve",
        amount=-held,
        reserved=held,
    )
    db.execute(
        insert(Operation).values(
            idempotency_key=key,
            account_id=account_id,
            operation="reserve",
            fingerprint=str(held),
            answer=json.dumps({"reservationId": reservation_id}),
            created_at=now,
        )
    )
    return reservation_id


def _finalize(db: Connection, account_id: str, reservation_id: str, cost: int) -> None:
    now = system_clock()
    hold = db.execute(select(Reservation).where(Reservation.id == reservation_id)).one()
    parts = db.execute(
        select(ReservationLot.lot_id, ReservationLot.reserved_micro).where(
            ReservationLot.reservation_id == reservation_id
        )
    )
    due = cost
    for part in parts.all():
        spent = min(due, part.reserved_micro)
        db.execute(
            update(Lot)
            .where(Lot.id == part.lot_id)
            .values(
                reserved_micro=Lot.reserved_micro - part.reserved_micro,
                consumed_micro=Lot.consumed_micro + spent,
                available_micro=Lot.available_micro + part.reserved_micro - spent,
            )
        )
        db.execute(
            update(ReservationLot)
            .where(
                ReservationLot.reservation_id == reservation_id,
                ReservationLot.lot_id == part.lot_id,
            )
            .values(reserved_micro=0, consumed_micro=spent)
        )
        due -= spent
    shares = {who: cost * bps // 10_000 for who, bps in _SPLIT_BPS}
    shares["sys-foundation"] = cost - sum(shares.values())
    held = hold.total_reserved_micro
    db.execute(
        update(Reservation)
        .where(Reservation.id == reservation_id)
        .values(
            status="finalized",
            finalized_at=now,
            requested_cost_micro=cost,
            finalized_micro=cost,
            released_micro=held - cost,
            commons_micro=shares["sys-commons"],
            community_micro=shares["sys-community-pool"],
            foundation_micro=shares["sys-foundation"],
            is_revenue_posted=False,
        )
    )
    for kind, amount, reserved in (("release", held, -held), ("finalize", -cost, 0)):
        _enter(
            db,
            now,
            account_id=account_id,
            reservation_id=reservation_id,
            kind=kind,
            amount=amount,
            reserved=reserved,
        )
    for who, share in shares.items():
        db.execute(
            insert(Entry).values(
                id=new_id(now),
                account_id=who,
                reservation_id=reservation_id,
                entry_type="commons_contribution" if who == "sys-commons" else "revenue_share",
                amount_micro=share,
                created_at=now,
            )
        )


def _enter(
    db: Connection,
    now: Any,
    *,
    account_id: str,
    reservation_id: str,
    kind: str,
    amount: int,
    reserved: int,
) -> None:
    balance = db.execute(
        select(Balance.available_micro).where(
            Balance.account_id == account_id, Balance.pool_id == "general"
        )
    ).one()
    seq = db.execute(
        select(AccountSeq.next_seq).where(
            AccountSeq.account_id == account_id, AccountSeq.pool_id == "general"
        )
    ).one()
    db.execute(
        insert(Entry).values(
            id=new_id(now),
            account_id=account_id,
            reservation_id=reservation_id,
            entry_seq=seq.next_seq,
            entry_type=kind,
            amount_micro=amount,
            pre_balance_micro=balance.available_micro,
            post_balance_micro=balance.available_micro + amount,
            created_at=now,
        )
    )
    db.execute(
        update(Balance)
        .where(Balance.account_id == account_id, Balance.pool_id == "general")
        .values(
            available_micro=Balance.available_micro + amount,
            reserved_micro=Balance.reserved_micro + reserved,
            version=Balance.version + 1,
            updated_at=now,
        )
    )
    db.execute(
        update(AccountSeq)
        .where(AccountSeq.account_id == account_id, AccountSeq.pool_id == "general")
        .values(next_seq=AccountSeq.next_seq + 1)
    )
