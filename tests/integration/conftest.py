"""Fixtures of the ledger's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.api_app import serving_api
from tests.harness import Api, Databases
from tests.ledger import Ledger


@pytest.fixture(params=("sqlite", "postgresql"))
def ledger(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Ledger]:
    """A ledger of its own in live mode, on each kind of database; sound again at the end."""
    made = Ledger(databases.make(request.param))
    yield made
    breaches = made.breaches()
    made.database.dispose()
    assert not made.is_sound_at_end or breaches == []


@pytest.fixture
def api_of(redis_url: str) -> Iterator[Callable[[str], Api]]:
    """Serve the API on a database that the test names; it ends with the test."""
    with ExitStack() as serving:
        yield lambda url: serving.enter_context(serving_api(url, redis_url))
