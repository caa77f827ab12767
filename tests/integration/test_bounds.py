"""What a process keeps in memory has an end, however long a dependency is away."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from shared.balance_cache import BalanceCache
from shared.database import CachedBalance, Database
from shared.errors import Unavailable
from shared.ledger.commands import Mint
from shared.ledger.executor import Executor
from shared.ledger.terms import Terms, TermsCache
from tests.command import NO_REDIS
from tests.harness import make_id
from tests.ledger import Ledger

_ONE = CachedBalance("a", "general", 1, 0, 0, version=1)


class _SlowTerms(TermsCache):
    """Terms that come when the test says so, as from a database that hangs."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked, self.answer = threading.Event(), threading.Event()

    def current(self) -> Terms:
        self.asked.set()
        assert self.answer.wait(20)
        return super().current()


def test_a_full_queue_refuses_and_carries_out_what_it_has_taken(ledger: Ledger) -> None:
    """Nobody is refused halfway: who was let in is answered, who was not has changed nothing."""
    account, terms = ledger.account(), _SlowTerms(ledger.database)
    executor = Executor(ledger.database, terms, waiting_max=3)

    def mint(_: int) -> str:
        try:
            executor.execute(Mint(account, make_id(), 1, "grant")).unwrap()
        except Unavailable as refusal:
            terms.answer.set()  # the first of the refused lets the others go on
            return refusal.code
        return "ok"

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(mint, 0)
        assert terms.asked.wait(20)
        others = list(pool.map(mint, range(7)))
    assert (first.result(), set(others)) == ("ok", {"ok", "overloaded"})
    assert others.count("ok") >= 3
    assert len(ledger.lots(account)) == 1 + others.count("ok")


def test_what_redis_missed_is_kept_up_to_a_limit() -> None:
    """Beyond it the cache is left alone until all that Redis may hold has expired there."""
    cache = BalanceCache(NO_REDIS, missed_max=10)
    for number in range(10):
        cache.write([replace(_ONE, account_id=str(number))])
    cache.write([replace(_ONE, account_id="0", version=2)])
    assert cache.missed == 10
    cache.write([replace(_ONE, account_id="one too many")])
    assert cache.missed == 0
    cache.write([_ONE])
    assert cache.missed == 1  # and it goes on from there


@pytest.mark.parametrize("writes", [1, 100])
def test_repeated_misses_of_one_account_take_one_place(writes: int) -> None:
    cache = BalanceCache(NO_REDIS)
    for version in range(writes):
        cache.write([replace(_ONE, version=version)])
    assert cache.missed == 1
