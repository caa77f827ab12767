"""The cached balances as operators handle them: looked at, forgotten without KEYS (188, W74)."""

from collections.abc import Iterator

import pytest
from redis import Redis

from deploy.local.servers import running_redis
from shared.balance_cache import PREFIX, BalanceCache
from shared.database import Database
from shared.ledger import queries
from tests.command import NO_REDIS, arrakis, told
from tests.ledger import Ledger


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    """A Redis whose commands nobody else sends."""
    with running_redis() as server:
        yield server.url


def cached(ledger: Ledger, redis_url: str, account: str) -> None:
    """Fill the cache as a reader does."""
    with ledger.database.reading() as tx:
        BalanceCache(redis_url).write([queries.current_balance(tx, account, "general")])


def test_show_compares_what_is_cached_with_the_database(ledger: Ledger, own_redis: str) -> None:
    account = ledger.funded(700)
    at = {"DATABASE_URL": ledger.url, "REDIS_URL": own_redis}
    code, found = told("cache", "show", account, **at)
    assert (code, found["cached"], found["differs"]) == (0, None, False)
    cached(ledger, own_redis, account)
    code, found = told("cache", "show", account, "general", **at)
    assert (code, found["cached"]["availableMicro"]) == (0, "700")
    assert found["cached"] == found["stored"]
    assert 0 < found["lifeMs"] <= 60_000
    ledger.mint(account, 5)  # by a process that knows no cache
    code, output, _ = arrakis("cache", "show", account, **at)
    assert (code, f"arrakis cache reset {account}" in output) == (1, True)
    assert arrakis("cache", "show", "nobody", **at)[0] == 1


def test_reset_forgets_in_batches_and_never_sends_keys(own_redis: str) -> None:
    """Behaviour 188: also with wildcards in names, and other keys stay."""
    redis = Redis.from_url(own_redis)
    redis.flushall()
    redis.mset({f"{PREFIX}account-{number}:general": "x" for number in range(2_500)})
    redis.mset({"billing:other": "1", f"{PREFIX}a*c:general": "x", f"{PREFIX}abc:general": "x"})
    redis.config_resetstat()
    code, found = told("cache", "reset", "a*c", REDIS_URL=own_redis)
    assert (code, found["forgotten"]) == (0, 1)
    assert redis.exists(f"{PREFIX}abc:general") == 1
    assert arrakis("cache", "reset", "--yes", REDIS_URL=own_redis)[:2] == (
        0,
        "2501 cached balances forgotten.\n",
    )
    assert redis.keys("*") == [b"billing:other"]
    used = {name for name, stats in redis.info("commandstats").items() if stats["calls"]}
    assert {"cmdstat_scan", "cmdstat_unlink"} <= used
    assert "cmdstat_del" not in used
    assert redis.info("commandstats")["cmdstat_keys"]["calls"] == 1  # this test's own
    redis.close()


def test_after_a_reset_the_balance_comes_from_the_database(ledger: Ledger, own_redis: str) -> None:
    """Behaviour 155: DEL, then a read restores it; the runbook's own command does the same."""
    account = ledger.funded(700)
    at = {"DATABASE_URL": ledger.url, "REDIS_URL": own_redis}
    redis = Redis.from_url(own_redis)
    for forget in (
        lambda: arrakis("cache", "reset", account, **at),
        lambda: redis.execute_command("DEL", f"billing:balance:{account}:general"),
    ):
        cached(ledger, own_redis, account)
        assert redis.exists(f"{PREFIX}{account}:general") == 1
        forget()
        assert redis.exists(f"{PREFIX}{account}:general") == 0
        assert BalanceCache(own_redis).read(account, "general") is None
    redis.close()
    database = Database(ledger.url)
    with database.reading() as tx:
        assert queries.balance(tx, account)["availableMicro"] == "700"
    database.dispose()


def test_a_redis_that_is_away_is_told_with_exit_3() -> None:
    code, output, complaint = arrakis("cache", "reset", "--yes", REDIS_URL=NO_REDIS)
    assert (code, output, "redis_unavailable" in complaint) == (3, "", True)
    assert "Traceback" not in complaint
