"""Balances through whatever happens: never stale after an answer, with Redis there or away."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deploy.local.servers import RunningServer, running_redis
from shared.database import Database
from shared.ledger import queries
from tests.front_door import balance, breaches, hold, mint
from tests.harness import Api, Databases, running_api, set_config, unique, wait_until

POOLS = ("general", "campaign:spring", "campaign:none")
M = 1_000_000


def truth(client: Api, account: str, pool: str) -> tuple[int, ...]:
    """Return available, reserved and debt as the database has them."""
    with client.database.reading() as tx:
        told = queries.balance(tx, account, pool)
    return tuple(int(told[name]) for name in ("availableMicro", "reservedMicro", "debtMicro"))


def reads(client: Api, outcome: str) -> int:
    """Return how many reads of the cache ended so."""
    head = f'arrakis_balance_cache_total{{outcome="{outcome}"}} '
    lines = client.get("/metrics", headers={}).text.splitlines()
    return sum(int(float(line.removeprefix(head))) for line in lines if line.startswith(head))


class Random:
    """Random operations on one account, through the front door."""

    def __init__(self, client: Api, seed: int) -> None:
        self.client = client
        self.chance = random.Random(seed)
        self.account = client.funded_account(100_000)
        self.holds: list[str] = []

    def one(self) -> None:
        """Do something; refusals are as good as successes."""
        client = replace(self.client, subject=unique("caller"))
        amount = self.chance.randint(1, 20_000)
        do = self.chance.choice(["mint", *["reserve"] * 3, "extend", *["finalize"] * 2, "release"])
        if do == "mint":
            pool = self.chance.choice(POOLS[:2])
            mint(client, self.account, amount, poolId=pool, sourceType="grant")
        elif do == "reserve":
            body = {"accountId": self.account, "poolId": self.chance.choice(POOLS)}
            held = client.internal("reserve", {**body, "estimatedCostMicro": str(amount)})
            if held.status_code == 200:
                self.holds.append(held.json()["reservationId"])
        elif self.holds:
            body = {"reservationId": self.chance.choice(self.holds[-6:])}
            body |= {"additionalMicro": str(amount), "actualCostMicro": str(amount)}
            assert client.internal(do, body).status_code in (200, 402, 409, 422)


def test_a_balance_is_never_stale_after_an_answered_operation(api: Api) -> None:
    drawn, hits = Random(api, seed=11), reads(api, "hit")
    for number in range(200):
        drawn.one()
        client = replace(api, subject=unique("caller"))
        for pool in POOLS:
            told = balance(client, drawn.account, pool)
            assert told == truth(api, drawn.account, pool), (number, pool)
    assert reads(api, "hit") - hits >= 390  # all but those of the pool without credits
    assert breaches(api) == []


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A Redis of our own, to be frozen and stopped."""
    with running_redis() as running:
        yield running


@pytest.fixture(scope="module")
def both(
    databases: Databases, server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Api]]:
    """An API on each kind of database, both with that Redis."""
    log: Path = tmp_path_factory.mktemp("logs") / "api.log"
    with ExitStack() as stack:
        running = []
        for url in (databases.make("sqlite"), databases.make("postgresql")):
            database = Database(url)
            set_config(database, billing_mode="live")
            database.dispose()
            running.append(stack.enter_context(running_api(url, server.url, log)))
        yield running


def freeze(server: RunningServer) -> None:
    os.kill(server.pid, signal.SIGSTOP)


def thaw(server: RunningServer) -> None:
    os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("take_away", "bring_back"),
    [(freeze, thaw), (RunningServer.stop, RunningServer.start)],
    ids=["frozen", "stopped"],
)
def test_without_redis_the_database_answers_and_nothing_stale_comes_back(
    server: RunningServer,
    both: list[Api],
    take_away: Callable[[RunningServer], None],
    bring_back: Callable[[RunningServer], None],
) -> None:
    """Issue 3: slower than 200 ms or away -> the database answers. Contract 8: Redis may go."""
    busy = [(one, one.funded_account(M)) for one in both]
    for one, account in busy:
        assert balance(one, account) == (M, 0, 0)
    take_away(server)
    try:
        for one, account in busy:
            before, started = reads(one, "away"), time.monotonic()
            assert balance(one, account) == (M, 0, 0)
            assert time.monotonic() - started < 1
            started = time.monotonic()
            hold(one, account, 300_000)
            assert time.monotonic() - started < 1
            assert balance(one, account) == (M - 300_000, 300_000, 0)
            assert reads(one, "away") == before + 2
    finally:
        bring_back(server)
    for one, account in busy:
        hits = reads(one, "hit")

        def is_back(one: Api = one, account: str = account, hits: int = hits) -> bool:
            told = balance(replace(one, subject=unique("caller")), account)
            assert told == (M - 300_000, 300_000, 0)
            return reads(one, "hit") > hits

        wait_until("the cache at work again", is_back)
        assert cached(server, account)["reservedMicro"] == "300000"
        hold(one, account, 1)
        assert cached(server, account)["reservedMicro"] == "300001"


def cached(server: RunningServer, account: str) -> dict[str, Any]:
    """Return what Redis holds of *account*."""
    with Redis.from_url(server.url, decode_responses=True) as redis:
        found: dict[str, Any] = json.loads(str(redis.get(f"billing:balance:{account}:general")))
    return found
