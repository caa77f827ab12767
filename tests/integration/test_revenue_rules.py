"""Revenue rules over HTTP: four eyes, the cooldown, and what charges are split by afterwards."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
import requests

from shared.clock import system_clock
from shared.database import Database
from shared.messaging import TaskName
from tests.front_door import breaches, hold, revenue, rows, settle
from tests.harness import Api, Databases, running_api, set_config, unique, wait_until
from tests.till import work_of

RULE = {"name": "A larger commons", "commonsBps": 1000, "communityBps": 6000, "foundationBps": 3000}
SEEDED = {"commonsBps": 500, "communityBps": 7000, "foundationBps": 2500}
EVERY_SCOPE = ("billing:read", "billing:write", "billing:approve")
BOTH_WAYS = [(200, None), (409, "revenue_rule_state")]  # a worker may come first
COOLDOWN_HOURS = 2  # less than the ids of this process may run ahead of other tests


@dataclass
class Desk:
    """Two admins of one test with the API's revenue rules."""

    api: Api
    ada: str = field(default_factory=lambda: unique("ada"))
    bob: str = field(default_factory=lambda: unique("bob"))

    def ask(
        self, method: str, path: str, body: Any = None, *, by: str, scopes: Any = EVERY_SCOPE
    ) -> requests.Response:
        """Send one request as the admin *by*."""
        return requests.request(
            method,
            f"{self.api.url}/admin/billing/revenue-rules{path}",
            json=body,
            headers=self.api.admin(sub=by, scopes=list(scopes)),
            timeout=30,
        )

    def propose(self, **changes: Any) -> str:
        """Propose a rule as ada and return its id."""
        made = self.ask("POST", "", {**RULE, **changes}, by=self.ada)
        assert made.status_code == 201, made.text
        rule_id: str = made.json()["ruleId"]
        return rule_id

    def move(self, rule: str, verb: str, by: str, reason: str | None = None) -> requests.Response:
        """PATCH a rule."""
        body = {"reason": reason} if reason is not None else None
        return self.ask("PATCH", f"/{rule}/{verb}", body, by=by)

    def cooling(self, **changes: Any) -> str:
        """Propose and submit a rule as ada, and approve it as bob."""
        rule = self.propose(**changes)
        for verb, by in (("submit", self.ada), ("approve", self.bob)):
            assert self.move(rule, verb, by).status_code == 200
        return rule

    def show(self, path: str) -> dict[str, Any]:
        """GET a rule, or what else is below."""
        shown = self.ask("GET", path, by=unique("reader"))
        assert shown.status_code == 200, shown.text
        told: dict[str, Any] = shown.json()
        return told

    def status(self, rule: str) -> str:
        return str(self.show(f"/{rule}")["status"])

    def trail(self, rule: str) -> list[tuple[str, str]]:
        """Return who did what to a rule."""
        found = self.show(f"/{rule}/audit")["audit"]
        return [(row["actorId"], row["action"].removeprefix("revenue_rule_")) for row in found]

    def run_job(self, hours: float = 0) -> int:
        """Run the workers' job as it would run *hours* from now."""
        url = self.api.database.engine.url.render_as_string(hide_password=False)
        database = Database(url, clock=lambda: system_clock() + timedelta(hours=hours))
        try:
            return work_of(database).run(TaskName.ACTIVATE_RULES)
        finally:
            database.dispose()


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def own_api(
    request: pytest.FixtureRequest,
    databases: Databases,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """An API on a database of its own, because an activation changes the rates for everybody."""
    url = databases.make(request.param)
    with running_api(url, redis_url, tmp_path_factory.mktemp("logs") / "api.log") as api:
        set_config(api.database, billing_mode="live")
        yield api


@pytest.fixture
def desk(own_api: Api) -> Desk:
    """A desk with nothing left in its cooldown, and a short cooldown for what comes."""
    desk = Desk(own_api)
    set_config(own_api.database, revenue_rule_cooldown_hours=str(COOLDOWN_HOURS))
    desk.run_job(COOLDOWN_HOURS)
    return desk


def split(api: Api, account: str) -> list[int]:
    """Charge 1,000,000 and return the shares of commons, community and foundation."""
    api = replace(api, subject=unique("caller"))  # so that polling meets no rate limit
    charged = hold(api, account, 1_000_000)
    assert settle(api, charged, 1_000_000).status_code == 200
    return [amount for _, _, amount in revenue(api, charged)]


def wait_for_split(api: Api, account: str, shares: list[int]) -> None:
    wait_until(f"a split of {shares}", lambda: split(api, account) == shares, seconds=5.0)


def active_rules(api: Api) -> list[str]:
    return [rule for (rule,) in rows(api, "SELECT id FROM revenue_rules WHERE status = 'active'")]


def test_a_proposal_is_a_draft_and_is_shown_as_it_was_made(desk: Desk) -> None:
    """Behaviour 83."""
    made = desk.ask("POST", "", {**RULE, "notes": "as the council decided"}, by=desk.ada)
    body = made.json()
    assert (made.status_code, body["status"], body["proposedBy"]) == (201, "draft", desk.ada)
    assert {name: body[name] for name in RULE} == RULE
    assert body["notes"] == "as the council decided"
    assert desk.show(f"/{body['ruleId']}") == body
    [row] = desk.show(f"/{body['ruleId']}/audit")["audit"]
    assert (row["actorId"], row["action"]) == (desk.ada, "revenue_rule_propose")
    assert {name: row["details"][name] for name in RULE} == RULE
    assert row["details"]["ip"] == "127.0.0.1"


def test_a_draft_cannot_be_approved(desk: Desk) -> None:
    """Behaviour 83; the refusal is audited and changes nothing."""
    rule = desk.propose()
    before = desk.show(f"/{rule}")
    refused = desk.move(rule, "approve", desk.bob)
    assert (refused.status_code, refused.json()["code"]) == (409, "revenue_rule_state")
    assert refused.json()["details"] == {"status": "draft", "action": "approve"}
    assert desk.show(f"/{rule}") == before
    assert desk.trail(rule) == [(desk.ada, "propose"), (desk.bob, "approve_refused")]


def test_an_approved_rule_cools_down_for_48_hours_as_seeded(desk: Desk) -> None:
    """Behaviours 82 and 83."""
    set_config(desk.api.database, revenue_rule_cooldown_hours="48")
    rule = desk.propose()
    assert desk.move(rule, "submit", desk.ada).json()["status"] == "pending_approval"
    body = desk.move(rule, "approve", desk.bob).json()
    assert (body["status"], body["approvedBy"]) == ("cooling_down", desk.bob)
    waits = datetime.fromisoformat(body["activatesAt"]) - datetime.fromisoformat(body["approvedAt"])
    assert waits == timedelta(hours=48)
    assert desk.run_job() == 0
    assert desk.move(rule, "reject", desk.bob, "only a rehearsal").status_code == 200


def test_a_rule_in_force_splits_charges_and_an_operators_sql_still_wins_after_it(
    desk: Desk,
) -> None:
    """Behaviours 82, 83 and 174, W53."""
    account = desk.api.funded_account(1_000_000_000)
    other = desk.cooling(name="before", **SEEDED)
    assert desk.move(other, "override-cooldown", desk.bob, "known shares").status_code == 200
    wait_for_split(desk.api, account, [50_000, 700_000, 250_000])
    rule = desk.cooling()
    assert (desk.run_job(), desk.status(rule)) == (0, "cooling_down")
    assert split(desk.api, account) == [50_000, 700_000, 250_000]
    assert desk.run_job(COOLDOWN_HOURS) == 1
    assert (desk.status(rule), desk.status(other)) == ("active", "superseded")
    wait_for_split(desk.api, account, [100_000, 600_000, 300_000])
    told = desk.show("/active")
    assert told["revenueRule"] == desk.show(f"/{rule}")
    assert (told["differs"], told["ratesInForce"]["communityBps"]) == (False, 6000)
    assert desk.trail(rule)[-1] == ("revenue-rule-activator", "activate")
    assert desk.run_job(COOLDOWN_HOURS) == 0
    set_config(desk.api.database, commons_rate_bps="0", foundation_rate_bps="4000")
    wait_for_split(desk.api, account, [600_000, 400_000])
    told = desk.show("/active")
    assert (told["revenueRule"]["ruleId"], told["differs"]) == (rule, True)
    assert told["ratesInForce"] == {"commonsBps": 0, "communityBps": 6000, "foundationBps": 4000}
    again = desk.cooling(name="again")
    assert desk.run_job(COOLDOWN_HOURS) == 1
    wait_for_split(desk.api, account, [100_000, 600_000, 300_000])
    activation = desk.show(f"/{again}/audit")["audit"][-1]["details"]
    assert activation["configBefore"]["foundation_rate_bps"] == "4000"
    assert breaches(desk.api) == []


def test_who_proposed_a_rule_neither_approves_nor_overrides_it(desk: Desk) -> None:
    """Behaviours 83 and 14.3."""
    rule = desk.propose()
    desk.move(rule, "submit", desk.ada)
    own = desk.move(rule, "approve", desk.ada)
    assert (own.status_code, own.json()["code"]) == (403, "four_eyes_violation")
    assert desk.status(rule) == "pending_approval"
    desk.move(rule, "approve", desk.bob)
    own = desk.move(rule, "override-cooldown", desk.ada, "I cannot wait")
    assert (own.status_code, own.json()["code"]) == (403, "four_eyes_violation")
    assert desk.status(rule) == "cooling_down"
    assert desk.trail(rule) == [
        (desk.ada, "propose"),
        (desk.ada, "submit"),
        (desk.ada, "approve_refused"),
        (desk.bob, "approve"),
        (desk.ada, "override_cooldown_refused"),
    ]


@pytest.mark.parametrize("from_status", ["pending_approval", "cooling_down"])
def test_a_rule_is_rejected_for_good_before_it_is_active(desk: Desk, from_status: str) -> None:
    """Behaviour 83."""
    if from_status == "cooling_down":
        rule = desk.cooling()
    else:
        rule = desk.propose()
        desk.move(rule, "submit", desk.ada)
    body = desk.move(rule, "reject", desk.bob, "too little for the community").json()
    assert (body["status"], body["rejectedBy"]) == ("rejected", desk.bob)
    assert body["reason"] == "too little for the community"
    assert desk.run_job(COOLDOWN_HOURS) == 0
    for verb in ("submit", "approve", "reject", "override-cooldown"):
        refused = desk.move(rule, verb, desk.bob, "again")
        assert (refused.status_code, refused.json()["code"]) == (409, "revenue_rule_state")
    assert desk.status(rule) == "rejected"
    last = desk.show(f"/{rule}/audit")["audit"][-5]
    assert last["action"] == "revenue_rule_reject"
    assert last["details"]["reason"] == "too little for the community"


def test_an_override_activates_at_once_and_keeps_its_reason(desk: Desk) -> None:
    """Behaviour 83."""
    rule = desk.cooling()
    [old] = active_rules(desk.api)
    body = desk.move(rule, "override-cooldown", desk.bob, "the council asked for today").json()
    assert (body["status"], body["overriddenBy"]) == ("active", desk.bob)
    assert body["activatedAt"] < body["activatesAt"]
    assert active_rules(desk.api) == [rule]
    assert desk.status(old) == "superseded"
    told = desk.show("/active")
    assert (told["revenueRule"], told["differs"]) == (body, False)
    done = desk.show(f"/{rule}/audit")["audit"][-1]
    assert done["details"]["reason"] == "the council asked for today"
    superseded = [
        r for r in desk.show(f"/{old}/audit")["audit"] if r["action"].endswith("supersede")
    ]
    assert [row["details"]["supersededBy"] for row in superseded] == [rule]
    next_rule = desk.cooling()
    desk.move(next_rule, "override-cooldown", desk.bob, "and again")
    assert desk.show(f"/{rule}")["reason"] == "the council asked for today"


def test_activations_at_the_same_time_leave_exactly_one_active(desk: Desk) -> None:
    """Behaviour 83: never two, by admins and by workers at once."""
    count = 6
    rules = [Desk(desk.api).cooling(commonsBps=n, communityBps=7000 - n) for n in range(count)]
    start = Barrier(count + 2)

    def activate(number: int) -> int:
        start.wait()
        if number >= count:
            return desk.run_job(COOLDOWN_HOURS)
        done = desk.move(rules[number], "override-cooldown", unique("bob"), "all at once")
        assert (done.status_code, done.json().get("code")) in BOTH_WAYS, done.text
        return int(done.status_code == 200)

    with ThreadPoolExecutor(count + 2) as threads:
        assert sum(threads.map(activate, range(count + 2))) == count
    [winner] = active_rules(desk.api)
    statuses = sorted(desk.status(rule) for rule in rules)
    assert (winner in rules, statuses) == (True, ["active", *["superseded"] * (count - 1)])
    told = desk.show("/active")
    assert (told["revenueRule"]["ruleId"], told["differs"]) == (winner, False)
    acts = "SELECT COUNT(*) FROM revenue_rule_audit_log WHERE rule_id = :id AND action IN"
    done = f"{acts} ('revenue_rule_activate', 'revenue_rule_override_cooldown')"
    assert [rows(desk.api, done, id=rule) for rule in rules] == [[(1,)]] * count


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"foundationBps": 3500}, "foundationBps"),
        ({"foundationBps": 2999}, "foundationBps"),
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"notes": "x" * 1001}, "notes"),
        ({"notes": "a\u0000"}, "notes"),
        ({"commonsBps": -1}, "commonsBps"),
        ({"commonsBps": 10_001}, "commonsBps"),
        ({"communityBps": "6000"}, "communityBps"),
        ({"communityBps": 6000.5}, "communityBps"),
        ({"communityBps": True}, "communityBps"),
    ],
)
def test_a_malformed_proposal_is_refused_with_the_field(
    desk: Desk, changes: dict[str, Any], named: str
) -> None:
    """Behaviour 112: a sum of 10500, or no name."""
    count = rows(desk.api, "SELECT COUNT(*) FROM revenue_rules")
    body = {name: value for name, value in {**RULE, **changes}.items() if value is not None}
    refused = desk.ask("POST", "", body, by=desk.ada)
    assert (refused.status_code, refused.json()["error"]) == (400, "Validation Error")
    assert [fault["field"] for fault in refused.json()["details"]] == [named]
    assert rows(desk.api, "SELECT COUNT(*) FROM revenue_rules") == count


