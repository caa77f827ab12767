"""Large mints through the front doors: the admin API's scopes and answers, and the command."""

import json
from dataclasses import replace
from typing import Any

import pytest
import requests

from tests.command import arrakis, told
from tests.front_door import balance, breaches, rows
from tests.harness import Api, unique
from tests.ledger import Ledger

PROPOSALS = "/admin/billing/mint-proposals"
LARGE = "2000000000"
EVERY_SCOPE = ("billing:read", "billing:write", "billing:approve")


@pytest.fixture
def desk(api: Api) -> Api:
    """The API with a proposer of this test's own."""
    return replace(api, subject=unique("ada"))


def propose(desk: Api, account: str, key: str | None = None) -> requests.Response:
    headers = desk.admin() | ({"Idempotency-Key": key} if key else {})
    return desk.post(
        f"/admin/billing/accounts/{account}/mint", {"amountMicro": LARGE}, headers=headers
    )


def ask(
    desk: Api, method: str, path: str, body: Any = None, *scopes: str, by: str | None = None
) -> requests.Response:
    headers = desk.admin(sub=by or unique("bob"), scopes=list(scopes or EVERY_SCOPE))
    return requests.request(
        method, f"{desk.url}{PROPOSALS}{path}", json=body, headers=headers, timeout=30
    )


def test_a_large_mint_is_answered_202_until_it_is_decided(desk: Api) -> None:
    account, key = desk.funded_account(0), unique("key")
    first, again = propose(desk, account, key), propose(desk, account, key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert (again.content, again.headers["Idempotent-Replay"]) == (first.content, "true")
    body = first.json()
    assert (body["code"], body["status"]) == ("four_eyes_required", "pending")
    assert body["lookUp"] == f"{PROPOSALS}/{body['proposalId']}"
    assert body["approve"] == f"{PROPOSALS}/{body['proposalId']}/approve"
    approve = f"/{body['proposalId']}/approve"
    own = ask(desk, "POST", approve, by=desk.subject)
    assert (own.status_code, own.json()["code"]) == (403, "four_eyes_violation")
    bob = unique("bob")
    done, repeated = (ask(desk, "POST", approve, by=bob) for _ in range(2))
    assert (done.status_code, repeated.content) == (200, done.content)
    assert repeated.headers["Idempotent-Replay"] == "true"
    late = ask(desk, "POST", approve)
    assert (late.status_code, late.json()["code"]) == (409, "mint_proposal_state")
    last = propose(desk, account, key)
    assert (last.status_code, last.json()["status"], last.json()["approve"]) == (
        200,
        "approved",
        None,
    )
    assert balance(desk, account) == (int(LARGE), 0, 0)
    assert ask(desk, "GET", f"/{body['proposalId']}").json() == done.json()
    assert breaches(desk) == []


def test_each_step_needs_its_scope(desk: Api) -> None:
    """Contract 3."""
    proposal = propose(desk, desk.funded_account(0)).json()["proposalId"]
    steps = [
        ("GET", "", None, "billing:read"),
        ("GET", f"/{proposal}", None, "billing:read"),
        ("POST", f"/{proposal}/reject", {}, "billing:approve"),
        ("POST", f"/{proposal}/approve", None, "billing:approve"),
    ]
    for method, path, body, scope in steps:
        others = [name for name in EVERY_SCOPE if name != scope]
        refused = ask(desk, method, path, body, *others)
        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope"), path
        assert ask(desk, method, path, body, scope).status_code in (200, 400), path
    refused = ask(desk, "POST", f"/{proposal}/withdraw", None, "billing:read", "billing:approve")
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")


def test_who_may_not_change_something_and_tries_is_audited(desk: Api) -> None:
    """Contract 5: refusals are audited too; the request's id stands in for a correlation id."""
    path, carl = f"{PROPOSALS}/{unique('proposal')}/approve", unique("carl")
    refused = ask(desk, "POST", path.removeprefix(PROPOSALS), None, "billing:read", by=carl)
    assert refused.status_code == 403
    [(action, target, details)] = rows(
        desk, "SELECT action, target_id, details FROM admin_audit_log WHERE actor_id = :c", c=carl
    )
    assert (action, target) == ("admin_request_refused", path)
    facts = json.loads(details)
    assert facts["refusedBecause"] == "missing_scope"
    assert facts["correlationId"] == refused.headers["X-Request-Id"]


def test_a_proposal_is_rejected_withdrawn_listed_and_looked_up(desk: Api) -> None:
    account = desk.funded_account(0)
    first, second = (propose(desk, account).json()["proposalId"] for _ in range(2))
    assert ask(desk, "POST", f"/{first}/reject", {"reason": " "}).status_code == 400
    rejected = ask(desk, "POST", f"/{first}/reject", {"reason": "no such prize"})
    assert (rejected.status_code, rejected.json()["status"]) == (200, "rejected")
    foreign = ask(desk, "POST", f"/{second}/withdraw")
    assert (foreign.status_code, foreign.json()["code"]) == (403, "not_the_proposer")
    taken = ask(desk, "POST", f"/{second}/withdraw", by=desk.subject)
    assert (taken.status_code, taken.json()["status"]) == (200, "withdrawn")
    of_account = f"?accountId={account}"
    page = ask(desk, "GET", f"{of_account}&limit=1").json()
    assert [one["proposalId"] for one in page["mintProposals"]] == [first]
    rest = ask(desk, "GET", f"{of_account}&cursor={page['nextCursor']}").json()
    assert ([one["proposalId"] for one in rest["mintProposals"]], rest["nextCursor"]) == (
        [second],
        None,
    )
    assert ask(desk, "GET", f"{of_account}&status=pending").json()["mintProposals"] == []
    assert ask(desk, "GET", "?status=open").status_code == 400
    missing = ask(desk, "GET", f"/{unique('proposal')}")
    assert (missing.status_code, missing.json()["code"]) == (404, "mint_proposal_not_found")


def test_operators_decide_by_command_and_borrow_no_name(ledger: Ledger) -> None:
    account, at = ledger.account(), {"DATABASE_URL": ledger.url}
    code, made = told("mint", account, LARGE, "--yes", **at)
    assert (code, made["status"]) == (0, "pending")
    proposal = made["proposalId"]
    borrowed = {"USER": "bob", "LOGNAME": "bob", "USERNAME": "bob"}
    code, _, complaint = arrakis("mint-proposals", "approve", proposal, "--yes", **borrowed, **at)
    assert (code, "four_eyes_violation" in complaint) == (1, True)
    assert ledger.balance(account) == (0, 0, 0)
    ledger.sql("UPDATE mint_proposals SET proposed_by = 'somebody else'")
    code, output, _ = arrakis("mint-proposals", "approve", proposal, "--yes", **at)
    assert code == 0
    assert f"was approved by {made['proposedBy']}: lot {proposal}." in output
    assert ledger.balance(account) == (int(LARGE), 0, 0)
    code, found = told("mint-proposals", "list", "--status", "approved", **at)
    assert (code, [one["lotId"] for one in found["mintProposals"]]) == (0, [proposal])
