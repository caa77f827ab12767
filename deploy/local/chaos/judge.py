"""What was acknowledged against what the ledger has, in both directions.

Nothing promised may be missing or there twice, and nothing may be there that nobody asked for.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from deploy.local.chaos.journal import REFUNDED_AT_ONCE, Book
from shared.database import Tx


@dataclass
class Line:
    """One kind of promise: how many were made and found, and which are wrong."""

    kind: str
    acknowledged: int = 0
    found: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    def compare(self, name: str, wanted: int, found: int, words: str = "") -> None:
        """Compare an amount; too little is lost, too much was not asked for or came twice."""
        text_ = f"{name}: {wanted} was acknowledged, {found} is in the ledger {words}".strip()
        if found < wanted:
            self.lost.append(text_)
        elif found > wanted:
            self.doubled.append(text_)

    def compare_sets(self, wanted: set[Any], found: set[Any]) -> None:
        """Compare what was acknowledged with what is there, by name."""
        self.acknowledged, self.found = len(wanted), len(found & wanted)
        self.lost += [f"{name}: not in the ledger" for name in wanted - found]
        self.doubled += [f"{name}: nobody was told of it" for name in found - wanted]


def compare(tx: Tx, book: Book, settlements: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return the comparison of *book*, and of what the chain settled, with the ledger as it is."""
    return [
        *_holds(tx, book),
        _grants(tx, book),
        _notices(tx, book),
        *_deposits(tx, book),
        _top_ups(tx, book, settlements),
    ]


def waiting(tx: Tx) -> dict[str, int]:
    """Return how much is still to be worked off, by kind; what is zero is left out."""
    counts = {name: int(tx.scalar(text(statement))) for name, statement in _WAITING.items()}
    return {name: count for name, count in counts.items() if count}


def _holds(tx: Tx, book: Book) -> list[Line]:
    reserves, settled, ended = Line("reserves"), Line("finalizes"), Line("releases")
    rows = {row.id: row for row in tx.all(_RESERVATIONS)}
    entries: dict[tuple[str, str], Any] = {
        (row.reservation_id, row.entry_type): row for row in tx.all(_ENTRIES)
    }
    reserves.compare_sets(set(book.holds), set(rows))
    by_key: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows.values():
        by_key[row.account_id, row.idempotency_key] += 1
    for key, count in by_key.items():
        reserves.compare(f"key {key}", 1, count)
    wanted = {id_ for id_, hold in book.holds.items() if hold.end == "finalized"}
    settled.compare_sets(wanted, {row.id for row in rows.values() if row.status == "finalized"})
    wanted = {id_ for id_, hold in book.holds.items() if hold.end == "released"}
    ended.compare_sets(wanted, {row.id for row in rows.values() if row.status == "released"})
    for id_, hold in book.holds.items():
        if id_ not in rows:
            continue
        taken = entries.get((id_, "reserve"))
        reserves.compare(f"{id_} held", hold.reserved_micro, -int(taken.amount) if taken else 0)
        if hold.end == "finalized":
            charge = entries.get((id_, "finalize"))
            found = -int(charge.amount) if charge else 0
            settled.compare(f"{id_} charged", hold.charged_micro, found)
            settled.compare(f"{id_} entries", 1, charge.entries if charge else 0)
    return [reserves, settled, ended]


def _grants(tx: Tx, book: Book) -> Line:
    line = Line("mints")
    lots = {row.id: int(row.original_micro) for row in tx.all(_GRANTS)}
    line.compare_sets(set(book.grants), set(lots))
    for lot_id, amount in book.grants.items():
        line.compare(lot_id, amount, lots.get(lot_id, amount))
    return line


def _notices(tx: Tx, book: Book) -> Line:
    line = Line("notices")
    stored = {(row.number, row.status) for row in tx.all(_NOTICES)}
    # One that was stored and not acknowledged is nobody's loss: it was sent again.
    line.compare_sets(set(book.notices), stored & book.notices)
    return line


