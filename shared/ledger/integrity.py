"""The invariants of the ledger, each one statement that finds what breaks it (contract 8).

Every statement returns rows (where, expected, found); no rows means that the invariant holds.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from shared.database import Tx

_SAMPLE = 20
_SYSTEM = "('sys-foundation', 'sys-commons', 'sys-community-pool')"

INVARIANTS: dict[str, str] = {
    "lot_parts": """
        SELECT id AS place, original_micro AS expected,
               available_micro + reserved_micro + consumed_micro AS found
        FROM credit_lots
        WHERE available_micro + reserved_micro + consumed_micro <> original_micro
           OR available_micro < 0 OR reserved_micro < 0 OR consumed_micro < 0
           OR expired_micro + clawed_back_micro > consumed_micro""",
    "lots_minus_debts_equal_balances": """
        SELECT b.account_id AS place, COALESCE(l.available, 0) - COALESCE(d.owed, 0) AS expected,
               b.available AS found
        FROM (SELECT account_id, SUM(available_micro) AS available
              FROM credit_balances GROUP BY account_id) b
        LEFT JOIN (SELECT account_id, SUM(available_micro) AS available
                   FROM credit_lots GROUP BY account_id) l ON l.account_id = b.account_id
        LEFT JOIN (SELECT account_id, SUM(debt_micro) AS owed FROM credit_debts
                   WHERE resolved_at IS NULL GROUP BY account_id) d ON d.account_id = b.account_id
        WHERE COALESCE(l.available, 0) - COALESCE(d.owed, 0) <> b.available""",
    "entries_sum_to_balances": f"""
        SELECT b.account_id AS place, COALESCE(e.total, 0) AS expected, b.available AS found
        FROM (SELECT account_id, SUM(available_micro) AS available
              FROM credit_balances GROUP BY account_id) b
        LEFT JOIN (SELECT account_id, SUM(amount_micro) AS total FROM credit_ledger
                   WHERE entry_type NOT IN ('shadow_charge', 'shadow_reserve', 'shadow_finalize')
                   GROUP BY account_id) e ON e.account_id = b.account_id
        WHERE b.account_id NOT IN {_SYSTEM} AND COALESCE(e.total, 0) <> b.available""",  # noqa: S608
    "sequences_without_gaps": f"""
        SELECT s.account_id || ' ' || s.pool_id AS place, s.next_seq - 1 AS expected,
               COALESCE(e.entries, 0) AS found
        FROM credit_account_seq s
        LEFT JOIN (SELECT account_id, pool_id, COUNT(entry_seq) AS entries,
                          MAX(entry_seq) AS last FROM credit_ledger
                   WHERE entry_seq IS NOT NULL GROUP BY account_id, pool_id) e
               ON e.account_id = s.account_id AND e.pool_id = s.pool_id
        WHERE s.account_id NOT IN {_SYSTEM}
          AND (COALESCE(e.entries, 0) <> s.next_seq - 1 OR COALESCE(e.last, 0) <> s.next_seq - 1)""",  # noqa: E501, S608
    "holds_equal_reserved": """
        SELECT l.id AS place, COALESCE(h.held, 0) AS expected, l.reserved_micro AS found
        FROM credit_lots l
        LEFT JOIN (SELECT rl.lot_id, SUM(rl.reserved_micro) AS held
                   FROM reservation_lots rl JOIN credit_reservations r ON r.id = rl.reservation_id
                   WHERE r.status = 'pending' GROUP BY rl.lot_id) h ON h.lot_id = l.id
        WHERE COALESCE(h.held, 0) <> l.reserved_micro""",
    "holds_covered": """
        SELECT r.id AS place, r.total_reserved_micro - r.overdraft_micro AS expected,
               COALESCE(SUM(rl.reserved_micro), 0) AS found
        FROM credit_reservations r
        LEFT JOIN reservation_lots rl ON rl.reservation_id = r.id
        WHERE r.status = 'pending' AND r.billing_mode <> 'shadow'
        GROUP BY r.id, r.total_reserved_micro, r.overdraft_micro
        HAVING COALESCE(SUM(rl.reserved_micro), 0) <> r.total_reserved_micro - r.overdraft_micro""",
    "charges_consumed": """
        SELECT r.id AS place, r.finalized_micro - r.debt_micro AS expected,
               COALESCE(SUM(rl.consumed_micro), 0) AS found
        FROM credit_reservations r
        LEFT JOIN reservation_lots rl ON rl.reservation_id = r.id
        WHERE r.status = 'finalized' AND r.billing_mode <> 'shadow'
        GROUP BY r.id, r.finalized_micro, r.debt_micro
        HAVING COALESCE(SUM(rl.consumed_micro), 0) <> r.finalized_micro - r.debt_micro""",
    "splits_conserve": """
        SELECT r.id AS place, r.finalized_micro AS expected,
               COALESCE(SUM(e.amount_micro), 0) AS found
        FROM credit_reservations r
        LEFT JOIN credit_ledger e ON e.reservation_id = r.id
             AND e.entry_type IN ('commons_contribution', 'revenue_share')
        WHERE r.status = 'finalized' AND r.billing_mode <> 'shadow'
        GROUP BY r.id, r.finalized_micro
        HAVING COALESCE(SUM(e.amount_micro), 0) <> r.finalized_micro""",
    "revenue_rolled_up": f"""
        SELECT a.id AS place, COALESCE(e.total, 0) AS expected,
               COALESCE(b.available_micro, 0) + COALESCE(u.waiting, 0) AS found
        FROM credit_accounts a
        LEFT JOIN (SELECT account_id, SUM(amount_micro) AS total FROM credit_ledger
                   WHERE entry_type NOT IN ('shadow_charge', 'shadow_reserve', 'shadow_finalize')
                   GROUP BY account_id) e ON e.account_id = a.id
        LEFT JOIN (SELECT account_id, SUM(available_micro) AS available_micro
                   FROM credit_balances GROUP BY account_id) b ON b.account_id = a.id
        LEFT JOIN (SELECT e.account_id, SUM(e.amount_micro) AS waiting FROM credit_ledger e
                   JOIN credit_reservations r ON r.id = e.reservation_id
                   WHERE NOT r.is_revenue_posted
                     AND e.entry_type IN ('commons_contribution', 'revenue_share')
                   GROUP BY e.account_id) u ON u.account_id = a.id
        WHERE a.id IN {_SYSTEM}
          AND COALESCE(e.total, 0)
              <> COALESCE(b.available_micro, 0) + COALESCE(u.waiting, 0)""",  # noqa: S608
    "payments_credited_once": """
        SELECT p.id AS place, p.amount_usd_micro AS expected, l.original_micro AS found
        FROM crypto_payments p JOIN credit_lots l ON l.id = p.lot_id
        WHERE p.amount_usd_micro IS NOT NULL AND p.amount_usd_micro <> l.original_micro""",
}


@dataclass(frozen=True)
class Breach:
    """One place where an invariant does not hold."""

    invariant: str
    place: str
    expected: int
    found: int


def verify(tx: Tx) -> list[Breach]:
    """Check every invariant in one snapshot; return the first breaches of each."""
    return [
        Breach(name, row.place, int(row.expected), int(row.found))
        for name, statement in INVARIANTS.items()
        for row in tx.all(text(f"{statement} LIMIT {_SAMPLE}"))
    ]


def totals(tx: Tx) -> dict[str, Any]:
    """Return the trial balance: what came in, what is there, and what it became."""
    row = tx.first(
        text(
            "SELECT COALESCE(SUM(original_micro), 0) AS minted,"
            " COALESCE(SUM(available_micro), 0) AS available,"
            " COALESCE(SUM(reserved_micro), 0) AS held,"
            " COALESCE(SUM(consumed_micro), 0) AS consumed FROM credit_lots"
            " WHERE source_type <> 'commons_dividend'"
        )
    )
    assert row is not None
    return {name: int(value) for name, value in row._mapping.items()}  # noqa: SLF001
