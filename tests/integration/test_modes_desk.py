"""The billing mode: up with the runbook's evidence, down at any time, always audited (R4)."""

import json
from typing import Any, get_args

import pytest

from shared.ledger.terms import Mode
from shared.operations import modes, rehearsal
from shared.operations.audit import Actor
from tests.command import arrakis, told
from tests.harness import unique, wait_until
from tests.ledger import Ledger

OPERATOR = Actor("operator", "ops")


def set_mode(ledger: Ledger, mode: Mode, **more: Any) -> Any:
    with ledger.database.transaction() as tx:
        return modes.set_mode(tx, OPERATOR, mode, reason="because", **more)


def items(ledger: Ledger) -> dict[str, dict[str, Any]]:
    with ledger.database.reading() as tx:
        return {one["id"]: one for one in modes.show_readiness(tx)["items"]}


def live_through(ledger: Ledger, mode: str, days: int, *, lost: int = 0, cost: int = 5) -> None:
    """Let days pass in *mode* with ten cycles each; *lost* holds of the last are never ended."""
    ledger.configure(billing_mode=mode)
    account = ledger.funded(1_000_000)
    for _ in range(days):
        for _ in range(10):
            ledger.finalize(ledger.reserve(account, 10), cost)
        ledger.clock.advance(hours=24)
    for _ in range(lost):
        ledger.reserve(account, 10)
    ledger.clock.advance(hours=1)
    ledger.sweep()


def audited(ledger: Ledger) -> list[tuple[str, dict[str, Any]]]:
    rows = ledger.rows("SELECT action, details FROM admin_audit_log ORDER BY id")
    return [(action, json.loads(details)) for action, details in rows]


def test_an_empty_system_may_not_go_up_unless_it_is_forced_with_a_reason(ledger: Ledger) -> None:
    ledger.configure(billing_mode="shadow")
    outcome = set_mode(ledger, "soft")
    assert outcome.error is not None
    assert outcome.error.code == "mode_not_ready"
    assert [(one["id"], one["met"]) for one in outcome.error.details["items"]] == [
        ("shadow_days", "no"),
        ("shadow_error_rate", "unknown"),
        ("shadow_402", "no"),
        ("shadow_refund", "no"),
        ("shadow_dlq", "no"),
    ]
    assert ledger.rows("SELECT value FROM billing_config WHERE key = 'billing_mode'") == [
        ("shadow",)
    ]
    forced = set_mode(ledger, "live", is_forced=True).unwrap()
    assert (forced["mode"], forced["before"]) == ("live", "shadow")
    [(first, refused), (second, done)] = audited(ledger)
    assert (first, refused["refusedBecause"]) == ("mode_set_refused", "mode_not_ready")
    assert (second, done["force"], done["from"], done["to"]) == ("mode_set", True, "shadow", "live")
    assert set(done["unmet"]) == {
        "shadow_days", "shadow_error_rate", "soft_days", "soft_overrun_rate",
        *(f"{mode}_{check}" for mode in get_args(Mode) for check in ("402", "refund", "dlq")),
    }  # fmt: skip


@pytest.mark.parametrize("before", get_args(Mode))
@pytest.mark.parametrize("after", get_args(Mode))
def test_going_down_needs_no_evidence(ledger: Ledger, before: Mode, after: Mode) -> None:
    ledger.configure(billing_mode=before)
    outcome = set_mode(ledger, after)
    ranks = get_args(Mode)
    assert (outcome.error is None) is (ranks.index(after) <= ranks.index(before))


def test_seven_clean_days_of_shadow_open_soft(ledger: Ledger) -> None:
    live_through(ledger, "shadow", 6)
    assert items(ledger)["shadow_days"]["met"] == "no"
    live_through(ledger, "shadow", 1)
    found = items(ledger)
    assert (found["shadow_days"]["value"], found["shadow_days"]["met"]) == ("7", "yes")
    assert found["shadow_error_rate"]["figures"] == {"bad": 0, "of": 70}
    assert found["shadow_error_rate"]["value"] == "0.00 %"
    rehearsal.rehearse(ledger.database, ledger.terms, OPERATOR, ["shadow"])
    assert set_mode(ledger, "soft").unwrap()["mode"] == "soft"


def test_one_lost_hold_in_a_hundred_is_too_many(ledger: Ledger) -> None:
    live_through(ledger, "shadow", 10, lost=1)
    found = items(ledger)["shadow_error_rate"]
    assert (found["figures"], found["met"]) == ({"bad": 1, "of": 101}, "yes")
    live_through(ledger, "shadow", 0, lost=1)
    found = items(ledger)["shadow_error_rate"]
    assert (found["value"], found["met"]) == ("1.96 %", "no")