def _deposits(tx: Tx, book: Book) -> list[Line]:
    paid, refunds = Line("payments"), Line("refunds")
    paid.acknowledged = len(book.deposits)
    rows = {row.number: row for row in tx.all(_DEPOSITS)}
    for number, promise in book.deposits.items():
        row = rows.pop(number, None)
        found = int(row.credited) if row else 0
        wanted = promise.credit_micro
        if wanted is None:  # the provider's rate decides how much, so count the lots
            wanted, found = 1, int(row.lots) if row else 0
        if promise.story == REFUNDED_AT_ONCE and found == 0:
            wanted = 0
        paid.found += found == wanted
        paid.compare(f"{number} ({promise.story})", wanted, found)
        is_refunded = row is not None and row.status == "refunded"
        if promise.refunded_by:
            refunds.acknowledged += 1
            taken = int(row.taken) if row is not None and is_refunded else 0
            refunds.found += taken == found
            refunds.compare(f"{number} ({promise.refunded_by})", found, taken)
        elif is_refunded:
            refunds.doubled.append(f"{number}: nobody was told of its refund")
    for number, row in rows.items():
        if row.credited:
            paid.doubled.append(f"{number}: {row.credited} that nobody was told of")
    stray = int(tx.scalar(_STRAY_LOTS))
    paid.compare("lots without a payment", 0, stray)
    return [paid, refunds]


def _top_ups(tx: Tx, book: Book, settlements: Iterable[Mapping[str, Any]]) -> Line:
    """Compare by the chain: what moved there is credited, and nothing else; told or not."""
    line = Line("x402 top-ups")
    credited = {row.account_id: int(row.credited) for row in tx.all(_TOP_UPS)}
    paid = {one["nonce"].lower() for one in settlements if one["status"] == "mined"}
    for account, promise in book.top_ups.items():
        has_moved = promise.nonce.lower() in paid
        line.acknowledged += has_moved
        wanted, found = promise.amount_micro * has_moved, credited.pop(account, 0)
        line.found += has_moved and found == wanted
        line.compare(account, wanted, found, f"(answered {promise.answered})")
        if promise.answered == "201" and not has_moved:
            line.doubled.append(f"{account}: answered 201, and nothing moved on the chain")
    line.doubled += [f"{account}: nobody paid for it" for account in credited]
    return line


_RESERVATIONS = text(
    "SELECT id, account_id, idempotency_key, status FROM credit_reservations"
    " WHERE billing_mode = 'live'"
)
_ENTRIES = text(
    "SELECT reservation_id, entry_type, COUNT(*) AS entries, SUM(amount_micro) AS amount"
    " FROM credit_ledger WHERE entry_type IN ('reserve', 'finalize')"
    " GROUP BY reservation_id, entry_type"
)
_GRANTS = text("SELECT id, original_micro FROM credit_lots WHERE source_type = 'grant'")
_NOTICES = text(
    "SELECT provider_payment_id AS number, status FROM webhook_events WHERE source = 'notice'"
)
# Taken back: from the lots, or (what was spent) as a debt that names the lot.
_DEPOSITS = text(
    "SELECT p.provider_payment_id AS number, p.status, COUNT(l.id) AS lots,"
    " COALESCE(SUM(l.original_micro), 0) AS credited,"
    " COALESCE(SUM(l.clawed_back_micro), 0) + COALESCE(SUM(d.owed), 0) AS taken"
    " FROM crypto_payments p"
    " LEFT JOIN payment_credits c ON c.payment_id = p.id"
    " LEFT JOIN credit_lots l ON l.id = c.lot_id"
    " LEFT JOIN (SELECT source_lot_id, SUM(original_micro) AS owed FROM credit_debts"
    " GROUP BY source_lot_id) d ON d.source_lot_id = l.id"
    " WHERE p.provider = 'nowpayments' AND p.provider_payment_id IS NOT NULL"
    " GROUP BY p.provider_payment_id, p.status"
)
_STRAY_LOTS = text(
    "SELECT COUNT(*) FROM credit_lots l WHERE l.source_type = 'deposit'"
    " AND NOT EXISTS (SELECT 1 FROM payment_credits c WHERE c.lot_id = l.id)"
)
_TOP_UPS = text(
    "SELECT l.account_id, SUM(l.original_micro) AS credited FROM crypto_payments p"
    " JOIN payment_credits c ON c.payment_id = p.id JOIN credit_lots l ON l.id = c.lot_id"
    " WHERE p.provider = 'x402' GROUP BY l.account_id"
)
_WAITING = {
    "notices to work off": "SELECT COUNT(*) FROM webhook_events WHERE state = 'new'",
    "notices put aside": "SELECT COUNT(*) FROM webhook_events WHERE state = 'parked'",
    "holds still pending": "SELECT COUNT(*) FROM credit_reservations WHERE status = 'pending'",
    "charges not rolled up": (
        "SELECT COUNT(*) FROM credit_reservations WHERE NOT is_revenue_posted"
    ),
    "dead letters": "SELECT COUNT(*) FROM billing_dlq WHERE status <> 'completed'",
}
