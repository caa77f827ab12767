"""mint-proposals and webhook by command: the same on the host and over the API of a service."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from shared.cli.output import money
from shared.operations import mint_proposals
from shared.operations.audit import Actor
from tests.command import arrakis, told
from tests.harness import SECRETS, Api, unique
from tests.ledger import Ledger

LARGE = "2000000000"
HOOK = "https://1.1.1.1/hook"  # public, and no name to resolve; nothing is sent in these tests


@dataclass
class Desks:
    """One database, reached directly and through a running API."""

    ledger: Ledger
    api: Api

    def host(self) -> dict[str, str]:
        """Return the environment of a command on the host."""
        secret = SECRETS["OUTGOING_WEBHOOK_SECRET"]
        return {"DATABASE_URL": self.ledger.url, "OUTGOING_WEBHOOK_SECRET": secret}

    def remote(self, who: str | None = None) -> dict[str, str]:
        """Return the environment of a command over the API, of *who* may do everything."""
        scopes = ["billing:read", "billing:write", "billing:approve"]
        bearer = self.api.admin(sub=who or unique("ann"), scopes=scopes)["Authorization"]
        token = bearer.removeprefix("Bearer ")
        return {"ARRAKIS_API_URL": self.api.url, "ARRAKIS_API_TOKEN": token}

    def same(self, *words: str) -> dict[str, Any]:
        """Return what both tell, which is the same to the letter, in words and as JSON."""
        ways = (self.host(), self.remote())
        by_host, by_api = (arrakis(*words, **way) for way in ways)
        assert by_host == by_api, words
        facts = [told(*words, **way) for way in ways]
        assert facts[0] == facts[1], words
        return facts[0][1]

    def same_refusal(self, *words: str) -> tuple[int, str]:
        """Return exit code and complaint, which are the same on both."""
        by_host, by_api = (arrakis(*words, **way) for way in (self.host(), self.remote()))
        assert by_host == by_api, words
        return by_host[0], by_host[2]


@pytest.fixture
def desks(ledger: Ledger, api_of: Callable[[str], Api]) -> Desks:
    return Desks(ledger, api_of(ledger.url))


def propose(way: dict[str, str], account: str) -> str:
    """Mint too much for one person, and return the proposal that it becomes."""
    code, made = told("mint", account, LARGE, "--yes", **way)
    assert (code, made["status"]) == (0, "pending")
    proposal: str = made["proposalId"]
    return proposal


def test_a_large_mint_says_first_that_nothing_was_credited(desks: Desks) -> None:
    account = desks.ledger.account()
    for way in (desks.host(), desks.remote()):
        code, output, _ = arrakis("mint", account, LARGE, "--yes", **way)
        first = output.splitlines()[0]
        assert code == 0
        assert first.startswith("Nothing was credited yet: a second person has to run ")
        assert "`arrakis mint-proposals approve " in first
    assert desks.ledger.balance(account) == (0, 0, 0)


def test_a_large_mint_is_told_with_the_same_facts_either_way(desks: Desks) -> None:
    order = ("mint", desks.ledger.account(), LARGE, "--key", unique("season"), "--yes")
    made = desks.same(*order)
    path = f"/admin/billing/mint-proposals/{made['proposalId']}"
    assert (made["code"], made["lookUp"]) == ("four_eyes_required", path)
    assert (made["status"], made["approve"]) == ("pending", f"{path}/approve")
    with desks.ledger.database.transaction() as tx:
        second = Actor("operator", "second")
        mint_proposals.reject(tx, second, made["proposalId"], "no such prize").unwrap()
    decided = desks.same(*order)
    assert (decided["status"], decided["approve"]) == ("rejected", None)


def test_proposals_are_listed_shown_and_decided_on_over_the_api(desks: Desks) -> None:
    account, ann, bob = desks.ledger.account(), desks.remote("ann"), desks.remote("bob")
    minted, refused, taken = (propose(ann, account) for _ in range(3))
    page = desks.same("mint-proposals", "list", "--account", account, "--limit", "2")
    assert [one["proposalId"] for one in page["mintProposals"]] == [minted, refused]
    rest = desks.same("mint-proposals", "list", "--cursor", page["nextCursor"])
    assert [one["proposalId"] for one in rest["mintProposals"]] == [taken]
    assert desks.same("mint-proposals", "show", minted)["proposedBy"] == "ann"
    code, _, complaint = arrakis("mint-proposals", "approve", minted, **bob)
    assert (code, f"Mint {money(LARGE)} for {account}?" in complaint) == (2, True)
    code, _, complaint = arrakis("mint-proposals", "approve", minted, "--yes", **ann)
    assert (code, "four_eyes_violation" in complaint) == (1, True)
    assert desks.ledger.balance(account) == (0, 0, 0)
    for _ in range(2):
        code, output, _ = arrakis("mint-proposals", "approve", minted, "--yes", **bob)
        assert (code, f"was approved by bob: lot {minted}." in output) == (0, True)
    assert desks.ledger.balance(account) == (int(LARGE), 0, 0)
    code, found = told("mint-proposals", "reject", refused, "--reason", "no such season", **bob)
    assert (code, found["rejectedBy"], found["reason"]) == (0, "bob", "no such season")
    assert told("mint-proposals", "withdraw", taken, **ann)[1]["status"] == "withdrawn"
    for proposal in (minted, refused, taken):
        desks.same("mint-proposals", "show", proposal)


def test_what_one_proposes_over_the_api_another_approves_on_the_host(desks: Desks) -> None:
    account = desks.ledger.account()
    proposal = propose(desks.remote("ann"), account)
    code, output, _ = arrakis("mint-proposals", "approve", proposal, "--yes", **desks.host())
    assert (code, f"lot {proposal}." in output) == (0, True)
    assert desks.ledger.balance(account) == (int(LARGE), 0, 0)


def test_an_endpoint_is_added_looked_at_changed_and_removed_over_the_api(desks: Desks) -> None:
    events = ("--event", "alert.fired", "--event", "alert.cleared")
    remote = desks.remote("ann")
    code, made = told("webhook", "add", HOOK, *events, "--description", "ops", **remote)
    assert (code, made["secret"][:6], made["createdBy"]) == (0, "whsec_", "ann")
    endpoint = made["endpointId"]
    assert made["eventTypes"] == ["alert.cleared", "alert.fired"]
    assert [one["endpointId"] for one in desks.same("webhook", "list")["webhooks"]] == [endpoint]
    assert desks.same("webhook", "deliveries", endpoint)["deliveries"] == []
    tested = [told("webhook", "test", endpoint, **way) for way in (remote, desks.host())]
    shown = desks.same("webhook", "show", endpoint)
    events_sent = [one["eventId"] for one in shown["lastDeliveries"]]
    assert events_sent == [one["eventId"] for _, one in reversed(tested)]
    page = desks.same("webhook", "deliveries", endpoint, "--limit", "1")
    rest = desks.same("webhook", "deliveries", endpoint, "--cursor", page["nextCursor"])
    assert page["deliveries"] + rest["deliveries"] == shown["lastDeliveries"]
    delivery = page["deliveries"][0]["deliveryId"]
    code, output, _ = arrakis("webhook", "retry", delivery, **remote)
    assert (code, output.splitlines()[1].split()[:3]) == (0, [delivery, "waiting", "webhook.test"])
    code, renewed = told("webhook", "rotate", endpoint, **remote)
    assert (code, renewed["secret"] != made["secret"]) == (0, True)
    code, stopped = told("webhook", "disable", endpoint, **remote)
    assert (code, stopped["disabledReason"]) == (0, "Disabled by ann.")
    assert arrakis("webhook", "list", **remote)[0] == 1
    assert told("webhook", "enable", endpoint, **remote)[1]["status"] == "active"
    code, _, complaint = arrakis("webhook", "remove", endpoint, **remote)
    assert (code, f"Remove {endpoint}?" in complaint) == (2, True)
    code, gone = told("webhook", "remove", endpoint, "--yes", **remote)
    assert (code, gone["cancelled"]) == (0, 2)
    assert desks.same("webhook", "list") == {"webhooks": []}


def test_refusals_are_the_same_on_both_desks(desks: Desks) -> None:
    for words, exit_code, code in (
        (("mint-proposals", "show", "none"), 1, "mint_proposal_not_found"),
        (("mint-proposals", "approve", "none", "--yes"), 1, "mint_proposal_not_found"),
        (("mint-proposals", "reject", "none", "--reason", "x"), 1, "mint_proposal_not_found"),
        (("mint-proposals", "withdraw", "none"), 1, "mint_proposal_not_found"),
        (("webhook", "add", "https://169.254.169.254/x"), 2, "webhook_url_refused"),
        (("webhook", "show", "none"), 1, "webhook_not_found"),
        (("webhook", "deliveries", "none"), 1, "webhook_not_found"),
        (("webhook", "remove", "none", "--yes"), 1, "webhook_not_found"),
        (("webhook", "rotate", "none"), 1, "webhook_not_found"),
        (("webhook", "test", "none"), 1, "webhook_not_found"),
        (("webhook", "enable", "none"), 1, "webhook_not_found"),
        (("webhook", "retry", "none"), 1, "delivery_not_found"),
    ):
        assert desks.same_refusal(*words)[0] == exit_code, words
        assert f"({code})" in desks.same_refusal(*words)[1], words


def test_a_database_of_another_release_is_refused_on_the_host(ledger: Ledger) -> None:
    ledger.sql("UPDATE alembic_version SET version_num = '045_webhook_traces'")
    ledger.is_sound_at_end = False
    at = {"DATABASE_URL": ledger.url}
    for words in (
        ("mint-proposals", "list"),
        ("mint-proposals", "approve", "none", "--yes"),
        ("webhook", "list"),
        ("webhook", "test", "none"),
    ):
        code, output, complaint = arrakis(*words, **at)
        assert (code, output) == (3, ""), words
        assert "arrakis migrate" in complaint, words
