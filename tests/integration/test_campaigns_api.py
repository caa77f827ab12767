"""Campaigns over HTTP and by command: behaviours 110, 137, 14.3, contract 5."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.campaigns.lists import Wish
from shared.clock import system_clock
from tests import command
from tests.campaigns import Campaigns, M
from tests.harness import Api, unique
from tests.ledger import Ledger

BODY = {"name": "Spring", "campaignType": "promotional", "budgetMicro": "10000000"}


class Desk:
    """The admin API of one database's campaigns; each request as an admin of its own."""

    def __init__(self, ledger: Ledger, api: Api) -> None:
        self.rows = Campaigns(ledger)
        self.api = api

    def ask(self, method: str, path: str = "", body: Any = None, **more: Any) -> requests.Response:
        headers = self.api.admin(sub=unique("admin")) | more.pop("headers", {})
        return requests.request(
            method,
            f"{self.api.url}/admin/billing/campaigns{path}",
            json=body,
            headers=headers,
            timeout=40,
            **more,
        )

    def made(self, **more: Any) -> str:
        made = self.ask("POST", "", {**BODY, **more})
        assert made.status_code == 201, made.text
        return str(made.json()["campaignId"])

    def active(self, **more: Any) -> str:
        campaign = self.made(**more)
        assert self.ask("POST", f"/{campaign}/activate").status_code == 200
        return campaign

    def grant(self, campaign: str, grants: Any, **more: Any) -> requests.Response:
        return self.ask("POST", f"/{campaign}/grants/batch", {"grants": grants}, **more)


@pytest.fixture
def desk(ledger: Ledger, api_of: Callable[[str], Api]) -> Desk:
    ledger.clock.now = system_clock()
    return Desk(ledger, api_of(ledger.url))


def wishes(wallets: list[str], amount: int = M) -> list[dict[str, str]]:
    return [{"accountId": wallet, "amountMicro": str(amount)} for wallet in wallets]


def test_a_campaign_is_drafted_changed_run_and_told(desk: Desk) -> None:
    campaign = desk.made(expiresAt="2099-01-01T00:00:00Z", poolId="campaign:spring")
    changed = desk.ask("PATCH", f"/{campaign}", {"perWalletCapMicro": "3000000", "poolId": None})
    told = changed.json()
    assert (changed.status_code, told["perWalletCapMicro"], told["poolId"]) == (
        200,
        "3000000",
        None,
    )
    assert told["expiresAt"] == "2099-01-01T00:00:00.000Z"
    for verb, status in (("activate", "active"), ("pause", "paused"), ("activate", "active")):
        assert desk.ask("POST", f"/{campaign}/{verb}").json()["status"] == status
    refused = desk.ask("PATCH", f"/{campaign}", {"name": "Late"})
    assert (refused.status_code, refused.json()["code"]) == (409, "campaign_not_draft")
    assert desk.ask("POST", f"/{campaign}/complete").json()["status"] == "completed"
    refused = desk.ask("POST", f"/{campaign}/activate")
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_campaign_transition")
    assert desk.ask("GET", f"/{campaign}").json()["status"] == "completed"
    listed = desk.ask("GET", "?status=completed&limit=1").json()
    assert [one["campaignId"] for one in listed["campaigns"]] == [campaign]
    assert desk.ask("GET", "/none").status_code == 404
    assert desk.ask("GET", "?status=odd").status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"budgetMicro": "0"},
        {"budgetMicro": 5},
        {"campaignType": "lottery"},
        {"name": " "},
        {"expiresAt": "2020-01-01T00:00:00Z"},
        {"expiresAt": "tomorrow"},
        {"poolId": "odd pool"},
        {"grantConfig": {"amountMicro": "-1"}},
        {"grantFormula": "tiered", "grantConfig": {"tiers": []}},
        {"grantFormula": "proportional_loss", "grantConfig": {"potMicro": "10000001"}},
    ],
)
def test_a_campaign_that_makes_no_sense_is_refused(desk: Desk, changes: dict[str, Any]) -> None:
    assert desk.ask("POST", "", {**BODY, **changes}).status_code == 400
    assert desk.rows.ledger.rows("SELECT 1 FROM credit_campaigns") == []