@pytest.mark.parametrize("verb", ["reject", "override-cooldown"])
def test_a_reason_has_1_to_1000_characters(desk: Desk, verb: str) -> None:
    """Behaviour 112."""
    rule = desk.cooling()
    for reason in ("", "   ", "x" * 1001):
        refused = desk.move(rule, verb, desk.bob, reason)
        assert (refused.status_code, refused.json()["error"]) == (400, "Validation Error")
        assert [fault["field"] for fault in refused.json()["details"]] == ["reason"]
    assert desk.ask("PATCH", f"/{rule}/{verb}", {}, by=desk.bob).status_code == 400
    assert desk.status(rule) == "cooling_down"
    assert desk.move(rule, verb, desk.bob, "x" * 1000).status_code == 200


def test_the_longest_name_and_notes_are_kept(desk: Desk) -> None:
    rule = desk.propose(name="n" * 200, notes="ü" * 1000)
    assert desk.show(f"/{rule}")["notes"] == "ü" * 1000


def test_each_step_needs_its_scope(desk: Desk) -> None:
    """Contract 3."""
    rule = desk.propose()
    steps = [
        ("GET", "", None, "billing:read"),
        ("GET", "/active", None, "billing:read"),
        ("GET", f"/{rule}/audit", None, "billing:read"),
        ("POST", "", RULE, "billing:write"),
        ("PATCH", f"/{rule}/submit", None, "billing:write"),
        ("PATCH", f"/{rule}/approve", None, "billing:approve"),
        ("PATCH", f"/{rule}/override-cooldown", {"reason": "now"}, "billing:approve"),
        ("PATCH", f"/{rule}/reject", {"reason": "no"}, "billing:approve"),
    ]
    for method, path, body, scope in steps:
        others = [name for name in EVERY_SCOPE if name != scope]
        refused = desk.ask(method, path, body, by=unique("carl"), scopes=others)
        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope"), path
        allowed = desk.ask(method, path, body, by=unique("dora"), scopes=[scope])
        assert allowed.status_code != 403, path


