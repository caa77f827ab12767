"""Alerts fire and clear by their real conditions, each transition once (runbook 3, W72)."""

import json
import threading
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from shared.alerts import views
from shared.alerts.counts import Recorder
from shared.alerts.evaluating import evaluate
from shared.alerts.rules import RULES
from shared.campaigns.lists import Wish
from shared.config import ProviderSettings
from shared.database import Database
from shared.errors import NotFound, Unavailable
from shared.operations import modes, settings
from shared.wiring import make_cashier
from tests.alerts import CONDITIONS, NOBODY, OPERATOR, dead_letters_pile_up, reserves_are_refused
from tests.campaigns import Campaigns
from tests.ledger import Ledger
from tests.scripted_provider import answer, scripted
from tests.x402 import PAY_TO, TERMS, payload, read


def look(ledger: Ledger) -> set[str]:
    """Evaluate as a worker does; return what fires then."""
    with capture_logs():
        evaluate(ledger.database)
    return {name for [name] in ledger.rows("SELECT name FROM alerts WHERE status = 'firing'")}


def transitions(ledger: Ledger, name: str) -> list[str]:
    found = ledger.rows(
        "SELECT action, actor_type, details FROM admin_audit_log"
        " WHERE target_type = 'alert' ORDER BY id"
    )
    assert all(actor == "system" for _, actor, _ in found)
    return [action for action, _, details in found if json.loads(details)["name"] == name]


def mode(ledger: Ledger) -> str:
    with ledger.database.reading() as tx:
        return str(modes.show_mode(tx)["mode"])


def test_every_alert_has_a_condition_here() -> None:
    """Behaviour 187: every alert can be triggered by a synthetic condition (W72)."""
    assert CONDITIONS.keys() | {"lot_invariant"} == RULES.keys()


@pytest.mark.parametrize("name", CONDITIONS)
def test_an_alert_fires_by_its_condition_and_clears_after_it(ledger: Ledger, name: str) -> None:
    """Behaviour 187: every alert can be triggered by a synthetic condition (W72)."""
    assert look(ledger) == set()
    with capture_logs():
        repair = CONDITIONS[name](ledger)
    assert name in look(ledger)
    assert name in look(ledger)
    assert transitions(ledger, name) == ["alert_fired"]
    with ledger.database.reading() as tx:
        [shown] = [one for one in views.show_alerts(tx)["alerts"] if one["name"] == name]
    assert (shown["status"], shown["severity"]) == ("firing", RULES[name].severity)
    assert shown["whatToDo"].startswith("arrakis ")
    assert shown["value"] > 0
    with capture_logs():
        repair()
    ledger.clock.advance(seconds=60)
    assert name not in look(ledger)
    assert transitions(ledger, name) == ["alert_fired", "alert_cleared"]


def test_a_campaign_is_named(ledger: Ledger) -> None:
    CONDITIONS["campaign_budget"](ledger)
    look(ledger)
    [[subject, message]] = ledger.rows("SELECT subject, message FROM alerts")
    assert subject in message
    assert "92.00 %" in message
    assert message.endswith(": May")


def clears_in(ledger: Ledger) -> int | None:
    with ledger.database.reading() as tx:
        shown = views.show_alerts(tx)["alerts"][0]
    assert (shown["name"], shown["status"]) == ("dlq_depth", "firing")
    return shown["clearsInSeconds"]


def test_it_clears_only_after_a_calm_minute(ledger: Ledger) -> None:
    repair = dead_letters_pile_up(ledger)
    assert look(ledger) == {"dlq_depth"}
    assert clears_in(ledger) is None
    repair()
    for left in (45, 30, 15):
        ledger.clock.advance(seconds=15)
        assert look(ledger) == {"dlq_depth"}
        assert clears_in(ledger) == left
    ledger.clock.advance(seconds=15)
    assert look(ledger) == set()


