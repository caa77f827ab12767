"""The outbox: an event is told if, and only if, its cause was committed; once, to who asked."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from shared.clock import system_clock
from shared.errors import Unavailable
from shared.ids import new_id
from shared.notifications import forgetting, outbox
from shared.operations import dlq, retention, settings
from tests.ledger import Ledger
from tests.webhooks_out import OPERATOR

OF = "event_id IN (SELECT id FROM notification_events WHERE key = '{}')"


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


def test_events_are_forgotten_after_their_time_unless_somebody_waits(ledger: Ledger) -> None:
    # The ids of a process never step back, whatever clock another test had.
    milliseconds = uuid.UUID(new_id(system_clock())).int >> 80
    ledger.clock.now = datetime.fromtimestamp(milliseconds / 1000, UTC)
    endpoint(ledger, "a", "alert.fired", "account.grant_expiring")
    account = ledger.account()
    lots = [
        ledger.mint(account, 10, expires_at=ledger.clock.now + timedelta(days=days))
        for days in (200, 50)
    ]
    keys = {
        *("told", "told too", "waiting", "for a person"),
        *(f"account.grant_expiring:{lot}" for lot in lots),
    }
    for key in keys:
        kind = "account.grant_expiring" if ":" in key else "alert.fired"
        with ledger.database.transaction() as tx:
            outbox.emit(tx, kind, key=key, data={})
    ledger.sql(
        "UPDATE notification_deliveries SET state = 'done' WHERE NOT " + OF.format("waiting")
    )
    ledger.sql(
        "UPDATE notification_deliveries SET state = 'parked' WHERE " + OF.format("for a person")
    )
    [[parked]] = ledger.rows("SELECT id FROM notification_deliveries WHERE state = 'parked'")
    with ledger.database.transaction() as tx:
        dlq.enter(tx, "notification", subject_id=parked, payload={}, error="x", needs_person=True)
    ledger.clock.advance(hours=89 * 24)
    assert forgetting.sweep(ledger.database) == 0
    ledger.clock.advance(hours=48)
    ledger.sweep()
    assert forgetting.sweep(ledger.database) == 3
    assert forgetting.sweep(ledger.database) == 0
    left = {key for [key] in ledger.rows("SELECT key FROM notification_events")}
    assert left == {"waiting", "for a person", f"account.grant_expiring:{lots[0]}"}
    ledger.sql("UPDATE notification_deliveries SET state = 'done'")
    ledger.sql("UPDATE billing_dlq SET status = 'completed'")
    assert forgetting.sweep(ledger.database) == 2
    assert len(ledger.rows("SELECT id FROM notification_deliveries")) == 1


def test_how_long_events_are_kept_is_a_setting(ledger: Ledger) -> None:
    with ledger.database.transaction() as tx:
        for wrong in ("30", "x", "10000", ""):
            refused = settings.change_settings(tx, OPERATOR, {"webhook_event_days": wrong}, "w")
            assert refused.error is not None
        settings.change_settings(tx, OPERATOR, {"webhook_event_days": "31"}, "w").unwrap()
        assert retention.load_days(tx, retention.EVENT_KEY, retention.EVENT_DAYS) == 31
    ledger.configure(webhook_event_days="soon")
    with pytest.raises(Unavailable):
        forgetting.sweep(ledger.database)


def _undo(ledger: Ledger) -> None:
    with ledger.database.transaction() as tx:
        assert outbox.emit(tx, "alert.fired", key="drift:1", data={}) is not None
        raise ZeroDivisionError
