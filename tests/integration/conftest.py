"""Fixtures of the ledger's tests."""

from collections.abc import Iterator

import pytest

from tests.harness import Databases
from tests.ledger import Ledger


@pytest.fixture(params=("sqlite", "postgresql"))
def ledger(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Ledger]:
    """A ledger of its own in live mode, on each kind of database; sound again at the end."""
    made = Ledger(databases.make(request.param))
    yield made
    breaches = made.breaches()
    made.database.dispose()
    assert not made.is_sound_at_end or breaches == []
