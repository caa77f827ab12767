"""Logs: from a request to its ledger entries by ids, and never a secret, whoever sends it."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests.harness import (
    SECRETS,
    Api,
    Databases,
    running_api,
    service,
    service_environment,
    wait_until,
    worker,
)
from tests.receiver import Receiver, notice, own_payment_id, running_receiver

INFO = {"ARRAKIS_LOG_LEVEL": "INFO"}
IDS = {"X-Request-Id": "request-of-mine", "X-Correlation-Id": "inference-7"}


class Echo(BaseHTTPRequestHandler):
    """A provider whose errors repeat whatever it was sent, our key included."""

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        said = f"{self.path} {dict(self.headers)} {self.rfile.read(length)!r}"
        body = json.dumps({"statusCode": 400, "code": said[:200], "message": said}).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815  the names that http.server looks for

    def log_message(self, *_: Any) -> None:
        """Print nothing: this is the provider, not us."""


@contextmanager
def echoing_provider() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def logged(
    databases: Databases, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Api, Receiver, Path]]:
    """API, receiver and a worker that log to one folder; their provider gives secrets back."""
    logs = tmp_path_factory.mktemp("logs")
    url = databases.make("sqlite")
    with ExitStack() as running:
        provider = running.enter_context(echoing_provider())
        settings = INFO | {
            "NOWPAYMENTS_API_URL": provider,
            "PAYMENTS_VERIFY_BEFORE_CREDIT": "true",
        }
        api = running.enter_context(running_api(url, redis_url, logs / "api.log", **settings))
        receiver = running.enter_context(
            running_receiver(url, redis_url, logs / "webhooks.log", **settings)
        )
        environment = service_environment(url, redis_url, **settings)
        command = [*worker("payments", "ledger")]
        command[command.index("WARNING")] = "INFO"
        running.enter_context(service(command, environment, None, logs / "worker.log"))
        yield api, receiver, logs


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in log.read_text().splitlines() if one.startswith("{")]


def test_a_request_is_followed_to_its_entries_and_back(
    logged: tuple[Api, Receiver, Path],
) -> None:
    api, _, logs = logged
    account = api.funded_account(10_000_000)
    body = {"accountId": account, "estimatedCostMicro": "5000000"}
    held = api.post("/api/internal/reserve", body, headers=api.s2s() | IDS)
    assert {name: held.headers[name] for name in IDS} == IDS
    reservation = held.json()["reservationId"]
    settled = {"reservationId": reservation, "actualCostMicro": "3000000"}
    api.internal("finalize", settled)
    conflict = api.internal("finalize", settled | {"actualCostMicro": "4"})
    nobody = api.internal("finalize", settled | {"reservationId": "no-such-thing"})
    refused = api.internal("reserve", body | {"estimatedCostMicro": "99000000"})
    assert [conflict.status_code, nobody.status_code] == [409, 404]

    told = [one for one in lines(logs / "api.log") if one["event"] == "request_answered"]
    [mine] = [one for one in told if one["request_id"] == "request-of-mine"]
    assert (mine["correlation_id"], mine["reservation_id"], mine["account_id"]) == (
        "inference-7",
        reservation,
        account,
    )
    by_id = {one["request_id"]: one for one in told}
    assert by_id[conflict.headers["X-Request-Id"]]["reservation_id"] == reservation
    assert "reservation_id" not in by_id[nobody.headers["X-Request-Id"]]
    assert refused.status_code in (200, 402)
    assert by_id[refused.headers["X-Request-Id"]]["account_id"] == account
    with api.database.reading() as tx:
        entries = tx.all(
            text("SELECT entry_type FROM credit_ledger WHERE reservation_id = :id"), id=reservation
        )
    assert entries
    explained = api.admin_get(f"explain/{reservation}")
    assert (explained.status_code, reservation in explained.text) == (200, True)


def test_a_notice_is_followed_from_the_receiver_to_the_worker(
    logged: tuple[Api, Receiver, Path],
) -> None:
    _, receiver, logs = logged
    answer = receiver.deliver(
        notice(payment_id=own_payment_id(), payment_status="confirming"), **IDS
    )
    assert answer.headers["X-Request-Id"] == IDS["X-Request-Id"]
    stored = [one for one in lines(logs / "webhooks.log") if "event_id" in one][-1]
    assert stored["event"] == "request_answered"
    assert (stored["request_id"], stored["correlation_id"]) == tuple(IDS.values())
    assert (stored["outcome"], stored["payment_status"]) == ("stored", "confirming")

    def worked_off() -> list[dict[str, Any]]:
        told = [one for one in lines(logs / "worker.log") if one["event"] == "notice_processed"]
        return [one for one in told if one["event_id"] == stored["event_id"]]

    [processed] = wait_until("the notice is worked off", worked_off)
    assert processed["outcome"] == "unknown_payment"
    assert processed["task"] == "payments.drain_webhooks"


def test_no_secret_is_ever_logged(logged: tuple[Api, Receiver, Path]) -> None:
    api, receiver, logs = logged
    account = api.funded_account(1_000_000)
    tokens = [next(iter(one.values())).split()[1] for one in (api.s2s(), api.member(account))]
    secrets = [*SECRETS.values(), *tokens]
    for secret in secrets:
        # A request's name is logged as it is, so who calls a service must not name it by a secret
        # of another one, which that service cannot know.
        name = {"X-Request-Id": secret, "X-Correlation-Id": secret, "User-Agent": secret}
        is_receivers = secret == SECRETS["NOWPAYMENTS_IPN_SECRET"]
        everywhere = {"User-Agent": secret} if is_receivers else name
        for headers in ({"Authorization": f"Bearer {secret}"}, api.s2s() | everywhere):
            body = {"accountId": secret, "estimatedCostMicro": secret, "metadata": {"a": secret}}
            api.post("/api/internal/reserve", body, headers=headers)
            api.post("/api/internal/finalize", {"reservationId": secret}, headers=headers)
            api.post("/api/internal/reserve", data=f'{{"{secret}', headers=headers)
            api.get(f"/api/internal/accounts/{secret}/balance?key={secret}", headers=headers)
            api.get(f"/{secret}?token={secret}", headers=headers)
        everywhere = name if is_receivers or secret in tokens else {"User-Agent": secret}
        receiver.deliver(notice(token=secret), **everywhere, **{"x-nowpayments-sig": secret})
        receiver.deliver(f'{{"{secret}'.encode(), **everywhere)
        receiver.deliver(notice(payment_id=own_payment_id(), payment_status=secret, x=secret))
    asked = {"amountUsd": "25.00", "payCurrency": "btc"}
    made = api.post("/api/billing/payments", asked, headers=api.member(account))
    assert made.status_code == 400  # the provider's error, which says our key
    _finish_one_that_the_provider_must_confirm(api, receiver, account)
    wait_until(
        "the worker has asked the provider",
        lambda: "provider_called" in (logs / "worker.log").read_text(),
    )
    for log in logs.iterdir():
        said = log.read_text()
        assert said
        assert [secret[:24] for secret in secrets if secret in said] == [], log.name


def _finish_one_that_the_provider_must_confirm(api: Api, receiver: Receiver, account: str) -> None:
    number = own_payment_id()
    with api.database.transaction() as tx:
        tx.run(
            text(
                "UPDATE crypto_payments SET provider_payment_id = :number, status = 'waiting' "
                "WHERE account_id = :account"
            ),
            number=str(number),
            account=account,
        )
    receiver.deliver(notice(payment_id=number, payment_status="finished", actually_paid=1))
