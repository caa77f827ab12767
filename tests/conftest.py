"""Fixtures: one Redis and one PostgreSQL for the run, a fresh database for whoever asks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.servers import running_postgres, running_redis
from shared import ids
from shared.database import Database
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from tests.command import logs_restored
from tests.harness import Api, Databases, running_api, set_config

pytest_plugins = ["tests.provider_harness", "tests.shop"]
KINDS = ("sqlite", "postgresql")


@pytest.fixture(autouse=True)
def as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test the state of a new process, whatever the ones before it have done.

    Ids never step back, so a clock that was driven ahead would make all later ids sort last; and
    a command in this process changes where, and from which level, it logs.
    """
    monkeypatch.setattr(ids, "_last_millisecond", 0)
    with logs_restored():
        yield


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis-compatible server of our own."""
    with running_redis() as server:
        yield server.url


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Both kinds of database; PostgreSQL is ours, or the one of TEST_DATABASE_URL."""
    directory = tmp_path_factory.mktemp("databases")
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield Databases(directory, given)
        return
    with running_postgres(fsync=False) as server:
        yield Databases(directory, server.url)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Database]:
    """A fresh, migrated database in live mode, on each kind."""
    made = Database(databases.make(request.param))
    set_config(made, billing_mode="live")
    yield made
    made.dispose()


@pytest.fixture
def executor(database: Database) -> Executor:
    """The ledger's executor on a fresh database."""
    return Executor(database, TermsCache(database))


@pytest.fixture(scope="session", params=KINDS)
def api(
    request: pytest.FixtureRequest,
    databases: Databases,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """The real API on granian, in live mode, one for each kind of database for the whole run."""
    log: Path = tmp_path_factory.mktemp("logs") / "api.log"
    url = databases.make(request.param)
    opened = Database(url)
    set_config(opened, billing_mode="live")
    opened.dispose()
    with running_api(url, redis_url, log) as client:
        yield client
