"""Balances in Redis: under the runbook's keys, right after every operation, and replaceable."""

import contextlib
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from shared.balance_cache import BalanceCache
from shared.clock import system_clock
from shared.database import CachedBalance, Database
from shared.ledger import queries, sweeps
from shared.ledger.book import post
from shared.ledger.commands import Mint, Refund
from shared.ledger.terms import Terms
from tests.front_door import balance, hold, mint, rows, settle
from tests.harness import Api, make_id, unique, wait_until

CAMPAIGN = "campaign:spring"
M = 1_000_000
Amounts = tuple[int, int, int]


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """What the runbook's redis-cli sees."""
    with Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


@pytest.fixture
def worker(api: Api, redis_url: str) -> Iterator[Database]:
    """Another process's view of the API's database, which tells the same Redis."""
    url = api.database.engine.url.render_as_string(hide_password=False)
    database = Database(url, after_commit=[BalanceCache(redis_url)])
    yield database
    database.dispose()


def key_of(account: str, pool: str = "general") -> str:
    return f"billing:balance:{account}:{pool}"


def cached(redis: Redis, account: str, pool: str = "general") -> dict[str, Any] | None:
    """Return what Redis holds."""
    text = redis.get(key_of(account, pool))
    found: dict[str, Any] | None = json.loads(str(text)) if text is not None else None
    return found


def amounts(value: dict[str, Any] | None) -> Amounts | None:
    """Return available, reserved and debt of a cached value."""
    if value is None:
        return None
    return int(value["availableMicro"]), int(value["reservedMicro"]), int(value["debtMicro"])


def truth(client: Api, account: str, pool: str = "general") -> Amounts:
    """Return available, reserved and debt as the database has them."""
    with client.database.reading() as tx:
        found = amounts(queries.balance(tx, account, pool))
    assert found is not None
    return found


def reads(client: Api) -> dict[str, int]:
    """Return how many reads of the cache hit, missed, or found it away."""
    head = 'arrakis_balance_cache_total{outcome="'
    lines = client.get("/metrics", headers={}).text.splitlines()
    told = [line.removeprefix(head).split('"} ') for line in lines if line.startswith(head)]
    return {"hit": 0, "miss": 0, "away": 0} | {name: int(float(value)) for name, value in told}


def offer(version: int, **fields: Any) -> CachedBalance:
    """Return a balance whose amounts tell its version."""
    return CachedBalance(
        **{
            "account_id": "a", "pool_id": "general", "available_micro": -version,
            "reserved_micro": version, "debt_micro": 2 * version, "version": version, **fields,
        }
    )  # fmt: skip


def test_every_operation_writes_the_balance_that_it_leaves(client: Api, redis: Redis) -> None:
    account = client.funded_account(10 * M)
    assert cached(redis, account) == {
        "accountId": account,
        "availableMicro": "10000000",
        "reservedMicro": "0",
        "debtMicro": "0",
        "version": 1,
    }
    assert 0 < redis.ttl(key_of(account)) <= 60
    reservation = hold(client, account, 3 * M)
    seen = [cached(redis, account)]
    client.internal("extend", {"reservationId": reservation, "additionalMicro": str(M)})
    seen.append(cached(redis, account))
    settle(client, reservation, M)
    seen.append(cached(redis, account))
    client.internal("release", {"reservationId": hold(client, account, 5)})
    seen.append(cached(redis, account))
    told = [(amounts(value), value and value["version"]) for value in seen]
    assert told == [
        ((7 * M, 3 * M, 0), 2),
        ((6 * M, 4 * M, 0), 3),
        ((9 * M, 0, 0), 4),
        ((9 * M, 0, 0), 6),
    ]


def test_a_refused_operation_writes_nothing(client: Api, redis: Redis) -> None:
    account = client.funded_account(10)
    redis.delete(key_of(account))
    refused = client.internal("reserve", {"accountId": account, "estimatedCostMicro": "11"})
    assert refused.status_code == 402
    assert cached(redis, account) is None


def test_a_transaction_that_is_rolled_back_writes_nothing(
    client: Api, worker: Database, redis: Redis
) -> None:
    """Behaviour 154 (W18): the earlier system left phantom money."""
    account = client.funded_account(10)
    before = cached(redis, account)
    with contextlib.suppress(ZeroDivisionError), worker.transaction() as tx:
        post(tx, [Mint(account, make_id(), M, "deposit")], Terms(mode="live"))
        assert tx.balances[0].available_micro == M + 10
        raise ZeroDivisionError
    assert cached(redis, account) == before
    assert balance(client, account) == (10, 0, 0)


