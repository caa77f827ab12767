"""arrakis over the API of a running service: the facts, words and exit codes of the host."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shared.alerts.evaluating import evaluate
from shared.campaigns.lists import Wish
from shared.cli import reconcile
from shared.cli.api import Api as Remote
from shared.cli.desk import Call, get, post
from shared.cli.main import arrakis
from shared.clock import system_clock
from shared.errors import ArrakisError, Conflict, Forbidden, Invalid, NotFound, Unavailable
from shared.reconciliation import runs
from tests.alerts import a_letter_waits_for_a_person
from tests.campaigns import Campaigns
from tests.command import NO_REDIS
from tests.harness import Api, unique, wait_until
from tests.ledger import Ledger
from tests.reconciliation import Reconciling
from tests.till import Till


@dataclass
class Desks:
    """One database, reached directly and through a running API."""

    api: Api
    url: str

    def on_host(self, *words: str) -> Result:
        """Run the command on the database."""
        return run(*words, DATABASE_URL=self.url, REDIS_URL=NO_REDIS)

    def over_api(self, *words: str, **claims: Any) -> Result:
        """Run the command through the API, as an admin."""
        bearer = self.api.admin(**{"sub": unique("ann"), **claims})["Authorization"]
        token = bearer.removeprefix("Bearer ")
        return run(*words, ARRAKIS_API_URL=self.api.url, ARRAKIS_API_TOKEN=token)


def run(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(arrakis, list(words), env=environment)


def facts(done: Result) -> Any:
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return json.loads(done.stdout)


@pytest.fixture
def desks(api: Api) -> Desks:
    return Desks(api, api.database.engine.url.render_as_string(hide_password=False))


def test_what_is_read_is_the_same_to_the_letter(desks: Desks) -> None:
    account = desks.api.funded_account(2_000_000)
    for words in (
        ("account", "show", account),
        ("account", "list", "--limit", "2"),
        ("account", "statement", account, "--since", "2026-01-01", "--until", "2029-01-01"),
        ("payments", "list", "--account", account),
        ("dlq", "list"),
        ("campaign", "list"),
        ("config", "list"),
        ("config", "get", "reserve_ttl_seconds"),
        ("mode", "show"),
        ("mode", "readiness"),
        ("audit", "list", "--target-id", account),
        ("ledger", "shadow", "--account", account),
    ):
        by_host, by_api = desks.on_host(*words), desks.over_api(*words)
        assert (by_api.exit_code, by_api.stdout) == (by_host.exit_code, by_host.stdout), words
        assert by_host.stdout
        by_host, by_api = (run(*words, "--json") for run in (desks.on_host, desks.over_api))
        assert facts(by_api) == facts(by_host), words


def test_changes_are_the_token_bearers_and_repeats_add_nothing(desks: Desks) -> None:
    entity, who = unique("guild"), unique("bea")
    made = desks.over_api("account", "create", "community", entity, sub=who)
    account = made.stdout.split()[-1].removesuffix(".")
    assert made.stdout == f"Made {account}.\n"
    again = desks.over_api("account", "create", "community", entity, sub=who)
    assert again.stdout == f"There is already {account}.\n"
    order = ("mint", account, "5000000", "--key", unique("ticket"), "--yes")
    assert "nothing was added" not in desks.over_api(*order, sub=who).stdout
    assert "nothing was added" in desks.over_api(*order, sub=who).stdout
    shown = facts(desks.on_host("account", "show", account, "--json"))
    assert (shown["balance"]["availableMicro"], len(shown["lots"])) == ("5000000", 1)
    rows = facts(desks.on_host("audit", "list", "--actor", who, "--json"))["audit"]
    assert [(row["actorType"], row["action"]) for row in rows] == [
        ("admin", "admin_mint"),
        ("admin", "account_create"),
    ]


def test_a_campaign_is_drafted_looked_at_and_granted(desks: Desks, tmp_path: Path) -> None:
    draft = ("campaign", "create", "Spring", "--budget-micro", "9000000", "--json")
    config = ("--config", '{"amountMicro":"1000000"}')
    campaign = facts(desks.over_api(*draft, *config))["campaignId"]
    assert facts(desks.over_api("campaign", "activate", campaign, "--yes", "--json"))["status"] == (
        "active"
    )
    wallets = tmp_path / "wallets.csv"
    wallets.write_text(f"accountId\n{desks.api.funded_account(0)}\n")
    seen = [
        run("campaign", "preview", campaign, str(wallets))
        for run in (desks.on_host, desks.over_api)
    ]
    assert seen[0].stdout == seen[1].stdout
    asked = desks.over_api("campaign", "grant", campaign, str(wallets), "--no-wait", "--json")
    assert facts(asked)["total"] == 1
    batches = [
        run("campaign", "batches", campaign, "--json") for run in (desks.on_host, desks.over_api)
    ]
    assert facts(batches[0]) == facts(batches[1])


@pytest.fixture
def own(ledger: Ledger, api_of: Callable[[str], Api]) -> Desks:
    """The desks of a ledger that nobody else uses."""
    ledger.clock.now = system_clock()
    return Desks(api_of(ledger.url), ledger.url)


def told_alike(desks: Desks, *words: str) -> tuple[int, str]:
    """Return the exit code and the text that both desks give."""
    by_host, by_api = desks.on_host(*words), desks.over_api(*words)
    assert (by_api.exit_code, by_api.stdout) == (by_host.exit_code, by_host.stdout), words
    return by_host.exit_code, by_host.stdout


def test_alerts_are_shown_and_acknowledged(ledger: Ledger, own: Desks) -> None:
    assert told_alike(own, "alerts", "history") == (0, "No alert has ever fired.\n")
    a_letter_waits_for_a_person(ledger)
    evaluate(ledger.database)
    seen = ("alerts", "acknowledge", "dlq_manual_review", "--reason", "ticket 7")
    for desk, who in ((own.on_host, None), (own.over_api, unique("bea"))):
        done = desk(*seen, **({"sub": who} if who else {}))
        assert (done.exit_code, who is None or who in done.stdout) == (0, True)
    code, text = told_alike(own, "alerts")
    assert (code, f"[seen by {who}]" in text, "1 firing." in text) == (1, True, True)
    code, page = told_alike(own, "alerts", "history", "--limit", "2")
    cursor = page.split()[-1]
    assert (code, page.count("alert_acknowledge")) == (0, 2)
    assert "alert_fired" in told_alike(own, "alerts", "history", "--cursor", cursor)[1]
    for desk in (own.on_host, own.over_api):
        refused = desk("alerts", "acknowledge", "dlq_depth", "--reason", "x").exception
        assert isinstance(refused, NotFound)
        assert refused.code == "alert_not_firing"


def work_a_run_off(ledger: Ledger, redis_url: str) -> None:
    """Do what the workers do with the next run that is asked for, by the API's clock."""
    worker = Reconciling(ledger, redis_url)

    def work() -> int:
        ledger.clock.now = system_clock()
        return runs.work_off(worker.desk)

    wait_until("a run is asked for", work)
    while work():
        pass
    worker.database.dispose()


