"""The ledger by months: our statements run unchanged on a partitioned twin (docs/scaling.md)."""

from sqlalchemy import text

from shared.ledger import sweeps
from tests.harness import Databases
from tests.ledger import Ledger

M = 1_000_000
_TWIN = (
    "ALTER TABLE credit_ledger RENAME TO credit_ledger_whole",
    (
        "CREATE TABLE credit_ledger"
        " (LIKE credit_ledger_whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
        " PARTITION BY RANGE (created_at)"
    ),
    # A unique index of a partitioned table has the partition's column in it.
    "ALTER TABLE credit_ledger ADD PRIMARY KEY (id, created_at)",
    "ALTER TABLE credit_ledger ADD UNIQUE (account_id, pool_id, entry_seq, created_at)",
    "ALTER TABLE credit_ledger ADD FOREIGN KEY (account_id) REFERENCES credit_accounts",
    "ALTER TABLE credit_ledger ADD FOREIGN KEY (lot_id) REFERENCES credit_lots",
    "ALTER TABLE credit_ledger ADD FOREIGN KEY (reservation_id) REFERENCES credit_reservations",
    "CREATE INDEX ON credit_ledger (account_id, created_at, id)",
    "CREATE INDEX ON credit_ledger (reservation_id) WHERE reservation_id IS NOT NULL",
    (
        "CREATE TABLE credit_ledger_2026_03 PARTITION OF credit_ledger"
        " FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')"
    ),
    (
        "CREATE TABLE credit_ledger_2026_04 PARTITION OF credit_ledger"
        " FOR VALUES FROM ('2026-04-01') TO ('2026-05-01')"
    ),
)


def test_a_ledger_of_months_is_the_same_ledger(databases: Databases) -> None:
    """Holds, charges, sweeps, history and all invariants, across the end of a month."""
    ledger = Ledger(databases.make("postgresql"))
    with ledger.database.transaction() as tx:
        for statement in _TWIN:
            tx.run(text(statement))
    account = ledger.funded(10 * M)
    ledger.finalize(ledger.reserve(account, 2 * M), M)
    ledger.reserve(account, M)
    ledger.clock.advance(hours=24 * 20)
    assert ledger.sweep() == (1, 0)
    ledger.finalize(ledger.reserve(account, 3 * M), 3 * M)
    assert sweeps.roll_up_revenue(ledger.database) == 2
    months = ledger.rows("SELECT tableoid::regclass::text, count(*) FROM credit_ledger GROUP BY 1")
    assert sorted(name for name, _ in months) == ["credit_ledger_2026_03", "credit_ledger_2026_04"]
    page = ledger.history(account, limit=5)
    rest = ledger.history(account, limit=5, cursor=page["nextCursor"])
    told = [entry["entrySeq"] for entry in [*page["entries"], *rest["entries"]]]
    assert told == [seq for seq, *_ in enumerate(ledger.entries(account), start=1)][::-1]
    assert ledger.balance(account) == (6 * M, 0, 0)
    assert ledger.breaches() == []
    ledger.database.dispose()
