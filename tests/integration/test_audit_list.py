"""The audit log as operators read it: filtered, newest first, page by page (W69)."""

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
