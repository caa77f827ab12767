"""Alerts as operators see them: the command, the admin API, the metrics, and their page."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from shared.alerts import counts, rules
from shared.alerts.evaluating import evaluate
from shared.alerts.money import KINDS
from shared.alerts.rules import RULES
from shared.cli.main import arrakis as program
from shared.clock import system_clock
from shared.operations import gauges
from tests.alerts import a_letter_waits_for_a_person
from tests.command import arrakis, told
from tests.harness import ROOT, Api, running_api, unique, wait_until
from tests.ledger import Ledger
from tests.till import Payment, Till

PAGE = (ROOT / "docs" / "alerts.md").read_text()
SERIES = 'arrakis_alert_firing{name="dlq_manual_review",severity="warning"}'


def now(ledger: Ledger) -> None:
    """Let the workers evaluate at the time that the API's clock shows."""
    ledger.clock.now = system_clock()
    evaluate(ledger.database)


@pytest.fixture
def api(ledger: Ledger, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """A process of the API, because only that stores what it counted."""
    ledger.sql("INSERT INTO billing_config (key, value) VALUES ('alert_clear_seconds', '0')")
    with running_api(ledger.url, redis_url, tmp_path / "api.log") as client:
        yield client


def test_an_alert_is_seen_on_every_desk_until_it_clears(ledger: Ledger, api: Api) -> None:
    """Behaviour 187: an alert is visible on a metrics endpoint (W72)."""
    at = {"DATABASE_URL": ledger.url}
    large = {"accountId": ledger.account(), "estimatedCostMicro": "10", "requestId": unique("r")}
    assert api.internal("reserve", large).status_code == 402
    repair = a_letter_waits_for_a_person(ledger)
    now(ledger)
    assert f"{SERIES} 1.0" in api.get("/metrics").text
    shown = api.admin_get("alerts").json()
    assert (shown["firing"], len(shown["alerts"])) == (1, len(RULES))
    first = shown["alerts"][0]
    assert (first["name"], first["status"], first["value"]) == ("dlq_manual_review", "firing", 1)
    path = "/admin/billing/alerts/dlq_manual_review/acknowledge"
    reader = api.admin(scopes=["billing:read"])
    assert api.post(path, {"reason": "x"}, headers=reader).status_code == 403
    assert api.post(path, {}, headers=api.admin()).status_code == 400
    assert api.post(path, {"reason": "seen"}, headers=api.admin()).status_code == 200
    code, output, _ = arrakis("alerts", **at)
    assert (code, "WARNING  dlq_manual_review is 1" in output) == (1, True)
    repair()
    now(ledger)
    assert f"{SERIES} 0.0" in api.get("/metrics").text
    assert api.post(path, {"reason": "seen"}, headers=api.admin()).status_code == 404
    assert told("alerts", **at)[0] == 0
    assert told("alerts", "history", **at)[1] == api.admin_get("alerts/history").json()
    [*actions] = [one["action"] for one in api.admin_get("alerts/history").json()["history"]]
    assert actions == [
        "alert_acknowledge_refused", "alert_cleared", "alert_acknowledge", "alert_fired",
    ]  # fmt: skip
    wait_until("the 402 in the counts", lambda: refused(ledger) == 1)


def refused(ledger: Ledger) -> int:
    with ledger.database.reading() as tx:
        return counts.total(tx, counts.REFUSED_402, ledger.clock())


def test_nobody_has_to_evaluate_for_operators_to_see_what_is_wrong(ledger: Ledger) -> None:
    a_letter_waits_for_a_person(ledger)
    code, found = told("alerts", DATABASE_URL=ledger.url)
    assert (code, found["firing"]) == (1, 1)
    assert ledger.rows("SELECT name FROM alerts") == []


def test_money_at_risk_is_told_by_kind(ledger: Ledger) -> None:
    till = Till(ledger)
    account = ledger.funded(1_000)
    ledger.reserve(account, 300)
    ledger.configure(billing_mode="soft")
    ledger.finalize(ledger.reserve(account, 900), 950)
    ledger.configure(billing_mode="shadow")
    ledger.reserve(account, 7)
    till.tell(till.payment(dollars="2.50"), "finished")
    till.payment(dollars="1.25", status="confirmed")
    till.payment(dollars="9.00", status="waiting")
    odd = till.payment(dollars="4.00")
    till.tell(odd, "a word that nobody knows")
    assert till.drain() == 2
    till.tell(till.payment(dollars="2.50"), "finished")
    assert risks(ledger) == {
        "held": 300,
        "uncredited": 3_750_000,
        "dead_lettered": 4_000_000,
        "debts": 250,
        "pending_settlements": 0,
    }
    till.tell(Payment("cp_x", "77", ""), "finished")  # nothing is known of its price
    till.drain()
    assert (risks(ledger)["uncredited"], risks(ledger)["dead_lettered"]) == (1_250_000, 4_000_000)


def risks(ledger: Ledger) -> dict[str, float]:
    with ledger.database.reading() as tx:
        families = gauges.read(tx)
    [family] = [one for one in families if one.name == "arrakis_money_at_risk_micro"]
    found = {sample.labels["kind"]: sample.value for sample in family.samples}
    assert found.keys() == set(KINDS)
    return found


def row_of(rule: rules.Rule) -> str:
    fires = rules.condition(rule, rule.limits)
    cells = (rule.severity, fires, f"{rule.meaning}", f"`{rule.command}`", rule.clears)
    return f"| `{rule.name}` | " + " | ".join(cells) + " |"


@pytest.mark.parametrize("name", RULES)
def test_the_page_says_of_each_alert_what_the_code_does(name: str) -> None:
    rule = RULES[name]
    assert row_of(rule) in PAGE.splitlines()
    command: click.Command = program
    words = shlex.split(rule.command)[1:]
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(program), words.pop(0))
        assert found is not None, rule.command
        command = found
    command.make_context(rule.command, words)


def test_the_page_lists_no_other_alert() -> None:
    assert re.findall(r"^\| `(\w+)` \| (?:critical|warning)", PAGE, re.MULTILINE) == list(RULES)