def test_a_reconciliation_is_waited_for(
    ledger: Ledger, own: Desks, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers do it; the exit tells the same as that of a run on the host."""
    empty = '{"lastReconciliationAt": null, "result": {}}\n'
    assert told_alike(own, "reconcile", "show", "--json") == (0, empty)
    monkeypatch.setattr(reconcile, "_ASK_SECONDS", 0.1)
    for redis, wait_seconds, code in ((redis_url, 2, 0), (NO_REDIS, 0, 3)):
        monkeypatch.setattr(reconcile, "_WAIT_SECONDS", wait_seconds)
        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work_a_run_off, ledger, redis)
            done = own.over_api("reconcile", "run", "--no-provider", "--json")
            working.result()
        run_id, shown = facts(done)["runId"], facts(done)
        assert (done.exit_code, shown["status"], shown["kind"]) == (code, "completed", "daily")
        assert told_alike(own, "reconcile", "show", run_id)[0] == code
    Till(ledger).payment(status="finished")
    assert own.on_host("reconcile", "run", "--no-provider").exit_code == 1
    code, text = told_alike(own, "reconcile", "show")
    assert (code, "arrakis payments replay cp_" in text) == (1, True)
    for desk in (own.on_host, own.over_api):
        assert isinstance(desk("reconcile", "show", "none").exception, NotFound)


def test_a_grant_is_revoked(ledger: Ledger, own: Desks) -> None:
    campaigns = Campaigns(ledger)
    campaign, [wallet] = campaigns.active(), campaigns.wallets(1)
    [made] = campaigns.granted(campaign, Wish(wallet, 2_000_000))["grants"]
    order = ("campaign", "revoke", made["grantId"], "--reason", "wrong wallet")
    where = ("--campaign", campaign)
    unsure = own.over_api(*order, *where)
    assert (unsure.exit_code, "add --yes" in unsure.output) == (2, True)
    nowhere = own.over_api(*order, "--yes")
    assert (nowhere.exit_code, "--campaign" in nowhere.output) == (2, True)
    words = f"{made['grantId']} is revoked: $2.00 came back, $0.00 stay spent.\n"
    assert own.over_api(*order, *where, "--yes").stdout == words
    for more in (where, (*where, "--json")):
        assert told_alike(own, *order, *more, "--yes")[0] == 0
    assert own.on_host(*order, "--yes").stdout == words  # which finds the campaign
    for desk in (own.on_host, own.over_api):
        refused = desk("campaign", "revoke", "none", "--reason", "x", "--yes", *where).exception
        assert isinstance(refused, NotFound)
        assert refused.code == "grant_not_found"
    assert campaigns.audited(campaign).count("grant_revoke") == 1


def test_refusals_are_the_same_on_both_desks(desks: Desks) -> None:
    for words, kind, code in (
        (("account", "show", "nobody"), NotFound, "account_not_found"),
        (("account", "show", ".."), NotFound, None),
        (("payments", "show", "none"), NotFound, "payment_not_found"),
        (("payments", "refund", "none", "--reason", "x", "--yes"), NotFound, "payment_not_found"),
        (("dlq", "show", "none"), NotFound, "dead_letter_not_found"),
        (("dlq", "retry", "none"), NotFound, "dead_letter_not_found"),
        (("campaign", "show", "none"), NotFound, "campaign_not_found"),
        (("config", "get", "none"), NotFound, "setting_not_found"),
        (("config", "set", "none", "1", "--reason", "x"), Invalid, "unknown_setting"),
        (("config", "set", "billing_mode", "soft", "--reason", "x"), Conflict, "mode_by_itself"),
    ):
        for run_there in (desks.on_host, desks.over_api):
            error = run_there(*words).exception
            assert isinstance(error, kind), words
            assert code is None or error.code == code, words


def test_a_token_that_may_not_is_refused_plainly(desks: Desks) -> None:
    missing = desks.over_api("account", "list", scopes=[]).exception
    assert isinstance(missing, Forbidden)
    forged = run("mode", "show", ARRAKIS_API_URL=desks.api.url, ARRAKIS_API_TOKEN="forged")
    assert isinstance(forged.exception, Invalid)
    assert "arrakis token admin" in forged.exception.message
    none = run("mode", "show", ARRAKIS_API_URL=desks.api.url)
    assert (none.exit_code, "ARRAKIS_API_TOKEN" in none.output) == (2, True)


def test_a_token_in_a_file_is_enough(desks: Desks, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(desks.api.admin(sub=unique("ann"))["Authorization"].split()[1] + "\n")
    named = ("--api", desks.api.url, "--token-file", str(file))
    assert run(*named, "mode", "show").exit_code == 0
    gone = run(*named[:3], str(tmp_path / "none"), "mode", "show")
    assert (gone.exit_code, "cannot be read" in gone.output) == (2, True)


class Scripted(BaseHTTPRequestHandler):
    """Answers with the next of the script; 0 breaks the connection."""

    script: list[tuple[int, dict[str, str], str]]
    heard: list[tuple[str, str | None]]

    def _next(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.heard.append((self.command, self.headers.get("Idempotency-Key")))
        status, headers, body = self.script.pop(0)
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_POST = _next  # noqa: N815  the names that the server calls

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def scripted() -> Iterator[tuple[type[Scripted], Remote, list[float]]]:
    """A server that answers as the test says, the desk that asks it, and for how long it slept."""
    kind = type("Handler", (Scripted,), {"script": [], "heard": []})
    slept: list[float] = []
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield kind, Remote(url, lambda: "token", sleep=slept.append), slept
        server.shutdown()
        thread.join()


def refused(desk: Remote, call: Call) -> ArrakisError:
    with pytest.raises(ArrakisError) as error:
        desk.read(call, None)
    return error.value


FINE = (200, {}, '{"a":"b"}')


def test_a_full_limit_is_waited_for_and_the_same_request_sent_again(scripted: Any) -> None:
    server, desk, slept = scripted
    busy = (429, {"Retry-After": "17"}, '{"code":"rate_limited","message":"Wait."}')
    server.script += [busy, FINE]
    assert desk.change(post("mode"), None).facts == {"a": "b"}
    assert slept == [17]
    [first, second] = server.heard
    assert first == second
    assert first[1]
    server.script += [busy] * 3
    assert isinstance(refused(desk, get("mode")), Unavailable)


def test_an_unknown_outcome_is_repeated_only_where_that_does_no_more(scripted: Any) -> None:
    server, desk, _ = scripted
    server.script += [(0, {}, ""), FINE]
    assert desk.change(post("mode"), None).facts == {"a": "b"}
    assert len(set(server.heard)) == 1
    server.script += [(0, {}, "")]
    once = Call("POST", ("campaigns",), body={}, is_repeatable=False)
    assert refused(desk, once).code == "outcome_unknown"
    ours = '{"code":"database_unavailable","message":"Away."}'
    for failure in ((503, {}, ours), (500, {}, ours), (502, {}, "<html>"), (500, {}, "")):
        server.script.append(failure)
        unknown = refused(desk, once)
        assert (type(unknown), unknown.code) == (Unavailable, "outcome_unknown")
        assert f"status {failure[0]}" in unknown.message
    assert server.script == []
    server.script += [(503, {}, ours)] * 3
    assert refused(desk, post("mode")).code == "database_unavailable"


def test_what_is_no_admin_api_is_told(scripted: Any) -> None:
    server, desk, _ = scripted
    for other in (
        (200, {}, "<html>"),
        (404, {}, "no"),
        (302, {"Location": "/x"}, ""),
        (200, {}, "[]"),
    ):
        server.script.append(other)
        assert refused(desk, get("mode")).code == "not_an_api"
    server.script.append((500, {}, "<html>"))
    failed = refused(desk, get("mode"))
    assert (type(failed), failed.code) == (Unavailable, "api_unavailable")
    for wrong in ("ftp://x", "billing", "http://"):
        assert run("--api", wrong, "mode", "show").exit_code == 2


@pytest.mark.parametrize("host", ["billing.example.com", "127.0.0.1.example.com", "10.0.0.7:8000"])
def test_the_token_is_never_sent_in_plain_to_another_host(host: str) -> None:
    done = run("--api", f"http://{host}", "mode", "show", ARRAKIS_API_TOKEN="token")
    assert done.exit_code == 2
    assert "--api must be https" in done.output