def test_two_workers_write_a_transition_once(ledger: Ledger) -> None:
    repair = dead_letters_pile_up(ledger)
    evaluate_at_once(ledger)
    assert transitions(ledger, "dlq_depth") == ["alert_fired"]
    repair()
    ledger.clock.advance(seconds=60)
    evaluate_at_once(ledger)
    assert transitions(ledger, "dlq_depth") == ["alert_fired", "alert_cleared"]


def evaluate_at_once(ledger: Ledger) -> None:
    barrier, moved = threading.Barrier(4), list[int]()

    def worker() -> None:
        own = Database(ledger.url, clock=ledger.clock)
        barrier.wait()
        moved.append(evaluate(own))
        own.dispose()

    with capture_logs():
        threads = [threading.Thread(target=worker) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(moved) == [0, 0, 0, 1]


def test_those_who_subscribed_are_told_of_each_transition_once(ledger: Ledger) -> None:
    ledger.sql(
        "INSERT INTO notification_endpoints (id, url, created_by) VALUES ('e1', 'https://x', 'a')"
    )
    ledger.sql(
        "INSERT INTO notification_subscriptions (event_type, endpoint_id)"
        " VALUES ('alert.fired', 'e1'), ('alert.cleared', 'e1')"
    )
    repair = dead_letters_pile_up(ledger)
    look(ledger)
    look(ledger)
    repair()
    ledger.clock.advance(seconds=60)
    look(ledger)
    told = ledger.rows("SELECT type, data FROM notification_events ORDER BY id")
    assert [kind for kind, _ in told] == ["alert.fired", "alert.cleared"]
    fired = json.loads(told[0][1])
    assert (fired["name"], fired["severity"], fired["status"]) == (
        "dlq_depth", "critical", "firing",
    )  # fmt: skip
    assert fired["message"] == "dlq_depth is 51, alert at > 50 pending dead letters"


def test_a_campaign_fires_above_ninety_percent_and_not_at_it(ledger: Ledger) -> None:
    desk = Campaigns(ledger)
    [wallet] = desk.wallets(1)
    at, above = (desk.active(per_wallet_cap_micro=10_000_000) for _ in range(2))
    desk.granted(at, Wish(wallet, 9_000_000))
    desk.granted(above, Wish(wallet, 9_000_001))
    look(ledger)
    assert ledger.rows("SELECT subject FROM alerts WHERE status = 'firing'") == [(above,)]


def test_each_networks_facilitator_and_node_is_told_apart(ledger: Ledger) -> None:
    """Those of one network are away, those of the other answer: only the former fire."""
    recorder = Recorder(ledger.database)
    with scripted(lambda _: answer(200, {})) as server, capture_logs():
        entries = [
            {"network": name, "payTo": PAY_TO, "facilitatorUrl": url, "rpcUrl": url}
            for name, url in (("eip155:8453", NOBODY), ("eip155:84532", server.url))
        ]
        setting = ProviderSettings(database_url=ledger.url, x402_networks=json.dumps(entries))
        cashier = make_cashier(setting, ledger.database, ledger.terms)
        asked = [
            *(partial(one.verify, read(payload()), TERMS) for one in cashier.facilitators.values()),
            *(one.head for one in cashier.chains.values()),
        ]
        for ask in asked * 5:
            with suppress(Unavailable):
                ask()
    recorder.flush()
    look(ledger)
    told = ledger.rows("SELECT subject, message FROM alerts WHERE status = 'firing' ORDER BY 1")
    assert [subject for subject, _ in told] == ["chain eip155:8453", "x402 eip155:8453"]
    assert all("eip155:8453" in message for _, message in told)


def test_limits_are_settings_and_a_senseless_one_is_ignored(ledger: Ledger) -> None:
    dead_letters_pile_up(ledger)
    with ledger.database.transaction() as tx:
        wanted = {"alert_dlq_depth": '{"above": 51}'}
        settings.change_settings(tx, OPERATOR, wanted, "more room").unwrap()
        refused = settings.change_settings(tx, OPERATOR, {"alert_dlq_depth": "51"}, "x")
    assert refused.error is not None
    assert refused.error.code == "setting_refused"
    assert look(ledger) == set()
    ledger.configure(alert_dlq_depth="51")
    assert look(ledger) == {"dlq_depth"}


def test_an_acknowledged_alert_fires_on_and_names_who_has_seen_it(ledger: Ledger) -> None:
    dead_letters_pile_up(ledger)
    with pytest.raises(NotFound):
        views.acknowledge(ledger.database, OPERATOR, "dlq_depth", reason="seen")
    look(ledger)
    views.acknowledge(ledger.database, OPERATOR, "dlq_depth", reason="seen")
    assert look(ledger) == {"dlq_depth"}
    with ledger.database.reading() as tx:
        first = views.show_alerts(tx)["alerts"][0]
        history = views.list_history(tx, limit=10)["history"]
    assert (first["name"], first["acknowledgedBy"]) == ("dlq_depth", "ops")
    assert [one["action"] for one in history] == [
        "alert_acknowledge", "alert_fired", "alert_acknowledge_refused",
    ]  # fmt: skip


def break_a_lot(ledger: Ledger) -> str:
    """Break the rule as nothing but a superuser can: where the constraint is not looked at."""
    ledger.is_sound_at_end = ledger.database.is_sqlite
    lot = ledger.mint(ledger.account(), 1_000)
    change(ledger, "UPDATE credit_lots SET available_micro = 999 WHERE id = :id", lot)
    return lot


def change(ledger: Ledger, statement: str, lot: str) -> None:
    if ledger.database.is_sqlite:
        with ledger.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            connection.execute(text(statement), {"id": lot})
            connection.commit()
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = OFF")
        return
    drop = "ALTER TABLE credit_lots DROP CONSTRAINT IF EXISTS ck_credit_lots_lot_invariant"
    with ledger.database.transaction() as tx:
        tx.run(text(drop))
        tx.run(text(statement), id=lot)


def test_a_broken_lot_stops_the_billing_once_and_clears_after_the_repair(ledger: Ledger) -> None:
    """Runbook 4: immediately set billing mode to shadow; an operator has the last word."""
    lot = break_a_lot(ledger)
    assert look(ledger) == {"lot_invariant"}
    assert mode(ledger) == "shadow"
    [[actor, details]] = ledger.rows(
        "SELECT actor_type, details FROM admin_audit_log WHERE action = 'mode_set'"
    )
    told: dict[str, Any] = json.loads(details)
    assert (actor, told["from"], told["to"]) == ("system", "live", "shadow")
    assert lot in told["reason"]
    with ledger.database.transaction() as tx:
        modes.set_mode(tx, OPERATOR, "live", reason="I know", is_forced=True).unwrap()
    ledger.clock.advance(seconds=15)
    assert look(ledger) == {"lot_invariant"}
    assert mode(ledger) == "live"
    change(ledger, "UPDATE credit_lots SET available_micro = 1000 WHERE id = :id", lot)
    ledger.clock.advance(seconds=60)
    assert look(ledger) == set()
    assert mode(ledger) == "live"
    change(ledger, "UPDATE credit_lots SET available_micro = 998 WHERE id = :id", lot)
    assert look(ledger) == {"lot_invariant"}
    assert mode(ledger) == "shadow"
    change(ledger, "UPDATE credit_lots SET available_micro = 1000 WHERE id = :id", lot)


@pytest.mark.parametrize(("wish", "after"), [("no", "live"), ("yes", "soft")])
def test_a_spike_of_402s_lowers_the_mode_if_that_is_wanted(
    ledger: Ledger, wish: str, after: str
) -> None:
    with ledger.database.transaction() as tx:
        settings.change_settings(tx, OPERATOR, {"demote_on_402_spike": wish}, "w").unwrap()
    reserves_are_refused(ledger)
    assert "refusals_402" in look(ledger)
    assert mode(ledger) == after
    with ledger.database.transaction() as tx:
        modes.set_mode(tx, OPERATOR, "shadow", reason="lower").unwrap()
    ledger.clock.advance(seconds=1)
    look(ledger)
    assert mode(ledger) == "shadow"
