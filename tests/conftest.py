"""Fixtures: one Redis and one PostgreSQL for the run, a fresh database for whoever asks."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import structlog

from deploy.local.servers import running_postgres, running_redis
from shared import ids
from shared.database import Database
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from tests.command import logs_restored
from tests.harness import Api, Databases, running_api, set_config, started_once
from tests.receiver import Receiver, running_receiver

pytest_plugins = ["tests.provider_harness", "tests.shop"]
KINDS = ("sqlite", "postgresql")


def pytest_configure() -> None:
    """Print tracebacks plainly: with all variables in a frame one takes a tenth of a second."""
    plain = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


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


@pytest.fixture(scope="session")
def apis(
    databases: Databases, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Api]]:
    """Return the real API on granian, in live mode, on a kind of database; it serves the run."""

    @contextmanager
    def start(kind: str) -> Iterator[Api]:
        url = databases.make(kind)
        opened = Database(url)
        set_config(opened, billing_mode="live")
        opened.dispose()
        with running_api(url, redis_url, tmp_path_factory.mktemp("logs") / "api.log") as client:
            yield client

    with started_once(start) as of_kind:
        yield of_kind


@pytest.fixture(scope="session")
def receivers(
    databases: Databases, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Receiver]]:
    """Return the real receiver of notices on a kind of database; it serves the run."""

    def start(kind: str) -> AbstractContextManager[Receiver]:
        log = tmp_path_factory.mktemp("logs") / "webhooks.log"
        return running_receiver(databases.make(kind), redis_url, log)

    with started_once(start) as of_kind:
        yield of_kind


@pytest.fixture(scope="module", params=KINDS)
def api(request: pytest.FixtureRequest, apis: Callable[[str], Api]) -> Api:
    """The real API on each kind of database, shared by all tests of the run."""
    return apis(request.param)