def test_what_does_not_exist_is_not_found_and_the_attempt_is_audited(desk: Desk) -> None:
    nothing = unique("rule")
    for path in (f"/{nothing}", f"/{nothing}/audit"):
        assert desk.ask("GET", path, by=desk.ada).status_code == 404
    missing = desk.move(nothing, "submit", desk.ada)
    assert (missing.status_code, missing.json()["code"]) == (404, "revenue_rule_not_found")
    audited = "SELECT action FROM revenue_rule_audit_log WHERE rule_id = :id"
    assert rows(desk.api, audited, id=nothing) == [("revenue_rule_submit_refused",)]


def test_the_list_is_paged_from_the_oldest_on_without_overlap(desk: Desk) -> None:
    made = [desk.propose(name=f"page {number}") for number in range(3)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = desk.show(f"?limit=2{cursor}")
        seen += [rule["ruleId"] for rule in page["revenueRules"]]
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert len(seen) == len(set(seen))
    assert (seen[0], seen[-3:]) == ("00000000-0000-7000-8000-000000000035", made)
    short = desk.show(f"/{made[0]}/audit?limit=1")
    assert (len(short["audit"]), short["nextCursor"]) == (1, None)


def test_a_cooldown_that_makes_no_sense_lets_nothing_be_approved(desk: Desk) -> None:
    rule = desk.propose()
    desk.move(rule, "submit", desk.ada)
    for hours in ("soon", "-1", "99999", ""):
        set_config(desk.api.database, revenue_rule_cooldown_hours=hours)
        unclear = desk.move(rule, "approve", desk.bob)
        assert (unclear.status_code, unclear.json()["code"]) == (503, "config_invalid")
    assert desk.status(rule) == "pending_approval"
