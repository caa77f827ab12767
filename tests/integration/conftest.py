"""Fixtures of the ledger's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Api, Databases, running_api
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
def api_of(redis_url: str, tmp_path: Path) -> Iterator[Callable[[str], Api]]:
    """Run the API on a database that the test names; it ends with the test."""
    with ExitStack() as running:
        yield lambda url: running.enter_context(running_api(url, redis_url, tmp_path / "api.log"))
