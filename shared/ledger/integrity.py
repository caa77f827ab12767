"""The invariants of the ledger, each one statement that finds what breaks it (contract 8).

Every statement returns rows (where, expected, found); no rows means that the invariant holds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from shared.database import Tx

_SAMPLE = 20

INVARIANTS: dict[str, str] = {
    "lot_parts": """
        SELECT id AS place, original_micro AS expected,
               available_micro + reserved_micro + consumed_micro AS found
        FROM credit_lots
        WHERE available_micro + reserved_micro + consumed_micro <> original_micro
           OR available_micro < 0 OR reserved_micro < 0 OR consumed_micro < 0
           OR expired_micro + clawed_back_micro > consumed_micro""",
    "lots_minus_debts_equal_balances": """
        SELECT account_id || ' ' || pool_id AS place, SUM(own) AS expected, SUM(cached) AS found
        FROM (SELECT account_id, pool_id, available_micro AS own, 0 AS cached FROM credit_lots
              UNION ALL
              SELECT account_id, 'general', -debt_micro, 0 FROM credit_debts
              WHERE resolved_at IS NULL
              UNION ALL
              SELECT account_id, pool_id, 0, available_micro FROM credit_balances) AS parts
        GROUP BY account_id, pool_id HAVING SUM(own) <> SUM(cached)""",
    "lots_reserved_equal_balances": """
        SELECT account_id || ' ' || pool_id AS place, SUM(own) AS expected, SUM(cached) AS found
        FROM (SELECT account_id, pool_id, reserved_micro AS own, 0 AS cached FROM credit_lots
              UNION ALL
              SELECT account_id, pool_id, 0, reserved_micro FROM credit_balances) AS parts
        GROUP BY account_id, pool_id HAVING SUM(own) <> SUM(cached)""",
    "debts_equal_balances": """
        SELECT account_id AS place, SUM(own) AS expected, SUM(cached) AS found
        FROM (SELECT account_id, debt_micro AS own, 0 AS cached FROM credit_debts
              WHERE resolved_at IS NULL
              UNION ALL
              SELECT account_id, 0, debt_micro FROM credit_balances) AS parts
        GROUP BY account_id HAVING SUM(own) <> SUM(cached)""",
    # Revenue that is written but not yet rolled up belongs to no balance.
    "entries_sum_to_balances": """
        SELECT account_id AS place, SUM(entered) AS expected, SUM(cached) AS found
        FROM (SELECT account_id, amount_micro AS entered, 0 AS cached FROM credit_ledger
              WHERE entry_type NOT IN ('shadow_charge', 'shadow_reserve', 'shadow_finalize')
              UNION ALL
              SELECT account_id, 0, available_micro FROM credit_balances
              UNION ALL
              SELECT e.account_id, 0, e.amount_micro FROM credit_ledger e
              JOIN credit_reservations r ON r.id = e.reservation_id
              WHERE NOT r.is_revenue_posted
                AND e.entry_type IN ('commons_contribution', 'revenue_share')) AS parts
        GROUP BY account_id HAVING SUM(entered) <> SUM(cached)""",
    "entries_show_balances": """
        SELECT id AS place, amount_micro AS expected,
               post_balance_micro - pre_balance_micro AS found
        FROM credit_ledger
        WHERE post_balance_micro - pre_balance_micro <> amount_micro
          AND entry_type NOT IN ('shadow_charge', 'shadow_reserve', 'shadow_finalize')""",
    "sequences_without_gaps": """
        SELECT s.account_id || ' ' || s.pool_id AS place, s.next_seq - 1 AS expected,
               COALESCE(e.entries, 0) AS found
        FROM credit_account_seq s
        LEFT JOIN (SELECT account_id, pool_id, COUNT(entry_seq) AS entries,
                          MAX(entry_seq) AS last FROM credit_ledger
                   WHERE entry_seq IS NOT NULL GROUP BY account_id, pool_id) e
               ON e.account_id = s.account_id AND e.pool_id = s.pool_id
        WHERE COALESCE(e.entries, 0) <> s.next_seq - 1
           OR COALESCE(e.last, 0) <> s.next_seq - 1""",
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
    "payments_credited_once": """
        SELECT p.id AS place, p.amount_usd_micro AS expected,
          COALESCE(SUM(c.amount_micro), 0) AS found
        FROM crypto_payments p LEFT JOIN payment_credits c ON c.payment_id = p.id
        WHERE p.lot_id IS NOT NULL
        GROUP BY p.id, p.amount_usd_micro
        HAVING p.amount_usd_micro <> COALESCE(SUM(c.amount_micro), 0)
        UNION ALL
        SELECT c.payment_id, c.amount_micro, l.original_micro
        FROM payment_credits c JOIN credit_lots l ON l.id = c.lot_id
        WHERE c.amount_micro <> l.original_micro""",
    # A revoked grant gave back what its entry says.
    "campaigns_spent_equal_grants": """
        SELECT c.id AS place, COALESCE(s.micro, 0) AS expected, c.spent_micro AS found
        FROM credit_campaigns c
        LEFT JOIN (SELECT campaign_id, SUM(amount) AS micro
                   FROM (SELECT campaign_id, amount_micro AS amount FROM credit_grants
                         WHERE status IN ('granted', 'revoked')
                         UNION ALL
                         SELECT g.campaign_id, e.amount_micro FROM credit_grants g
                         JOIN credit_ledger e ON e.account_id = g.account_id
                              AND e.lot_id = g.lot_id AND e.entry_type = 'refund'
                         WHERE g.status = 'revoked') AS parts
                   GROUP BY campaign_id) s ON s.campaign_id = c.id
        WHERE COALESCE(s.micro, 0) <> c.spent_micro""",
}


@dataclass(frozen=True)
class Breach:
    """One place where an invariant does not hold."""

    invariant: str
    place: str
    expected: int
    found: int


def verify(
    tx: Tx, *, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> list[Breach]:
    """Check every invariant in one snapshot; return the first breaches of each.

    *progress* is told after each how many are checked, and of how many.
    """
    breaches = []
    for done, name in enumerate(INVARIANTS, start=1):
        breaches += check(tx, name)
        progress(done, len(INVARIANTS))
    return breaches


def check(tx: Tx, name: str, *, limit: int = _SAMPLE) -> list[Breach]:
    """Return the first *limit* breaches of the invariant *name*."""
    with _whole_tables(tx):
        rows = tx.all(text(f"{INVARIANTS[name]} LIMIT {limit}"))
    return [Breach(name, row.place, int(row.expected), int(row.found)) for row in rows]


@contextmanager
def _whole_tables(tx: Tx) -> Iterator[None]:
    """Have PostgreSQL join by hash or merge: each statement looks at all rows of its tables.

    Where they were never analysed it takes them for small, and a nested loop over 40,000 holds
    and their entries takes minutes.
    """
    if tx.connection.dialect.name != "postgresql":
        yield
        return
    tx.run(text("SET LOCAL enable_nestloop = off"))
    yield
    tx.run(text("SET LOCAL enable_nestloop TO DEFAULT"))


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
