"""The audit log as operators read it: filtered, newest first, page by page (W69)."""

import json
from datetime import timedelta
from typing import Any

from shared.clock import to_wire
from shared.operations import audit
from shared.operations.audit import Actor, AuditFilter
from tests.command import arrakis, told
from tests.ledger import START, Ledger

ANN, BOB = Actor("admin", "ann", address="10.0.0.1"), Actor("operator", "bob")


def write(ledger: Ledger) -> None:
    """Let two people do ten things, a minute apart."""
    for number in range(10):
        actor = ANN if number % 2 else BOB
        with ledger.database.transaction() as tx:
            audit.record(
                tx, actor, f"did_{number % 3}", target_type="thing", target_id=f"t{number}",
                details={"number": number},
            )  # fmt: skip
        ledger.clock.advance(seconds=60)


def targets(ledger: Ledger, **wanted: Any) -> list[str]:
    with ledger.database.reading() as tx:
        return [row["targetId"] for row in audit.list_rows(tx, AuditFilter(**wanted))["audit"]]


def test_rows_come_newest_first_and_every_page_follows_the_one_before(ledger: Ledger) -> None:
    write(ledger)
    seen, cursor = [], None
    while True:
        with ledger.database.reading() as tx:
            page = audit.list_rows(tx, AuditFilter(limit=4, before=cursor))
        seen += [row["targetId"] for row in page["audit"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert seen == [f"t{number}" for number in reversed(range(10))]


def test_every_filter_narrows_the_list(ledger: Ledger) -> None:
    write(ledger)
    assert targets(ledger, actor_id="ann") == ["t9", "t7", "t5", "t3", "t1"]
    assert targets(ledger, action="did_0") == ["t9", "t6", "t3", "t0"]
    assert targets(ledger, target_type="thing", target_id="t4") == ["t4"]
    assert targets(ledger, target_type="other") == []
    since, until = START + timedelta(minutes=2), START + timedelta(minutes=4)
    assert targets(ledger, since=since, until=until) == ["t3", "t2"]
    assert targets(ledger, actor_id="ann", action="did_0") == ["t9", "t3"]


def test_command_and_api_tell_the_same(ledger: Ledger, api_of: Any) -> None:
    write(ledger)
    at = {"DATABASE_URL": ledger.url}
    code, found = told(
        "audit", "list", "--actor", "ann", "--limit", "2", "--since", "2026-03-15 14:31:00", **at
    )
    assert (code, [row["targetId"] for row in found["audit"]]) == (0, ["t9", "t7"])
    rest = told("audit", "list", "--actor", "ann", "--cursor", found["nextCursor"], **at)[1]
    assert [row["targetId"] for row in rest["audit"]] == ["t5", "t3", "t1"]
    api = api_of(ledger.url)
    reader, path = api.admin(scopes=["billing:read"]), "/admin/billing/audit"
    page = api.get(path, headers=reader, params={"actor": "ann", "limit": 2}).json()
    assert page["audit"] == found["audit"]
    assert page["audit"][0]["details"] == {"number": 9, "ip": "10.0.0.1"}
    until = to_wire(START + timedelta(minutes=1))
    [first] = api.get(path, headers=reader, params={"until": until}).json()["audit"]
    assert (first["targetId"], first["actorType"]) == ("t0", "operator")
    for wrong in ({"limit": 101}, {"since": "yesterday"}, {"since": "2026-03-15T14:31:00"}):
        assert api.get(path, headers=reader, params=wrong).status_code == 400
    code, output, _ = arrakis("audit", "list", "--target-id", "t4", **at)
    assert (code, "did_1" in output, output.count("\n")) == (0, True, 2)
    assert arrakis("audit", "list", "--target-id", "none", **at)[1] == "Nothing was done.\n"


def test_a_change_that_cannot_be_read_is_audited_as_refused(ledger: Ledger, api_of: Any) -> None:
    api = api_of(ledger.url)
    late = {"name": "May", "campaignType": "loyalty", "budgetMicro": "5"}
    base, admin = "/admin/billing", api.admin()
    for path, body, status, code in (
        ("/campaigns", {"name": "May"}, 400, "validation_error"),
        ("/campaigns", {**late, "expiresAt": "2020-01-01T00:00:00Z"}, 400, "invalid_expires_at"),
        ("/accounts/nobody/mint", {"amountMicro": "-1"}, 400, "validation_error"),
        ("/tokens/revoke", {"jti": "", "reason": "x"}, 400, "validation_error"),
    ):
        refused = api.post(base + path, body, headers=admin)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    versioned = admin | {"X-Protocol-Version": "9.0.0"}
    assert api.post(f"{base}/config", {}, headers=versioned).status_code == 405
    revoke = {"jti": "a", "reason": "x"}
    assert api.post(f"{base}/tokens/revoke", revoke, headers=versioned).status_code == 422
    assert api.get(f"{base}/audit", headers=admin, params={"limit": "x"}).status_code == 400
    rows = ledger.rows("SELECT action, target_id, details FROM admin_audit_log ORDER BY id")
    told = [(action, target, json.loads(found)["refusedBecause"]) for action, target, found in rows]
    routed = "admin_request_refused"
    assert [one for one in told if one[0] == routed] == [
        (routed, f"{base}/campaigns", "validation_error"),
        (routed, f"{base}/accounts/nobody/mint", "validation_error"),
        (routed, f"{base}/tokens/revoke", "validation_error"),
        (routed, f"{base}/tokens/revoke", "unsupported_protocol_version"),
    ]
    assert [(action, code) for action, _, code in told if action != routed] == [
        ("campaign_create_refused", "invalid_expires_at")
    ]
