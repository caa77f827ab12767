"""Why a balance is what it is: from a charge back to lots, payments and grants, or to a moment."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select

from shared.clock import to_wire
from shared.database import Tx
from shared.errors import NotFound
from shared.ledger.queries import require_account, show_reservation
from shared.models.campaigns import Grant
from shared.models.ledger import Debt, Entry, Lot, Reservation, ReservationLot
from shared.models.payments import CryptoPayment

_SHADOW = ("shadow_charge", "shadow_reserve", "shadow_finalize")


def balance_as_of(tx: Tx, account_id: str, moment: datetime) -> dict[str, Any]:
    """Return what the account had available at *moment*, all pools and debts, from its entries.

    Raises NotFound (``account_not_found``).
    """
    require_account(tx, account_id)
    total = tx.scalar(
        select(func.coalesce(func.sum(Entry.amount_micro), 0)).where(
            Entry.account_id == account_id,
            Entry.created_at <= moment,
            Entry.entry_type.not_in(_SHADOW),
        )
    )
    return {
        "accountId": account_id,
        "asOf": to_wire(moment),
        "availableMicro": str(int(total)),
    }


def explain(tx: Tx, subject_id: str) -> dict[str, Any]:
    """Explain a reservation or a ledger entry by its id.

    A reservation: its lots in the order of consumption, where each lot came from, the split, the
    debt, and its entries. An entry: itself, and what it belongs to. Raises NotFound.
    """
    if tx.scalar(select(Reservation.id).where(Reservation.id == subject_id)) is not None:
        return _explain_reservation(tx, subject_id)
    entry = tx.first(select(*Entry.__table__.c).where(Entry.id == subject_id))
    if entry is None:
        raise NotFound("No reservation and no entry has this id.", code="not_found")
    explained: dict[str, Any] = {"entry": _entry(entry)}
    if entry.reservation_id is not None:
        explained["reservation"] = _explain_reservation(tx, entry.reservation_id)
    if entry.lot_id is not None:
        explained["lot"] = _lot(tx, entry.lot_id)
    return explained


def _explain_reservation(tx: Tx, reservation_id: str) -> dict[str, Any]:
    shown = show_reservation(tx, reservation_id)
    row = tx.first(select(*Reservation.__table__.c).where(Reservation.id == reservation_id))
    assert row is not None
    used = tx.all(
        select(ReservationLot.lot_id, ReservationLot.reserved_micro, ReservationLot.consumed_micro)
        .join(Lot, Lot.id == ReservationLot.lot_id)
        .where(ReservationLot.reservation_id == reservation_id)
        .order_by(
            (Lot.pool_id == row.pool_id).desc(),
            Lot.expires_at.nulls_last(),
            Lot.created_at,
            Lot.id,
        )
    )
    debts = tx.all(select(*Debt.__table__.c).where(Debt.source_reservation_id == reservation_id))
    entries = tx.all(
        select(*Entry.__table__.c).where(Entry.reservation_id == reservation_id).order_by(Entry.id)
    )
    return {
        **{name: value for name, value in shown.items() if name != "allocations"},
        "overdraftMicro": str(row.overdraft_micro),
        "unchargedMicro": str(row.uncharged_micro),
        "late": row.is_late,
        "lots": [
            {
                **_lot(tx, part.lot_id),
                "heldMicro": str(part.reserved_micro),
                "consumedHereMicro": str(part.consumed_micro),
            }
            for part in used
        ],
        "debts": [
            {
                "debtId": debt.id,
                "originalMicro": str(debt.original_micro),
                "openMicro": "0" if debt.resolved_at else str(debt.debt_micro),
            }
            for debt in debts
        ],
        "split": {
            "commonsMicro": str(row.commons_micro),
            "communityMicro": str(row.community_micro),
            "foundationMicro": str(row.foundation_micro),
        },
        "entries": [_entry(entry) for entry in entries],
    }


def _lot(tx: Tx, lot_id: str) -> dict[str, Any]:
    lot = tx.first(select(*Lot.__table__.c).where(Lot.id == lot_id))
    assert lot is not None
    return {
        "lotId": lot.id,
        "poolId": lot.pool_id,
        "sourceType": lot.source_type,
        "sourceId": lot.source_id,
        "originalMicro": str(lot.original_micro),
        "createdAt": to_wire(lot.created_at),
        "expiresAt": to_wire(lot.expires_at) if lot.expires_at else None,
        "from": _origin(tx, lot_id),
    }


def _origin(tx: Tx, lot_id: str) -> dict[str, Any] | None:
    payment = tx.first(
        select(
            CryptoPayment.id,
            CryptoPayment.provider,
            CryptoPayment.provider_payment_id,
            CryptoPayment.status,
        ).where(CryptoPayment.lot_id == lot_id)
    )
    if payment is not None:
        return {
            "paymentId": payment.id,
            "provider": payment.provider,
            "providerPaymentId": payment.provider_payment_id,
            "status": payment.status,
        }
    grant = tx.first(select(Grant.id, Grant.campaign_id).where(Grant.lot_id == lot_id))
    if grant is not None:
        return {"grantId": grant.id, "campaignId": grant.campaign_id}
    return None


def _entry(row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "accountId": row.account_id,
        "entryType": row.entry_type,
        "amountMicro": str(row.amount_micro),
        "entrySeq": row.entry_seq,
        "description": row.description,
        "createdAt": to_wire(row.created_at),
    }
