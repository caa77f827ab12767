"""Settings as operators change them: by API and command, checked whole, audited (W53, W69)."""

import json
from typing import Any

import pytest

from shared.errors import Conflict
from shared.operations import settings
from shared.operations.audit import Actor
from shared.payments.policy import CreditPolicy, load_policy
from tests.command import arrakis, told
from tests.ledger import Ledger

OPERATOR = Actor("operator", "ops")


def change(ledger: Ledger, **values: str) -> Any:
    with ledger.database.transaction() as tx:
        return settings.change_settings(tx, OPERATOR, values, "because")


def audited(ledger: Ledger) -> list[tuple[str, dict[str, Any]]]:
    rows = ledger.rows("SELECT action, details FROM admin_audit_log ORDER BY id")
    return [(action, json.loads(details)) for action, details in rows]


def values_of(ledger: Ledger) -> list[tuple[Any, ...]]:
    return ledger.rows("SELECT key, value FROM billing_config ORDER BY key")


def test_a_change_is_audited_with_old_and_new(ledger: Ledger) -> None:
    told_ = change(ledger, reserve_ttl_seconds="600", tier_gold="9000000").unwrap()
    assert told_["changed"] == {
        "reserve_ttl_seconds": {"old": "300", "new": "600"},
        "tier_gold": {"old": None, "new": "9000000"},
    }
    [(action, details)] = audited(ledger)
    assert (action, details["reason"]) == ("config_set", "because")
    assert details["changes"] == told_["changed"]
    assert change(ledger, reserve_ttl_seconds="600").unwrap()["changed"] == {}
    assert len(audited(ledger)) == 1


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "a rate": ({"commons_rate_bps": "500"}, "revenue_rules_only"),
    "rates that add up": (
        {"commons_rate_bps": "600", "foundation_rate_bps": "2400"},
        "revenue_rules_only",
    ),
    "a life of nothing": ({"reserve_ttl_seconds": "0"}, "setting_refused"),
    "who receives a share": (
        {"ceiling_micro": "5000", "community_account_id": "sys-commons"},
        "revenue_rules_only",
    ),
    "prices that are no JSON": ({"model_prices": "{"}, "setting_refused"),
    "JSON without an end": ({"model_prices": "[" * 9_000}, "setting_refused"),
    "a multiplier below one": ({"safety_multiplier": "0.9"}, "setting_refused"),
    "a policy of its own": ({"partial_payment_policy": "keep"}, "setting_refused"),
    "a pack without a price": ({"credit_packs": '{"a": {}}'}, "setting_refused"),
    "a threshold in words": ({"four_eyes_threshold_micro": "much"}, "setting_refused"),
    "a threshold that is raised": ({"four_eyes_threshold_micro": "1000000001"}, "setting_refused"),
    "a cooldown in days": ({"revenue_rule_cooldown_hours": "2d"}, "setting_refused"),
    "a tier with a comma": ({"tier_gold": "1,5"}, "setting_refused"),
    "an unknown key": ({"reserve_ttl": "600"}, "unknown_setting"),
    "a bad name in a list": ({"rate_a b": "1"}, "unknown_setting"),
    "what the system writes": ({"last_reconciliation_at": "now"}, "setting_read_only"),
    "a generation": ({"reconciliation_generation": "7"}, "setting_read_only"),
    "the mode": ({"billing_mode": "soft"}, "mode_by_itself"),
    "a good one with a bad one": (
        {"ceiling_micro": "5000", "reserve_ttl_seconds": "-1"},
        "setting_refused",
    ),
}


def test_nobody_raises_what_he_may_mint_alone(ledger: Ledger) -> None:
    """The threshold goes down by the desk, and up by SQL only; a senseless one is mended."""
    change(ledger, four_eyes_threshold_micro="5000").unwrap()
    for higher in ("5001", "1000000000"):
        refused = change(ledger, four_eyes_threshold_micro=higher).error
        assert refused is not None
        assert "only be lowered" in refused.message
        assert audited(ledger)[-1][0] == "config_set_refused"
    ledger.configure(four_eyes_threshold_micro="a lot")
    change(ledger, four_eyes_threshold_micro="1000000000").unwrap()


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_whole_and_audited(ledger: Ledger, case: str) -> None:
    before = values_of(ledger)
    offered, code = REFUSED[case]
    outcome = change(ledger, **offered)
    assert outcome.error is not None
    assert outcome.error.code == code
    assert values_of(ledger) == before
    [(action, details)] = audited(ledger)
    assert (action, details["refusedBecause"]) == ("config_set_refused", code)


