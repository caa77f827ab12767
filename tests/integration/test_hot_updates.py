"""What holds and charges update again and again stays in its page, so no index grows by it."""

from sqlalchemy import text

from shared.database import Database
from shared.ledger.commands import Command, Finalize, Mint, Release, Reserve
from tests.harness import Databases, make_id
from tests.ledger import Ledger

_ACCOUNTS, _ROUNDS = 40, 10
_SHARE = 0.9
_UPDATED = text(
    "SELECT relname, n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables"
    " WHERE relname IN ('credit_lots', 'credit_balances', 'credit_account_seq')"
)


def _updates(database: Database) -> dict[str, tuple[int, int]]:
    """Return how many rows of each table were updated, and how many of them in their page."""
    with database.transaction() as tx:  # the only connection, so the one that has counted
        tx.run(text("SELECT pg_stat_force_next_flush()"))
    with database.transaction() as tx:
        return {row.relname: (row.updates, row.hot) for row in tx.all(_UPDATED)}


def test_lots_balances_and_sequences_are_updated_in_their_pages(databases: Databases) -> None:
    """An index on what each hold changes, or full pages, would make every one write to indexes."""
    ledger = Ledger(databases.make("postgresql"))
    accounts = [ledger.account() for _ in range(_ACCOUNTS)]
    run = ledger.executor.execute_all
    run([Mint(account, make_id(), 500, "grant") for account in 2 * accounts])
    before = _updates(ledger.database)
    for number in range(_ROUNDS):
        held = [(account, make_id()) for account in accounts]
        run([Reserve(account, hold, 30) for account, hold in held])
        ends: list[Command] = [
            Release(hold) if number % 4 == 0 else Finalize(hold, 20) for _, hold in held
        ]
        run(ends)
    after = _updates(ledger.database)
    ledger.database.dispose()
    shares = {}
    for table, (updates, hot) in after.items():
        done = updates - before[table][0]
        assert done >= 2 * _ROUNDS * _ACCOUNTS, table
        shares[table] = (hot - before[table][1]) / done
    assert min(shares.values()) >= _SHARE, shares
