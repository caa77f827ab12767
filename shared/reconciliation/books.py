"""The daily checks of the database against itself (behaviour 10): sums, holds, deposits, grants.

The sums are those of ``arrakis ledger verify``: there is one implementation of each.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import bindparam, func, select

from shared.clock import add_seconds, to_wire
from shared.database import Tx
from shared.ledger import integrity
from shared.ledger.integrity import INVARIANTS, Breach
from shared.models.ledger import PENDING_HOLD, Reservation
from shared.models.payments import PAID_NOT_CREDITED, CryptoPayment
from shared.models.types import UtcTime
from shared.reconciliation.desk import Desk
from shared.reconciliation.findings import Finding, Report

_SHOWN = 100
_ORPHAN_SECONDS = 600
_BY_ITSELF = {
    "lot_balance_invariant": "lot_parts",
    "zero_sum_distribution": "splits_conserve",
    "campaign_spent_grants": "campaigns_spent_equal_grants",
}
_SUMS = tuple(name for name in INVARIANTS if name not in _BY_ITSELF.values())
_STATEMENT = "Look first: arrakis account statement {account}"
_CACHED_ROW = (
    _STATEMENT  # noqa: S608  a sentence for operators, which nothing executes
    + ". If its entries and its lots agree, only the balance's row was changed: "
    "UPDATE credit_balances SET {column} = {expected} "
    "WHERE account_id = '{account}' AND pool_id = '{pool}'"
)
_PROPOSALS = {
    "lot_parts": "Stop billing (arrakis mode set shadow), then restore the lot from a backup.",
    "lots_minus_debts_equal_balances": _CACHED_ROW.replace("{column}", "available_micro"),
    "lots_reserved_equal_balances": _CACHED_ROW.replace("{column}", "reserved_micro"),
    "entries_sum_to_balances": _STATEMENT,
    "debts_equal_balances": _STATEMENT,
    "splits_conserve": "Look at the charge: arrakis account explain {place}",
    "holds_covered": "Look at the hold: arrakis account explain {place}",
    "charges_consumed": "Look at the charge: arrakis account explain {place}",
    "payments_credited_once": "Look at the payment: arrakis payments show {place}",
    "campaigns_spent_equal_grants": "Stop it, then look: arrakis campaign pause {place}",
    "holds_equal_reserved": "Set the lot back as it was before it was changed by hand: "
    "SELECT * FROM reservation_lots WHERE lot_id = '{place}'",
}
_ELSE = "Restore the row from a backup; it was changed by hand."


def invariant(name: str) -> Callable[[Desk, Report, Any], Any]:
    """Return the check *name*, which is one of the ledger's invariants."""

    def look(desk: Desk, report: Report, _place: Any) -> None:
        with desk.database.reading() as tx:
            _note_breaches(tx, report, _BY_ITSELF[name])

    return look


def check_sums(desk: Desk, report: Report, number: int | None) -> int | None:
    """Check the ledger's other invariants, one a chunk."""
    number = number or 0
    with desk.database.reading() as tx:
        _note_breaches(tx, report, _SUMS[number])
    report.counts["invariants"] += 1
    return number + 1 if number + 1 < len(_SUMS) else None


def _note_breaches(tx: Tx, report: Report, name: str) -> None:
    for breach in integrity.check(tx, name, limit=_SHOWN):
        report.add(
            Finding(
                name,
                "error",
                breach.place,
                f"{name}: {breach.place}: expected {breach.expected}, found {breach.found}.",
                _proposal(breach),
                {"expected": str(breach.expected), "found": str(breach.found)},
            )
        )


def _proposal(breach: Breach) -> str:
    account, _, pool = breach.place.rpartition(" ")
    return _PROPOSALS.get(breach.invariant, _ELSE).format(
        place=breach.place,
        account=account or breach.place,
        pool=pool,
        expected=breach.expected,
    )


def check_orphans(desk: Desk, report: Report, _place: Any) -> None:
    """Find holds that should have been ended long ago."""
    with desk.database.reading() as tx:
        late = add_seconds(tx.now, -_ORPHAN_SECONDS)
        rows = tx.all(_ORPHANS, late=late)
        report.counts["holds"] = int(tx.scalar(_ORPHANS_COUNT, late=late))
    for row in rows:
        report.add(
            Finding(
                "orphan_reservation",
                "warn",
                row.id,
                f"The hold {row.id} ended at {to_wire(row.expires_at)} and still holds.",
                "The workers end it within seconds; look whether they work: arrakis status. If "
                f"they do, its lots were changed by hand: arrakis account explain {row.id}",
                {"accountId": row.account_id, "reservedMicro": str(row.total_reserved_micro)},
            )
        )


def check_deposits(desk: Desk, report: Report, _place: Any) -> None:
    """Find finished payments that were not credited, whatever their amount (W55)."""
    with desk.database.reading() as tx:
        rows = tx.all(_UNCREDITED)
        report.counts["payments"] = int(tx.scalar(_UNCREDITED_COUNT))
    for row in rows:
        report.add(
            Finding(
                "finished_without_lot",
                "warn",
                row.id,
                f"The payment {row.id} is finished and was credited nothing.",
                f"arrakis payments replay {row.id}",
                {
                    "accountId": row.account_id,
                    "amountUsdMicro": _text(row.amount_usd_micro),
                    "providerPaymentId": row.provider_payment_id,
                },
            )
        )


def _text(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


_IS_ORPHAN = (
    PENDING_HOLD,
    Reservation.expires_at < bindparam("late", type_=UtcTime()),
)
_ORPHANS = (
    select(
        Reservation.id,
        Reservation.account_id,
        Reservation.expires_at,
        Reservation.total_reserved_micro,
    )
    .where(*_IS_ORPHAN)
    .order_by(Reservation.expires_at, Reservation.id)
    .limit(_SHOWN)
)
_ORPHANS_COUNT = select(func.count()).select_from(Reservation).where(*_IS_ORPHAN)
_IS_UNCREDITED = (PAID_NOT_CREDITED, CryptoPayment.status == "finished")
_UNCREDITED = (
    select(
        CryptoPayment.id,
        CryptoPayment.account_id,
        CryptoPayment.amount_usd_micro,
        CryptoPayment.provider_payment_id,
    )
    .where(*_IS_UNCREDITED)
    .order_by(CryptoPayment.id)
    .limit(_SHOWN)
)
_UNCREDITED_COUNT = select(func.count()).select_from(CryptoPayment).where(*_IS_UNCREDITED)
