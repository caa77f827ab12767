"""`arrakis-sim` as a developer runs it: what it prints, and the exit code that scripts read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.simulator.cli import main
from tests.provider_harness import API_KEY, IPN_SECRET, ROOT


def arrakis_sim(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_it_lists_every_scenario_with_its_sentence(simulator):
    code, output, _ = arrakis_sim("scenarios")
    listed = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert (code, listed) == (0, simulator.get("/sim/scenarios").json())


def test_a_scenario_is_played_on_the_newest_payment_or_a_named_one(simulator, receiver):
    named, newest = (simulator.new_id(pay_currency="ltc") for _ in range(2))
    code, output, _ = arrakis_sim("scenario", "repeated-deposit", "--url", f"{simulator.url}/v1")
    first, *notices, last = output.splitlines()
    sentence = simulator.get("/sim/scenarios").json()["repeated-deposit"]
    assert (code, first) == (0, f"repeated-deposit on payment {newest}: {sentence}")
    child = receiver.arrivals[-1].notice["payment_id"]
    assert notices[4:] == [
        '  notice finished       → HTTP 200 {"received":true}',
        f'  notice confirming     of payment {child} → HTTP 200 {{"received":true}}',
        f'  notice finished       of payment {child} → HTTP 200 {{"received":true}}',
    ]
    assert last == (
        f"Payment {newest} is finished: 0.3125 of 0.3125 ltc paid, outcome 24.875 usdttrc20."
    )
    where = ("--payment", str(named), "--url", simulator.url)
    code, output, _ = arrakis_sim("scenario", "missed", *where)
    assert (code, output.splitlines()[1]) == (0, "  no notice was sent")
    assert simulator.read(named)["payment_status"] == "finished"
    assert receiver.statuses_of(named) == []


def test_a_notice_that_is_not_accepted_is_shown_and_is_bad_news(simulator, receiver):
    receiver.statuses[:] = [200, 503, 503, 503]
    simulator.new_id()
    code, output, _ = arrakis_sim("scenario", "expired", "--url", simulator.url)
    assert code == 1
    assert '  notice expired        → HTTP 503 (try 3) {"received":true}' in output


def test_faults_are_listed_shown_and_set(simulator):
    code, output, _ = arrakis_sim("faults")
    titles = [line for line in output.splitlines() if not line.startswith(" ")]
    assert (code, titles) == (0, ["every API:", "provider:", "facilitator:", "rpc:"])
    where = ("--url", simulator.url)
    given = ("refuse_settle", "--count", "2", "--code", "transaction_failed")
    shown = "facilitator: refuse_settle, on settle, code transaction_failed, count 2\n"
    assert arrakis_sim("faults", "facilitator", *given, *where) == (0, shown, "")
    assert arrakis_sim("faults", "facilitator", *where) == (0, shown, "")
    assert arrakis_sim("faults", "provider", *where)[1] == "provider: none\n"
    code, output, complaint = arrakis_sim("faults", "rpc", "down", "--seconds", "601", *where)
    assert (code, output, complaint) == (2, "", "seconds must be at most 600.\n")
    code, _, complaint = arrakis_sim("faults", "rpc", "refuse_settle", *where)
    assert (code, "rpc has no fault refuse_settle" in complaint) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("scenario", "happy", "--url", "http://127.0.0.1:9"), 3, "No simulator answers at"),
        (("scenario", "unheard-of"), 2, "'unheard-of' is not one of 'happy'"),
        (("faults", "nowhere"), 2, "'nowhere' is not one of"),
    ],
)
def test_wrong_use_and_an_absent_simulator_are_told_apart(arguments, code, complaint):
    done, output, error = arrakis_sim(*arguments)
    assert (done, output) == (code, "")
    assert complaint in error
    assert "Traceback" not in error


def test_an_unknown_payment_is_wrong_use(simulator):
    code, _, complaint = arrakis_sim(
        *("scenario", "happy", "--payment", "77", "--url", simulator.url)
    )
    assert (code, complaint) == (2, "There is no payment 77.\n")


def test_it_is_installed_as_a_command_that_serves():
    command = [str(Path(sys.executable).with_name("arrakis-sim")), "serve", "--port", "0"]
    secrets = {"NOWPAYMENTS_API_KEY": API_KEY, "NOWPAYMENTS_IPN_SECRET": IPN_SECRET}
    pipes = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | secrets, **pipes) as served:
        line = served.stdout.readline()
        served.terminate()
        assert served.wait(timeout=8) == 0
    assert line.startswith("Simulator ready: provider http://127.0.0.1:")
    assert line.endswith("/rpc\n")