def test_a_miss_fills_the_cache_and_the_next_read_hits(client: Api, redis: Redis) -> None:
    """Behaviour 155 (W19), and the runbook's reset of one account."""
    account = client.funded_account(10)
    written = cached(redis, account)
    assert redis.delete(key_of(account)) == 1
    before = reads(client)
    assert balance(client, account) == (10, 0, 0)
    assert cached(redis, account) == written
    assert balance(client, account) == (10, 0, 0)
    after = reads(client)
    assert {name: after[name] - before[name] for name in after} == {"hit": 1, "miss": 1, "away": 0}


def test_the_runbooks_full_reset_does_no_harm(client: Api, redis: Redis) -> None:
    accounts = [client.funded_account(n + 1) for n in range(3)]
    keys = redis.keys("billing:balance:*")
    assert {key_of(account) for account in accounts} <= set(keys)
    assert redis.delete(*keys) == len(keys)
    for n, account in enumerate(accounts):
        assert balance(client, account) == (n + 1, 0, 0)
        assert amounts(cached(redis, account)) == (n + 1, 0, 0)


def test_members_and_admins_read_the_same_cache(client: Api, redis: Redis) -> None:
    account = client.funded_account(10)
    redis.delete(key_of(account))
    before = reads(client)
    told = [
        client.get("/api/billing/balance", headers=client.member(account)),
        client.get(f"/admin/billing/accounts/{account}/balance", headers=client.admin()),
        client.get(f"/api/internal/accounts/{account}/balance"),
    ]
    assert [answer.json() for answer in told] == [told[0].json()] * 3
    assert told[0].json()["availableMicro"] == "10"
    after = reads(client)
    assert (after["hit"] - before["hit"], after["miss"] - before["miss"]) == (2, 1)


GARBAGE: list[Any] = [
    "", "nonsense", "null", "5", '"text"', "[]", "{}", "[1,2,3]", b"\xff\xfe", "[" * 100_000,
    '{"availableMicro":"5","reservedMicro":"0"}',  # the earlier system's
    '{"availableMicro": 5, "reservedMicro": 0, "debtMicro": 0, "version": 9}',
    '{"availableMicro": "5", "reservedMicro": "0", "debtMicro": "0", "version": "abc"}',
    '{"availableMicro": "5", "reservedMicro": "0", "debtMicro": "0", "version": null}',
    '{"availableMicro": "5.5", "reservedMicro": "0", "debtMicro": "0", "version": 1e300}',
    '{"accountId": "x", "availableMicro": "5", "reservedMicro": "0", "debtMicro": "0"}',
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda text: repr(text[:70]))
def test_garbage_in_a_key_is_ignored_and_replaced(
    client: Api, redis: Redis, garbage: str | bytes
) -> None:
    account = client.funded_account(10)
    before = reads(client)
    redis.set(key_of(account), garbage)
    assert balance(client, account) == (10, 0, 0)
    assert amounts(cached(redis, account)) == (10, 0, 0)
    redis.set(key_of(account), garbage)
    hold(client, account, 4)
    assert amounts(cached(redis, account)) == (6, 4, 0)
    assert balance(client, account) == (6, 4, 0)
    after = reads(client)
    assert {name: after[name] - before[name] for name in after} == {"hit": 1, "miss": 1, "away": 0}


def test_a_key_of_another_type_gives_way(client: Api, redis: Redis) -> None:
    account = client.funded_account(10)
    before = reads(client)
    for spoil in (lambda key: redis.rpush(key, "x"), lambda key: redis.hset(key, "a", "b")):
        redis.delete(key_of(account))
        spoil(key_of(account))
        assert balance(client, account) == (10, 0, 0)
        assert amounts(cached(redis, account)) == (10, 0, 0)
    assert reads(client)["away"] == before["away"]


def test_accounts_whose_keys_are_spelled_alike_never_see_each_others_balance(
    client: Api, redis: Redis
) -> None:
    """Ids may contain colons: this account in general is that one in ``campaign:general``."""
    inner = unique("guild")
    outer = f"{inner}:campaign"
    for name in (inner, outer):
        made = client.post(
            "/admin/billing/accounts",
            {"entityType": "community", "entityId": unique("e"), "accountId": name},
            headers=client.admin(sub=unique("admin")),
        )
        assert made.status_code == 201
    mint(client, outer, 500)
    mint(client, inner, 7, poolId="campaign:general", sourceType="grant")
    assert key_of(outer) == key_of(inner, "campaign:general")
    for _ in range(2):
        assert balance(client, outer) == (500, 0, 0)
        assert balance(client, inner, "campaign:general") == (7, 0, 0)
    assert cached(redis, outer) is not None