def test_live_asks_for_three_days_of_soft_without_overruns_and_for_rehearsals(
    ledger: Ledger,
) -> None:
    live_through(ledger, "soft", 3)
    rehearsal.rehearse(ledger.database, ledger.terms, OPERATOR, ["soft"])
    outcome = set_mode(ledger, "live")
    assert outcome.error is not None
    assert [one["id"] for one in outcome.error.details["items"]] == [
        "live_402", "live_refund", "live_dlq",
    ]  # fmt: skip
    rehearsal.rehearse(ledger.database, ledger.terms, OPERATOR, ["live"])
    assert set_mode(ledger, "live").unwrap()["mode"] == "live"
    live_through(ledger, "soft", 1, cost=11)
    found = items(ledger)["soft_overrun_rate"]
    assert (found["figures"], found["met"]) == ({"bad": 10, "of": 40}, "no")
    ledger.clock.advance(hours=31 * 24)
    found = items(ledger)
    assert (found["soft_days"]["value"], found["soft_overrun_rate"]["met"]) == ("0", "unknown")


def test_a_dead_letter_that_waits_stops_the_way_up(ledger: Ledger) -> None:
    live_through(ledger, "shadow", 7)
    rehearsal.rehearse(ledger.database, ledger.terms, OPERATOR, ["shadow"])
    ledger.sql(
        "INSERT INTO billing_dlq (id, operation_type, payload, status)"
        " VALUES ('dlq_1', 'webhook', '{}', 'manual_review')"
    )
    outcome = set_mode(ledger, "soft")
    assert outcome.error is not None
    assert [one["id"] for one in outcome.error.details["items"]] == ["dead_letters_worked_off"]
    assert set_mode(ledger, "soft", is_forced=True).error is None


def test_the_command_shows_checks_and_sets(ledger: Ledger) -> None:
    at = {"DATABASE_URL": ledger.url}
    ledger.configure(billing_mode="shadow")
    assert told("mode", "show", **at)[1]["mode"] == "shadow"
    code, output, _ = arrakis("mode", "readiness", **at)
    assert (code, "Not ready for: soft, live." in output) == (1, True)
    code, output, complaint = arrakis("mode", "set", "soft", "--reason", "now", "--yes", **at)
    assert (code, output, "mode_not_ready" in complaint) == (1, "", True)
    assert arrakis("mode", "set", "soft", "--force", "--yes", **at)[0] == 2
    assert arrakis("mode", "set", "odd", "--reason", "x", **at)[0] == 2
    forced = ("mode", "set", "soft", "--reason", "now", "--force")
    assert arrakis(*forced, **at)[0] == 2  # nobody can be asked
    done = arrakis(*forced, "--yes", **at)
    assert done == (0, "The mode is soft.\n", "")
    assert told("mode", "set", "shadow", "--reason", "back", **at)[1]["isChanged"] is True
    assert [action for action, _ in audited(ledger)] == ["mode_set_refused", "mode_set", "mode_set"]


def test_the_admin_api_refuses_with_the_items_and_a_running_process_obeys(
    ledger: Ledger, api_of: Any
) -> None:
    ledger.configure(billing_mode="shadow")
    api = api_of(ledger.url)
    reader, path = api.admin(scopes=["billing:read"]), "/admin/billing/mode"
    assert api.get(f"{path}/readiness", headers=reader).json()["ready"] == {
        "shadow": True,
        "soft": False,
        "live": False,
    }
    wanted = {"mode": "live", "reason": "go"}
    assert api.post(path, wanted, headers=reader).status_code == 403
    refused = api.post(path, wanted, headers=api.admin())
    assert (refused.status_code, refused.json()["code"]) == (409, "mode_not_ready")
    assert refused.json()["details"]["items"][0]["id"] == "shadow_days"
    for wrong in ({"mode": "live"}, {"mode": "odd", "reason": "x"}, {**wanted, "force": "yes"}):
        assert api.post(path, wrong, headers=api.admin()).status_code == 400
    assert api.post(path, {**wanted, "force": True}, headers=api.admin()).status_code == 200
    assert api.get(path, headers=reader).json()["mode"] == "live"
    account = ledger.account()
    ledger.clock.advance(seconds=1)
    wait_for_live(api, account)


def wait_for_live(api: Any, account: str) -> None:
    def is_refused() -> bool:
        body = {"accountId": account, "estimatedCostMicro": "10", "requestId": unique("r")}
        return bool(api.internal("reserve", body).status_code == 402)

    wait_until("the mode in force", is_refused, seconds=5)
