"""``arrakis payments`` as operators run it: for people, with --json, and its exit codes."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.local.servers import free_port
from shared.money import usd_text
from shared.payments import creation
from shared.payments.providers.nowpayments import NowPayments
from tests.command import arrakis
from tests.ledger import Ledger
from tests.provider_harness import API_KEY, Simulator
from tests.till import M, Payment, Till

PRICE = 25 * M
FINE, BAD_NEWS, WRONG_USE, AWAY = 0, 1, 2, 3


@dataclass
class Operator:
    """Somebody at a terminal, with the settings of one system."""

    ledger: Ledger
    simulator: Simulator
    environment: dict[str, str]

    def run(self, *arguments: str, **other: str) -> tuple[int, str, str]:
        """Run the command; return its exit code, its output and its complaints."""
        return arrakis("payments", *arguments, **{**self.environment, **other})

    def facts(self, *arguments: str) -> dict[str, Any]:
        """Run the command for a script, which must go well."""
        code, output, complaint = self.run(*arguments, "--json")
        assert (code, output.count("\n")) == (FINE, 1), complaint
        return dict(json.loads(output))

    def missed(self) -> Payment:
        """Make a payment that was paid without a notice of it, and is due to be looked at."""
        account = self.ledger.account()
        made, _ = creation.create_payment(
            self.ledger.database,
            NowPayments(url=f"{self.simulator.url}/v1", api_key=API_KEY),
            account_id=account,
            amount_micro=PRICE,
            pay_currency="ltc",
            ceiling_micro=PRICE,
        )
        self.simulator.play(int(made["providerPaymentId"]), "missed")
        return Payment(made["paymentId"], made["providerPaymentId"], account)


@pytest.fixture
def operator(ledger: Ledger, simulator: Simulator) -> Operator:
    environment = {
        "DATABASE_URL": ledger.url,
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",  # that it is away does not matter
        "NOWPAYMENTS_API_URL": f"{simulator.url}/v1",
        "NOWPAYMENTS_API_KEY": API_KEY,
    }
    return Operator(ledger, simulator, environment)


def test_a_missed_payment_is_found_mended_and_shown(operator: Operator) -> None:
    """Runbook 6: show, replay, show; a second replay changes nothing."""
    payment = operator.missed()
    before = operator.facts("show", payment.number)
    assert (before["status"], before["events"], before["credits"]) == ("waiting", [], [])
    mended = operator.facts("replay", payment.number)
    assert (mended["status"], mended["creditedMicro"]) == ("finished", str(PRICE))
    assert mended["isProviderAsked"] is True
    assert operator.ledger.balance(payment.account) == (PRICE, 0, 0)
    code, words, complaint = operator.run("replay", payment.id)
    assert (code, complaint) == (FINE, "")
    lines = words.splitlines()
    assert lines[0] == f"{payment.id} (nowpayments {payment.number})"
    assert lines[1:5] == [
        "  status     finished",
        f"  account    {payment.account}",
        "  price      25.00 usd, paid 0.3125 ltc",
        f"  credited   $25.00 by price: lot {mended['lotId']}",
    ]
    assert re.fullmatch(r"  poll       \S+ finished: \S+", lines[5])
    assert operator.run("show", payment.id) == (FINE, words, "")
    audit = "SELECT actor_type, action FROM admin_audit_log WHERE target_type = 'payment'"
    assert operator.ledger.rows(audit) == [("operator", "payment_replay")] * 2


def test_what_waits_for_a_person_says_why(operator: Operator) -> None:
    till = Till(operator.ledger)
    operator.ledger.configure(partial_payment_policy="review")
    payment = till.payment()
    till.told(payment, "partially_paid", outcome_amount="12.4375", outcome_currency="usdttrc20")
    code, words, _ = operator.run("show", payment.number)
    assert code == FINE
    assert "  to review  Less arrived than was asked for.\n" in words
    assert "  dead letter deposit manual_review: Less arrived than was asked for.\n" in words
    told = operator.facts("show", payment.id)
    assert [letter["operation"] for letter in told["deadLetters"]] == ["deposit"]


def test_poll_reads_what_is_due_and_applies_it(operator: Operator) -> None:
    paid = [operator.missed() for _ in range(12)]
    code, words, _ = operator.run("poll")  # by the machine's clock; they were made long ago
    sentence = "Read 12 payments at the provider and worked off 12 notices.\n"
    assert (code, words) == (FINE, sentence)
    for payment in paid:
        assert operator.ledger.balance(payment.account) == (PRICE, 0, 0)
    assert operator.facts("poll") == {"looked": 0, "notices": 0}


@pytest.mark.parametrize("payment_id", ["4711", "cp_nobody"])
def test_what_nobody_knows_is_bad_news(operator: Operator, payment_id: str) -> None:
    for command in ("show", "replay"):
        code, output, complaint = operator.run(command, payment_id, "--json")
        assert (code, output) == (BAD_NEWS, "")
        assert complaint.endswith("(payment_not_found)\n")  # the provider's answer is logged above
        assert "Traceback" not in complaint


def test_a_provider_that_is_away_is_told_from_a_payment_that_is_unknown(
    operator: Operator,
) -> None:
    payment = operator.missed()
    nobody = {"NOWPAYMENTS_API_URL": f"http://127.0.0.1:{free_port()}/v1"}
    code, words, _ = operator.run("replay", payment.number, **nobody)
    assert code == FINE  # what we know was worked off
    assert words.startswith("The provider could not be asked.\n")
    code, output, complaint = operator.run("replay", "4711", **nobody)
    assert (code, output) == (AWAY, "")
    assert "Traceback" not in complaint
    another = operator.missed()
    code, output, complaint = operator.run("poll", "--json", **nobody)
    assert (code, output) == (AWAY, "")
    assert "Traceback" not in complaint
    assert operator.facts("replay", another.number)["status"] == "finished"


def test_a_database_without_tables_is_told_in_a_sentence(
    operator: Operator, tmp_path: Path
) -> None:
    for arguments in (("show", "1"), ("replay", "1"), ("poll",)):
        code, output, complaint = operator.run(*arguments, DATABASE_URL=f"sqlite:///{tmp_path}/db")
        assert (code, output) == (AWAY, "")
        assert complaint.endswith("Run: arrakis migrate (schema_outdated)\n")
        assert "Traceback" not in complaint


def test_wrong_use_is_told_in_a_sentence(operator: Operator) -> None:
    for arguments in (("show",), ("refund", "1")):
        code, output, complaint = operator.run(*arguments)
        assert (code, output) == (WRONG_USE, "")
        assert complaint.startswith("Usage: ")


def test_without_the_providers_key_notices_are_worked_off_unverified(operator: Operator) -> None:
    till = Till(operator.ledger)
    payment = till.payment()
    till.tell(payment, "finished")
    code, output, _ = operator.run("replay", payment.number, "--json", NOWPAYMENTS_API_KEY="")
    told = json.loads(output)
    assert (code, told["isProviderAsked"], told["status"]) == (FINE, False, "finished")
    assert usd_text(int(told["creditedMicro"])) == "25.00"
