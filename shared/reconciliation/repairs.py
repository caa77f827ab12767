"""Lots that an operator emptied by SQL (runbook 4): recognised by evidence, never by a gap alone.

What a lot should hold follows from its holds, charges, expiries, clawbacks and the debts it paid.
A repair is a lot with less than that, and an account whose balances, entries and debts are
otherwise in order: exactly what was taken from its lots is missing. Anything else is no repair.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text

from shared.database import Tx
from shared.ledger import integrity

# Each names accounts or lots; what an operator does to a lot breaks at least one of them.
_SIGNS = (
    "lots_minus_debts_equal_balances",
    "lots_reserved_equal_balances",
    "holds_equal_reserved",
)
_AT_ONCE = 1_000


@dataclass(frozen=True)
class LotRepair:
    """What is missing from a lot's available and held credits: amounts of at most zero."""

    lot_id: str
    pool_id: str
    available_micro: int
    reserved_micro: int

    @property
    def taken_micro(self) -> int:
        """What left the lot for good."""
        return -(self.available_micro + self.reserved_micro)


def suspects(tx: Tx) -> list[str]:
    """Return the accounts whose lots and balances differ, a bounded number, by id."""
    accounts: set[str] = set()
    lots: list[str] = []
    for sign in _SIGNS:
        for breach in integrity.check(tx, sign, limit=_AT_ONCE):
            if sign == "holds_equal_reserved":
                lots.append(breach.place)
            else:
                accounts.add(breach.place.rpartition(" ")[0])  # the pool's name has no blank
    for lot_id in lots:
        accounts.add(str(tx.scalar(_OWNER, id=lot_id)))
    return sorted(accounts)


def find_repairs(tx: Tx, account_id: str) -> list[LotRepair]:
    """Return the repairs that explain all that is out of order on an account, or none at all.

    The account must be locked: a repair and a corruption are told apart by exact sums.
    """
    found = []
    for row in tx.all(_LOTS, id=account_id):
        reserved = row.reserved_micro - row.held_micro
        taken = row.consumed_micro - row.explained_micro
        found.append(LotRepair(row.id, row.pool_id, -taken - reserved, reserved))
    takes_only = all(
        one.taken_micro > 0 and one.available_micro <= 0 and one.reserved_micro <= 0
        for one in found
    )
    if takes_only and _explains(tx, account_id, found):
        return found
    return []


def _explains(tx: Tx, account_id: str, repairs: Sequence[LotRepair]) -> bool:
    """Tell whether *repairs* are all that keeps the account's books from being right."""
    missing: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for one in repairs:
        available, reserved = missing[one.pool_id]
        missing[one.pool_id] = (available + one.available_micro, reserved + one.reserved_micro)
    gaps = tx.all(_GAPS, id=account_id)
    are_debts_right = all(row.debt_micro == 0 for row in gaps)
    found = {row.pool_id: (int(row.available_micro), int(row.reserved_micro)) for row in gaps}
    is_exact = all(found.get(pool, (0, 0)) == missing[pool] for pool in found.keys() | missing)
    return are_debts_right and is_exact and int(tx.scalar(_ENTRIES_GAP, id=account_id)) == 0


_OWNER = text("SELECT account_id FROM credit_lots WHERE id = :id")
_LOTS = text("""
    SELECT id, pool_id, reserved_micro, held_micro, consumed_micro, explained_micro
    FROM (SELECT l.id, l.pool_id, l.reserved_micro, l.consumed_micro,
                 COALESCE(h.held_micro, 0) AS held_micro,
                 l.expired_micro + l.clawed_back_micro + COALESCE(h.used_micro, 0)
                   + COALESCE(p.paid_micro, 0) AS explained_micro
          FROM credit_lots l
          LEFT JOIN (SELECT rl.lot_id, SUM(rl.consumed_micro) AS used_micro,
                            SUM(CASE WHEN r.status = 'pending' THEN rl.reserved_micro ELSE 0 END)
                              AS held_micro
                     FROM credit_reservations r
                     JOIN reservation_lots rl ON rl.reservation_id = r.id
                     WHERE r.account_id = :id GROUP BY rl.lot_id) h ON h.lot_id = l.id
          LEFT JOIN (SELECT dp.lot_id, SUM(dp.paid_micro) AS paid_micro
                     FROM credit_debts d JOIN credit_debt_payments dp ON dp.debt_id = d.id
                     WHERE d.account_id = :id GROUP BY dp.lot_id) p ON p.lot_id = l.id
          WHERE l.account_id = :id) AS lots
    WHERE consumed_micro <> explained_micro OR reserved_micro <> held_micro ORDER BY id""")
_GAPS = text("""
    SELECT pool_id, SUM(available) AS available_micro, SUM(reserved) AS reserved_micro,
           SUM(owed) AS debt_micro
    FROM (SELECT pool_id, available_micro AS available, reserved_micro AS reserved, 0 AS owed
          FROM credit_lots WHERE account_id = :id
          UNION ALL
          SELECT 'general', -debt_micro, 0, debt_micro FROM credit_debts
          WHERE account_id = :id AND resolved_at IS NULL
          UNION ALL
          SELECT pool_id, -available_micro, -reserved_micro, -debt_micro FROM credit_balances
          WHERE account_id = :id) AS parts
    GROUP BY pool_id""")
_ENTRIES_GAP = text("""
    SELECT COALESCE(SUM(amount), 0)
    FROM (SELECT e.amount_micro AS amount FROM credit_ledger e
          LEFT JOIN credit_reservations r ON r.id = e.reservation_id
          WHERE e.account_id = :id
            AND e.entry_type NOT IN ('shadow_charge', 'shadow_reserve', 'shadow_finalize')
            AND (e.entry_type NOT IN ('commons_contribution', 'revenue_share')
                 OR r.is_revenue_posted)
          UNION ALL
          SELECT -available_micro FROM credit_balances WHERE account_id = :id) AS parts""")