def test_a_batch_has_the_statuses_of_behaviour_137(desk: Desk) -> None:
    draft, campaign = desk.made(), desk.active(budgetMicro="5000000", perWalletCapMicro="3000000")
    one, two, three = desk.rows.wallets(3)
    assert desk.grant(draft, wishes([one])).status_code == 409
    assert desk.grant("none", wishes([one])).status_code == 404
    for amount, words in ((4 * M, "exceeds per-wallet cap"), (3 * M, "exceed budget")):
        refused = desk.grant(campaign, wishes([one, two] if amount == 3 * M else [one], amount))
        assert (refused.status_code, refused.json()["error"]) == (422, "Budget/Cap Exceeded")
        assert words in refused.json()["message"]
    for bad in ([], wishes([one]) * 1001, [{"accountId": one, "amountMicro": "abc"}], "x"):
        assert desk.grant(campaign, bad).status_code == 400
    done = desk.grant(campaign, [*wishes([one, two]), *wishes(["nobody"])])
    told = done.json()
    assert (done.status_code, told["totalGranted"], told["totalFailed"]) == (201, 2, 1)
    again = desk.grant(campaign, wishes([one, two]))
    assert (again.status_code, again.json()["totalAmountMicro"]) == (201, "0")
    assert desk.grant(campaign, wishes([three], 3 * M)).status_code == 201
    assert desk.rows.spent(campaign) == 5 * M
    reader = desk.api.admin(scopes=["billing:read"])
    path = f"/admin/billing/campaigns/{campaign}/grants/batch"
    assert desk.api.post(path, {"grants": wishes([one])}, headers=reader).status_code == 403


def test_a_longer_batch_is_a_job_and_can_be_waited_for(desk: Desk) -> None:
    campaign, wallets = desk.active(), desk.rows.wallets(101)
    key = {"Idempotency-Key": "list-1"}
    taken = desk.grant(campaign, wishes(wallets, 1000), headers=key)
    assert (taken.status_code, taken.json()["status"]) == (202, "queued")
    same = desk.grant(campaign, wishes(wallets, 1000), headers=key)
    assert (same.status_code, same.headers["Idempotent-Replay"]) == (202, "true")
    assert same.json()["batchId"] == taken.json()["batchId"]
    asked: list[requests.Response] = []
    waiting = threading.Thread(
        target=lambda: asked.append(
            desk.grant(campaign, wishes(wallets, 1000), headers={**key, "Prefer": "wait=20"})
        )
    )
    waiting.start()
    desk.rows.ledger.clock.advance(seconds=60)
    desk.rows.work_all()
    waiting.join(30)
    assert (asked[0].status_code, asked[0].json()["status"]) == (201, "completed")
    looked = desk.api.get(taken.headers["Location"], headers=desk.api.admin(sub="x"))
    assert (looked.json()["done"], looked.json()["totalGranted"]) == (101, 101)
    listed = desk.ask("GET", f"/{campaign}/batches").json()["batches"]
    assert [one["batchId"] for one in listed] == [taken.json()["batchId"]]
    assert desk.ask("GET", f"/{campaign}/batches/none").status_code == 404


def test_lists_come_as_csv_or_json(desk: Desk) -> None:
    campaign, wallets = desk.active(), desk.rows.wallets(2000)
    lines = ["accountId,amountMicro", *(f"{wallet},1000" for wallet in wallets)]
    path = f"/{campaign}/grants/list"
    csv = {"Content-Type": "text/csv"}
    taken = desk.ask("POST", path, data="\r\n".join(lines), headers=csv)
    assert (taken.status_code, taken.json()["total"]) == (202, 2000)
    as_json = desk.ask("POST", path, {"grants": wishes(wallets, 1000)})
    assert (as_json.status_code, as_json.json()["total"]) == (202, 2000)
    desk.rows.ledger.clock.advance(seconds=60)
    desk.rows.work_all()
    assert desk.rows.spent(campaign) == 2_000_000
    for bad in (
        "",
        "accountId\n",
        "wallet\na\n",
        "accountId,accountId\na,b\n",
        "accountId,amountMicro\na\n",
        "accountId,amountMicro\na,1.5\n",
        "accountId,amountMicro\na,0\n",
        "accountId,amountMicro\n,5\n",
        'accountId,amountMicro\n"a,5\n',
        f"accountId,metric\na,{'9' * 201}\n",
        b"accountId\n\xff\n",
    ):
        refused = desk.ask("POST", path, data=bad, headers=csv)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_csv"), bad
    too_long = desk.ask("POST", path, data="accountId\n" + "a\n" * 100_001, headers=csv)
    assert (too_long.status_code, too_long.json()["code"]) == (400, "list_too_long")