def test_an_older_version_never_overwrites_a_newer_one(redis_url: str, redis: Redis) -> None:
    """W18: writes of two processes may arrive in any order."""
    cache, account = BalanceCache(redis_url), unique("a")
    for version, kept in (
        (5, 5),
        (4, 5),
        (5, 5),
        (6, 6),
        (1, 6),
        (10, 10),
        (9, 10),
        (2**40, 2**40),
    ):
        cache.write([offer(version, account_id=account)])
        assert amounts(cached(redis, account)) == (-kept, kept, 2 * kept), version
        assert cache.read(account, "general") == {
            "available_micro": -kept, "reserved_micro": kept, "debt_micro": 2 * kept,
        }  # fmt: skip


def test_of_writes_from_many_threads_and_processes_the_newest_is_kept(
    redis_url: str, redis: Redis
) -> None:
    caches, account = [BalanceCache(redis_url) for _ in range(4)], unique("a")
    versions = list(range(1, 201))
    random.Random(5).shuffle(versions)
    with ThreadPoolExecutor(8) as pool:
        for n, version in enumerate(versions):
            pool.submit(caches[n % 4].write, [offer(version, account_id=account)])
    assert amounts(cached(redis, account)) == (-200, 200, 400)


def test_a_balance_whose_time_is_over_is_not_kept_and_drops_what_was_there(
    redis_url: str, redis: Redis
) -> None:
    cache, account, now = BalanceCache(redis_url), unique("a"), system_clock()
    cache.write([offer(1, account_id=account)])
    cache.write([offer(2, account_id=account, good_until=now - timedelta(seconds=1))])
    assert cached(redis, account) is None
    cache.write([offer(3, account_id=account, good_until=now + timedelta(seconds=30))])
    assert 20 < redis.ttl(key_of(account)) <= 30
    cache.write([offer(4, account_id=account, good_until=now + timedelta(days=30))])
    assert 50 < redis.ttl(key_of(account)) <= 60


def test_when_general_changes_so_do_the_views_of_every_pool(client: Api, redis: Redis) -> None:
    """Behaviour 152 (W17), also of a pool in which the account never had anything."""
    account = client.funded_account(100)
    mint(client, account, 50, poolId=CAMPAIGN, sourceType="grant")
    pools = (CAMPAIGN, "general", "campaign:unknown")
    assert [balance(client, account, pool)[0] for pool in pools] == [150, 100, 100]
    first = hold(client, account, 30)
    assert [balance(client, account, pool) for pool in pools] == [
        (120, 30, 0), (70, 30, 0), (70, 30, 0),
    ]  # fmt: skip
    second = hold(client, account, 60, poolId=CAMPAIGN)
    assert [balance(client, account, pool)[0] for pool in pools] == [60, 60, 60]
    settle(client, first, 30)
    settle(client, second, 5)
    assert [balance(client, account, pool)[0] for pool in pools] == [115, 70, 70]
    assert [amounts(cached(redis, account, pool)) for pool in pools] == [
        (115, 0, 0), (70, 0, 0), None,
    ]  # fmt: skip


def test_a_balance_is_right_as_soon_as_a_lot_or_a_hold_has_ended(
    client: Api, worker: Database, redis: Redis
) -> None:
    """Behaviour 152: although no sweep has come by."""
    mortal, holder = client.funded_account(10), client.funded_account(10)
    ends = system_clock() + timedelta(seconds=1)
    with worker.transaction() as tx:
        terms = Terms(mode="live")
        post(tx, [Mint(mortal, make_id(), 100, "grant", expires_at=ends)], terms)
    hold(client, holder, 4, ttlSeconds=1)
    over = system_clock() + timedelta(seconds=1.05)
    assert (balance(client, mortal), balance(client, holder)) == ((110, 0, 0), (6, 4, 0))
    assert 0 < redis.pttl(key_of(mortal)) <= 1_000
    wait_until("the end of the lot and the hold", lambda: system_clock() > over)
    assert (balance(client, mortal), balance(client, holder)) == ((10, 0, 0), (10, 0, 0))
    assert amounts(cached(redis, mortal)) == (10, 0, 0)


def test_refunds_and_revenue_of_the_workers_are_told_too(
    client: Api, worker: Database, redis: Redis
) -> None:
    account = client.funded_account(M)
    settle(client, hold(client, account, 400_000), 400_000)
    balance(client, "sys-commons")
    while sweeps.roll_up_revenue(worker):
        pass
    assert balance(client, "sys-commons") == truth(client, "sys-commons")
    [(lot,)] = rows(client, "SELECT id FROM credit_lots WHERE account_id = :id", id=account)
    with worker.transaction() as tx:
        post(tx, [Refund(account, lot)], Terms(mode="live"))
    assert amounts(cached(redis, account)) == (-400_000, 0, 400_000)
    assert balance(client, account) == (-400_000, 0, 400_000)
