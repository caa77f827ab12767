"""The outbox: an event is told if, and only if, its cause was committed; once, to who asked."""

import json

import pytest

from shared.notifications import outbox
from tests.ledger import Ledger


def endpoint(ledger: Ledger, name: str, *types: str, status: str = "active") -> str:
    ledger.sql(
        "INSERT INTO notification_endpoints (id, url, status, created_by) "
        "VALUES (:id, 'https://example.com/hook', :status, 'ops')",
        id=name,
        status=status,
    )
    for one in types:
        ledger.sql(
            "INSERT INTO notification_subscriptions (event_type, endpoint_id) VALUES (:type, :id)",
            type=one,
            id=name,
        )
    return name


def test_an_event_goes_to_every_active_endpoint_that_subscribed_to_its_type(ledger: Ledger) -> None:
    endpoint(ledger, "a", "alert.fired", "alert.cleared")
    endpoint(ledger, "b", "alert.fired")
    endpoint(ledger, "other", "alert.cleared")
    endpoint(ledger, "off", "alert.fired", status="disabled")
    with ledger.database.transaction() as tx:
        event_id = outbox.emit(tx, "alert.fired", key="drift:1", data={"driftMicro": "5"})
    assert ledger.rows("SELECT endpoint_id, event_id, state FROM notification_deliveries") == [
        ("a", event_id, "new"),
        ("b", event_id, "new"),
    ]
    [(key, kind, data)] = ledger.rows("SELECT key, type, data FROM notification_events")
    assert (key, kind, json.loads(data)) == ("drift:1", "alert.fired", {"driftMicro": "5"})


def test_the_same_key_is_one_event(ledger: Ledger) -> None:
    endpoint(ledger, "a", "alert.fired")
    for expected in (True, False):
        with ledger.database.transaction() as tx:
            told = outbox.emit(tx, "alert.fired", key="drift:1", data={})
        assert (told is not None) is expected
    assert len(ledger.rows("SELECT id FROM notification_deliveries")) == 1


def test_nothing_is_written_if_nobody_subscribed_or_the_cause_is_undone(ledger: Ledger) -> None:
    with ledger.database.transaction() as tx:
        assert outbox.emit(tx, "alert.fired", key="drift:1", data={}) is None
    endpoint(ledger, "a", "alert.fired")
    with pytest.raises(ZeroDivisionError):
        _undo(ledger)
    assert ledger.rows("SELECT id FROM notification_events") == []


def test_an_unknown_type_is_a_mistake_of_ours(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="nothing"), ledger.database.transaction() as tx:
        outbox.emit(tx, "nothing", key="x", data={})


def _undo(ledger: Ledger) -> None:
    with ledger.database.transaction() as tx:
        assert outbox.emit(tx, "alert.fired", key="drift:1", data={}) is not None
        raise ZeroDivisionError