def test_nobody_changes_alone_how_charges_are_shared(ledger: Ledger) -> None:
    """Every key that the shares are read from is refused; the refusal says where to go (ADR 11)."""
    shared_by = [key for key in settings.KNOWN if key.endswith(("_rate_bps", "_account_id"))]
    assert len(shared_by) == 6
    for key in shared_by:
        refused = change(ledger, **{key: "1"}).error
        assert isinstance(refused, Conflict)
        assert refused.code == "revenue_rules_only"
        assert "/admin/billing/revenue-rules" in refused.message


def test_a_fault_that_sql_brought_is_told_and_mended(ledger: Ledger) -> None:
    ledger.configure(commons_rate_bps="501")
    with ledger.database.reading() as tx:
        assert "do not add up" in settings.list_settings(tx)["fault"]
    assert arrakis("config", "list", DATABASE_URL=ledger.url)[0] == 1
    assert change(ledger, ceiling_micro="5000").error is not None
    ledger.configure(commons_rate_bps="500")
    assert arrakis("config", "list", DATABASE_URL=ledger.url)[0] == 0


def test_every_row_is_known_and_every_seed_makes_sense(ledger: Ledger) -> None:
    with ledger.database.reading() as tx:
        listed = {one["key"]: one for one in settings.list_settings(tx)["settings"]}
    unknown = {key for key, one in listed.items() if one["meaning"] == "Nothing reads it"}
    assert unknown == set()
    assert listed.keys() == settings.KNOWN.keys()
    ledger.sql("DELETE FROM billing_config")
    with ledger.database.reading() as tx:
        found = settings.list_settings(tx)
        assert load_policy(tx) == CreditPolicy(packs={})
    assert found["fault"] is None
    assert all(one["isSeed"] for one in found["settings"])


def test_the_command_lists_gets_and_sets(ledger: Ledger) -> None:
    at = {"DATABASE_URL": ledger.url}
    code, output, complaint = arrakis(
        "config", "set", "reserve_ttl_seconds", "600", "ceiling_micro", "5000000",
        "--reason", "vote 12", **at,
    )  # fmt: skip
    assert (code, complaint) == (0, "")
    assert output.splitlines() == [
        "reserve_ttl_seconds: 300 -> 600",
        "ceiling_micro: 100000000000 -> 5000000",
    ]
    assert arrakis("config", "get", "reserve_ttl_seconds", **at) == (0, "600\n", "")
    code, found = told("config", "get", "reserve_ttl_seconds", **at)
    assert (code, found["unit"], found["isReadOnly"]) == (0, "seconds", False)
    [(_, details)] = audited(ledger)
    assert details["reason"] == "vote 12"
    code, _, complaint = arrakis("config", "set", "ceiling", "1", "--reason", "x", **at)
    assert (code, "unknown_setting" in complaint) == (2, True)
    assert arrakis("config", "set", "ceiling_micro", "--reason", "x", **at)[0] == 2
    assert arrakis("config", "set", "ceiling_micro", "5", **at)[0] == 2
    assert arrakis("config", "get", "nothing", **at)[0] == 1


def test_the_admin_api_does_the_same_and_running_processes_obey(
    ledger: Ledger, api_of: Any
) -> None:
    api = api_of(ledger.url)
    reader, path = api.admin(scopes=["billing:read"]), "/admin/billing/config"
    body = {"values": {"reserve_ttl_seconds": "900"}, "reason": "slow models"}
    assert api.patch(path, body, headers=reader).status_code == 403
    assert api.patch(path, {**body, "reason": " "}, headers=api.admin()).status_code == 400
    assert api.patch(path, {"values": {}, "reason": "x"}, headers=api.admin()).status_code == 400
    changed = api.patch(path, body, headers=api.admin())
    assert (changed.status_code, changed.json()["changed"]["reserve_ttl_seconds"]["new"]) == (
        200,
        "900",
    )
    refused = api.patch(
        path, {"values": {"commons_rate_bps": "1"}, "reason": "x"}, headers=api.admin()
    )
    assert (refused.status_code, refused.json()["code"]) == (409, "revenue_rules_only")
    listed = api.get(path, headers=reader).json()["settings"]
    assert {"reserve_ttl_seconds": "900", "commons_rate_bps": "500"}.items() <= {
        one["key"]: one["value"] for one in listed
    }.items()
    actions = api.get("/admin/billing/audit?targetType=setting", headers=reader).json()["audit"]
    assert [one["action"] for one in actions] == ["config_set_refused", "config_set"]
    assert actions[1]["actorId"] == api.subject
