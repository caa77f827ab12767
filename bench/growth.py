"""What a pair and a balance cost once an account has a long history, against a short one."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from bench.ledger import Book, Pairs, libpq
from bench.measuring import Case, Part
from shared.ids import new_id
from shared.ledger import queries
from shared.ledger.book import post
from shared.ledger.commands import Command, Mint
from shared.ledger.terms import TermsCache

SHORT_ENTRIES, SHORT_LOTS = 1_000, 10
_MINTS_AT_ONCE = 500
_HELD = 10
# Holds that were made and given back: each leaves two entries, and the balance as it was. The rows
# refer only to each other and to the account, so checking each reference would only cost time.
_HOLDS = (
    "SET LOCAL session_replication_role = replica",
    """CREATE TEMPORARY TABLE made ON COMMIT DROP AS
       SELECT n, gen_random_uuid()::text AS id,
              now() - interval '30 days' + n * interval '1 s' AS at
       FROM generate_series(0, %(holds)s - 1) AS n""",
    """INSERT INTO credit_reservations (id, account_id, total_reserved_micro, status, expires_at,
                                        created_at, released_micro)
       SELECT id, %(account)s, %(held)s, 'released', at + interval '300 s', at, %(held)s
       FROM made""",
    """INSERT INTO reservation_lots (reservation_id, lot_id, created_at)
       SELECT made.id, lots.id, at FROM made
       JOIN (SELECT id, row_number() OVER () - 1 AS place
             FROM credit_lots WHERE account_id = %(account)s) AS lots ON place = n %% %(lots)s""",
    """INSERT INTO credit_ledger (id, account_id, reservation_id, entry_seq, entry_type,
                                  amount_micro, pre_balance_micro, post_balance_micro, created_at)
       SELECT gen_random_uuid()::text, %(account)s, made.id, next_seq + 2 * n + step, kind, amount,
              available_micro + before, available_micro + before + amount, at
       FROM made
       CROSS JOIN (VALUES (0, 'reserve', -%(held)s::bigint, 0), (1, 'release', %(held)s, -%(held)s))
            AS steps (step, kind, amount, before)
       JOIN credit_account_seq s ON s.account_id = %(account)s AND s.pool_id = 'general'
       JOIN credit_balances b ON b.account_id = %(account)s AND b.pool_id = 'general'""",
    """UPDATE credit_account_seq SET next_seq = next_seq + 2 * %(holds)s
       WHERE account_id = %(account)s AND pool_id = 'general'""",
)


@contextmanager
def cases(book: Book, *, entries: int, lots: int, seconds: float) -> Iterator[Part]:
    """Yield the cases; the second account of *book* gets *entries* and *lots*, the first few."""
    histories = dict(zip(("short", "long"), book.accounts, strict=False))
    _grow(book, histories["short"], SHORT_ENTRIES, SHORT_LOTS)
    _grow(book, histories["long"], entries, lots)
    with psycopg.connect(libpq(book.url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    book.check()
    pairs = Pairs(book.url, is_batching=False)

    def read(account: str) -> None:
        with book.database.reading() as tx:
            queries.balance(tx, account)

    def case(name: str, do: Callable[[str], None]) -> Case:
        return Case(lambda: _in_turn(name, do, histories, seconds), book.check)

    try:
        yield Part([case("pair", pairs.pair), case("balance", read)])
    finally:
        pairs.close()


def _in_turn(
    name: str, do: Callable[[str], None], histories: dict[str, str], seconds: float
) -> dict[str, float]:
    """Return the median microseconds of *do* for each account, taken in turn."""
    times: dict[str, list[float]] = {history: [] for history in histories}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times["long"]:
        for history, account in histories.items():
            began = time.perf_counter()
            do(account)
            times[history].append(time.perf_counter() - began)
    return {
        f"{name}_{history}_history_us": 1_000_000 * statistics.median(found)
        for history, found in times.items()
    }


def _grow(book: Book, account: str, entries: int, lots: int) -> None:
    """Give *account*, which has one lot, *lots* lots and about *entries* entries."""
    terms = TermsCache(book.database)
    for start in range(1, lots, _MINTS_AT_ONCE):
        with book.database.transaction() as tx:
            mints: list[Command] = [
                Mint(account, new_id(tx.now), 1_000_000, "deposit", new_id(tx.now))
                for _ in range(min(_MINTS_AT_ONCE, lots - start))
            ]
            for outcome in post(tx, mints, terms.current()):
                outcome.unwrap()
    holds = (entries - lots) // 2
    values = {"account": account, "holds": holds, "held": _HELD, "lots": lots}
    with psycopg.connect(libpq(book.url), cursor_factory=psycopg.ClientCursor) as connection:
        for statement in _HOLDS:
            connection.execute(statement, values)
