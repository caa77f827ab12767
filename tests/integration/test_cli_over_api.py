"""arrakis over the API of a running service: the facts, words and exit codes of the host."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shared.cli.api import Api as Remote
from shared.cli.desk import Call, get, post
from shared.cli.main import arrakis
from shared.errors import ArrakisError, Conflict, Forbidden, Invalid, NotFound, Unavailable
from tests.command import NO_REDIS
from tests.harness import Api, unique


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
    server.script += [(503, {}, '{"code":"database_unavailable","message":"Away."}')]
    assert refused(desk, once).code == "database_unavailable"
    assert server.script == []


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