def test_a_formula_is_previewed_and_then_granted(desk: Desk) -> None:
    figures = {"grantFormula": "proportional_loss", "grantConfig": {"potMicro": "1000000"}}
    campaign = desk.active(**figures)
    wallets = desk.rows.wallets(3)
    grants = [{"accountId": w, "formulaInput": {"lossMicro": "1"}} for w in wallets]
    seen = desk.ask("POST", f"/{campaign}/grants/preview", {"grants": grants})
    assert [g["amountMicro"] for g in seen.json()["grants"]] == ["333334", "333333", "333333"]
    body = {"grants": grants, "grantFormula": "fixed_amount", "grantConfig": {"amountMicro": "5"}}
    tried = desk.ask("POST", f"/{campaign}/grants/preview", body)
    assert tried.json()["totalAmountMicro"] == "15"
    del body["grantConfig"]
    assert desk.ask("POST", f"/{campaign}/grants/preview", body).status_code == 400
    assert desk.rows.spent(campaign) == 0
    assert desk.grant(campaign, grants).json()["totalAmountMicro"] == "1000000"
    found = desk.ask("GET", f"/{campaign}/grants?status=granted&limit=2").json()
    assert [g["formulaInput"] for g in found["grants"]] == [{"lossMicro": "1"}] * 2
    rest = desk.ask("GET", f"/{campaign}/grants?cursor={found['nextCursor']}").json()
    assert len(rest["grants"]) == 1
    one = desk.ask("GET", f"/{campaign}/grants?accountId={wallets[1]}").json()["grants"]
    assert [g["amountMicro"] for g in one] == ["333333"]


def test_a_failed_grant_is_retried_over_http(desk: Desk) -> None:
    campaign, wallets = desk.active(), desk.rows.wallets(1)
    desk.rows.ledger.configure(ceiling_micro="1")
    failed = desk.rows.granted(campaign, Wish(wallets[0], M))["grants"][0]
    desk.rows.ledger.configure(ceiling_micro=str(100 * M))
    path = f"/{campaign}/grants/{failed['grantId']}/retry"
    told = desk.ask("POST", path)
    assert (told.status_code, told.json()["status"]) == (200, "granted")
    assert told.json()["lotId"] is not None
    assert desk.ask("POST", f"/{campaign}/grants/none/retry").status_code == 404


def arrakis(desk: Campaigns, *arguments: str) -> tuple[int, str]:
    at = {"DATABASE_URL": desk.ledger.url}
    code, output, complaint = command.arrakis("campaign", *arguments, **at)
    return code, output or complaint


def test_the_command_runs_a_campaign_without_workers(ledger: Ledger, tmp_path: Path) -> None:
    desk = Campaigns(ledger)
    ledger.clock.now = system_clock()
    wallets = desk.wallets(3)
    config = '{"amountMicro": "1000000"}'
    drafting = ["create", "Spring", "--budget-micro", "3000000", "--config", config]
    status, said = arrakis(desk, *drafting, "--json")
    campaign = json.loads(said)["campaignId"]
    assert status == 0
    assert arrakis(desk, "activate", campaign)[0] == 2  # nobody can be asked
    assert arrakis(desk, "activate", campaign, "--yes")[0] == 0
    listed = tmp_path / "wallets.csv"
    listed.write_text("\n".join(["accountId", *wallets]))
    status, said = arrakis(desk, "preview", campaign, str(listed))
    assert (status, "3 new grants, $3.00; nothing was changed." in said) == (0, True)
    assert desk.spent(campaign) == 0
    status, said = arrakis(desk, "grant", campaign, str(listed))
    assert (status, "completed: 3 of 3; 3 granted" in said) == (0, True)
    assert desk.spent(campaign) == 3 * M
    status, said = arrakis(desk, "grant", campaign, str(listed), "--json")
    assert (status, json.loads(said)["totalExisting"]) == (0, 3)
    status, said = arrakis(desk, "batches", campaign)
    assert (status, said.count("completed")) == (0, 2)
    batch = said.split()[0]
    assert arrakis(desk, "batches", campaign, batch)[0] == 0
    assert arrakis(desk, "pause", campaign)[0] == 0
    assert arrakis(desk, "grant", campaign, str(listed))[0] == 1
    assert arrakis(desk, "complete", campaign, "--yes")[0] == 0
    status, said = arrakis(desk, "list", "--status", "completed")
    spent = ["completed", "$3.00", "$3.00", "Spring"]
    assert (status, said.splitlines()[1].split()[1:]) == (0, spent)
    assert "completed" in arrakis(desk, "show", campaign)[1]
    assert arrakis(desk, "create", "x", "--budget-micro", "1", "--config", "[]")[0] == 2
