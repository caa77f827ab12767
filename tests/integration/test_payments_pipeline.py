"""From a payment's creation to credits: API, simulator, receiver, Redis and workers, all real."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import text

from deploy.local.servers import free_port, running_redis
from shared.clock import system_clock
from shared.database import Database
from shared.ledger import integrity
from shared.messaging import TaskName, make_celery
from tests.harness import (
    Api,
    Databases,
    granian,
    service,
    service_environment,
    set_config,
    unique,
    wait_until,
    worker,
)


@dataclass
class System:
    """Every process of the system, running on one kind of database."""

    api: Api
    webhooks: str
    simulator: str
    redis: Any
    database: Database

    def buy(self, account: str, dollars: str = "25.00", key: str | None = None) -> dict[str, Any]:
        """Create a payment as the chat bot would, and return it."""
        body = {"accountId": account, "amountUsd": dollars, "payCurrency": "btc"}
        answer = self.api.internal("payments", body, key)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def simulate(self, payment: dict[str, Any], action: str, **body: Any) -> list[dict[str, Any]]:
        """Make the provider do something with *payment*; return what it delivered."""
        url = f"{self.simulator}/sim/payments/{payment['providerPaymentId']}/{action}"
        answer = requests.post(url, json={"wait": True, **body}, timeout=60)
        answer.raise_for_status()
        deliveries: list[dict[str, Any]] = answer.json()["deliveries"]
        return deliveries

    def payment(self, made: dict[str, Any]) -> dict[str, Any]:
        """Return a payment as the API shows it now."""
        headers = self.api.s2s(sub=unique("poller"))
        path = f"/api/internal/payments/{made['paymentId']}"
        shown: dict[str, Any] = self.api.get(path, headers=headers).json()
        return shown

    def available(self, account: str) -> int:
        """Return what an account has available."""
        headers = self.api.s2s(sub=unique("poller"))  # polling must not use up the tests' limit
        answer = self.api.get(f"/api/internal/accounts/{account}/balance", headers=headers)
        return int(answer.json()["availableMicro"])

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """Run a query on the system's database."""
        with self.database.reading() as tx:
            return list(tx.all(text(statement), **values))

    def wake(self, name: TaskName) -> None:
        """Send the workers what beat would send them at its time."""
        with make_celery(self.redis.url) as sender:
            sender.send_task(name.value, queue=name.queue, retry=False)

    def wait_idle(self) -> None:
        """Wait until no notice is left to work off."""
        due = "SELECT COUNT(*) FROM webhook_events WHERE state = 'new'"
        wait_until("the inbox is empty", lambda: self.rows(due)[0][0] == 0, 15)

    def verify(self) -> None:
        """Check every invariant of the ledger."""
        with self.database.reading() as tx:
            assert integrity.verify(tx) == []


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def system(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """The whole system on a Redis of its own, so that tests can stop it."""
    logs: Path = tmp_path_factory.mktemp("logs")
    url = databases.make(request.param)
    database = Database(url)
    set_config(database, billing_mode="live")
    api_port, webhooks_port, simulator_port = free_port(), free_port(), free_port()
    webhooks = f"http://127.0.0.1:{webhooks_port}"
    simulator = f"http://127.0.0.1:{simulator_port}"
    with ExitStack() as running:
        redis = running.enter_context(running_redis())
        environment = service_environment(
            url, redis.url, NOWPAYMENTS_API_URL=f"{simulator}/v1", ARRAKIS_LOG_LEVEL="INFO"
        )
        sim = [sys.executable, "-m", "deploy.simulator", "--port", str(simulator_port)]
        sim += ["--ipn-url", f"{webhooks}/api/billing/webhooks/nowpayments"]
        api_url = f"http://127.0.0.1:{api_port}"
        commands: list[tuple[list[str], str | None, str]] = [
            (sim, f"{simulator}/v1/status", "simulator"),
            (
                granian("services.api.wsgi:app", api_port),
                f"{api_url}/api/internal/health",
                "api",
            ),
            (granian("services.webhooks.wsgi:app", webhooks_port), f"{webhooks}/health", "hooks"),
            (worker("payments", "ledger", "maintenance"), None, "worker"),
        ]
        for command, ready, name in commands:
            running.enter_context(service(command, environment, ready, logs / name))
        yield System(Api(api_url, database), webhooks, simulator, redis, database)
        database.dispose()


def test_a_finished_payment_becomes_one_lot(system: System) -> None:
    """Behaviour 85: $25 finished -> lot of 25,000,000; the row has account, lot and amount."""
    account = system.api.funded_account(0)
    made = system.buy(account)
    assert (made["status"], made["priceAmount"], made["payCurrency"]) == ("waiting", "25.00", "btc")
    for status in ("confirming", "confirmed", "sending"):
        system.simulate(made, "advance", status=status)
    system.simulate(made, "advance", status="finished")
    wait_until("the credit", lambda: system.available(account) == 25_000_000, 10)
    shown = system.payment(made)
    assert (shown["status"], shown["creditedMicro"]) == ("finished", "25000000")
    lots = system.rows("SELECT * FROM credit_lots WHERE account_id = :a", a=account)
    assert [(lot.id, lot.source_type, lot.source_id) for lot in lots] == [
        (shown["lotId"], "deposit", f"nowpay-{made['providerPaymentId']}")
    ]
    history = system.api.get(f"/api/internal/accounts/{account}/history").json()["entries"]
    assert [entry["entryType"] for entry in history] == ["deposit"]
    keys = system.rows(
        "SELECT response_hash FROM billing_idempotency_keys WHERE scope = 'deposit' "
        "AND idempotency_key = :k",
        k=f"nowpay-{made['providerPaymentId']}",
    )
    assert [row[0] for row in keys] == [shown["lotId"]]


@pytest.mark.parametrize("name", ["happy", "finished-twice", "out-of-order"])
def test_notices_in_any_order_and_number_credit_once(system: System, name: str) -> None:
    account = system.api.funded_account(0)
    made = system.buy(account, "7.50")
    system.simulate(made, "scenario", name=name)
    wait_until("the credit", lambda: system.available(account) == 7_500_000)
    system.wait_idle()
    again = system.simulate(made, "notify", status="finished", times=3)
    assert [(d["http_status"], '"duplicate": true' in d["body"]) for d in again] == [
        (200, True)
    ] * 3
    system.simulate(made, "notify", status="confirming", actually_paid="0.1")
    system.wait_idle()
    assert system.available(account) == 7_500_000
    assert system.payment(made)["status"] == "finished"
    system.verify()


@pytest.mark.parametrize(
    ("name", "status"),
    [("failed", "failed"), ("expired", "expired")],
)
def test_a_payment_that_did_not_finish_credits_nothing(
    system: System, name: str, status: str
) -> None:
    account = system.api.funded_account(0)
    made = system.buy(account)
    system.simulate(made, "scenario", name=name)
    wait_until("the end", lambda: system.payment(made)["status"] == status)
    system.wait_idle()
    assert system.available(account) == 0


def test_a_late_deposit_after_expiry_is_credited(system: System) -> None:
    account = system.api.funded_account(0)
    made = system.buy(account)
    system.simulate(made, "scenario", name="late-after-expired")
    wait_until("the credit", lambda: system.available(account) == 25_000_000)
    assert system.payment(made)["status"] == "finished"


def test_a_partial_payment_is_worth_what_the_provider_paid_out(system: System) -> None:
    """Half of $25, less the provider's fee; the rest of it follows with the rest of the price."""
    account = system.api.funded_account(0)
    made = system.buy(account)
    system.simulate(made, "scenario", name="partial-then-finished")
    wait_until("the whole credit", lambda: system.available(account) == 25_000_000)
    parts = [credit["basis"] for credit in system.payment(made)["credits"]]
    assert parts == ["outcome", "price"]
    system.verify()


def test_a_repeated_deposit_is_worth_what_the_provider_paid_out_never_the_price(
    system: System,
) -> None:
    account = system.api.funded_account(0)
    made = system.buy(account)
    system.simulate(made, "scenario", name="repeated-deposit")
    wait_until("both credits", lambda: system.available(account) > 25_000_000)
    system.wait_idle()
    children = system.rows(
        "SELECT status, account_id, amount_usd_micro FROM crypto_payments"
        " WHERE parent_payment_id = :p",
        p=made["providerPaymentId"],
    )
    [(status, owner, credited)] = [tuple(row) for row in children]
    assert (status, owner) == ("finished", account)
    assert 9_900_000 < credited < 10_000_000  # 40 % of $25, less the provider's fee
    assert system.available(account) == 25_000_000 + credited


def test_an_unknown_payment_is_kept_and_waits_in_the_dead_letter_queue(system: System) -> None:
    stranger = system.buy(system.api.funded_account(0))
    with system.database.transaction() as tx:
        forget = text(
            "UPDATE crypto_payments SET provider_payment_id = :x, order_id = :x WHERE id = :i"
        )
        tx.run(forget, x=unique("moved"), i=stranger["paymentId"])
    deliveries = system.simulate(stranger, "advance", status="finished")
    assert [d["http_status"] for d in deliveries] == [200]
    letter = "SELECT operation_type, status, retry_count FROM billing_dlq WHERE payload LIKE :p"
    found = wait_until(
        "the dead letter",
        lambda: system.rows(letter, p=f"%{stranger['providerPaymentId']}%"),
    )
    assert [tuple(row) for row in found] == [("webhook", "pending", 0)]


def test_a_notice_that_comes_before_the_answer_to_the_creation_finds_its_order(
    system: System,
) -> None:
    made = system.buy(system.api.funded_account(0))
    with system.database.transaction() as tx:
        tx.run(
            text(
                "UPDATE crypto_payments SET provider_payment_id = NULL, status = 'creating' "
                "WHERE id = :i"
            ),
            i=made["paymentId"],
        )
    system.simulate(made, "advance", status="finished")
    wait_until("the end", lambda: system.payment(made)["status"] == "finished")
    assert system.payment(made)["providerPaymentId"] == made["providerPaymentId"]


def test_an_admin_mint_for_a_payment_makes_its_later_notice_credit_nothing(
    system: System,
) -> None:
    """Behaviour 186 (W67, R16)."""
    account = system.api.funded_account(0)
    made = system.buy(account)
    body = {
        "amountMicro": "25000000",
        "sourceType": "deposit",
        "paymentId": made["providerPaymentId"],
    }
    path = f"/admin/billing/accounts/{account}/mint"
    first = system.api.post(path, body, headers=system.api.admin())
    second = system.api.post(path, body, headers=system.api.admin())
    assert (first.status_code, first.content) == (201, second.content)
    system.simulate(made, "advance", status="finished")
    wait_until("the end", lambda: system.payment(made)["status"] == "finished")
    system.wait_idle()
    assert system.available(account) == 25_000_000
    assert system.payment(made)["lotId"] == first.json()["lotId"]


def test_a_payment_is_created_once_for_each_key(system: System) -> None:
    account, key = system.api.funded_account(0), unique("key")
    assert system.buy(account, key=key) == system.buy(account, key=key)
    body = {"accountId": account, "amountUsd": "26.00", "payCurrency": "btc"}
    other = system.api.internal("payments", body, key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


def test_a_provider_that_is_down_creates_no_second_address(system: System) -> None:
    account, key = system.api.funded_account(0), unique("key")
    body = {"accountId": account, "amountUsd": "5.00", "payCurrency": "btc"}
    fault = {"mode": "down", "count": 1}
    requests.post(f"{system.simulator}/sim/faults", json=fault, timeout=5).raise_for_status()
    answers = [system.api.internal("payments", body, key) for _ in range(2)]
    assert [(a.status_code, a.json()["code"]) for a in answers] == [
        (503, "payment_outcome_unknown")
    ] * 2
    rows = system.rows("SELECT status FROM crypto_payments WHERE account_id = :a", a=account)
    assert [row.status for row in rows] == ["creating"]


def test_with_redis_stopped_a_notice_is_answered_and_credited_all_the_same(
    system: System,
) -> None:
    account = system.api.funded_account(0)
    made = system.buy(account)
    system.redis.stop()
    try:
        began = time.monotonic()
        deliveries = system.simulate(made, "advance", status="finished")
        assert [d["http_status"] for d in deliveries] == [200]
        assert time.monotonic() - began < 2
        wait_until("the credit", lambda: system.available(account) == 25_000_000, 15)
        answer = system.api.internal(
            "reserve", {"accountId": account, "estimatedCostMicro": "1000000"}
        )
        assert answer.status_code == 200
    finally:
        system.redis.start()
    another = system.buy(account)
    system.simulate(another, "advance", status="finished")
    wait_until("the credit", lambda: system.available(account) == 49_000_000, 15)
    system.verify()


def test_64_threads_over_http_never_overspend_one_account(system: System) -> None:
    account = system.api.funded_account(10_000_000)

    def reserve(number: int) -> int:
        headers = system.api.s2s(sub=f"{account}-{number % 8}")
        body = {"accountId": account, "estimatedCostMicro": "100000"}
        return system.api.post("/api/internal/reserve", body, headers=headers).status_code

    with ThreadPoolExecutor(64) as threads:
        statuses = list(threads.map(reserve, range(256)))
    assert (statuses.count(200), statuses.count(402)) == (100, 156)
    assert system.available(account) == 0
    system.verify()


def test_expired_holds_come_back_and_revenue_is_rolled_up_by_the_workers(
    system: System,
) -> None:
    account = system.api.funded_account(5_000_000)
    body = {"accountId": account, "estimatedCostMicro": "5000000", "ttlSeconds": 1}
    held = system.api.internal("reserve", body).json()
    ends = datetime.fromisoformat(held["expiresAt"])
    wait_until("the end of its time", lambda: system_clock() > ends)
    system.wake(TaskName.EXPIRE_HOLDS)
    wait_until("the hold is ended", lambda: system.available(account) == 5_000_000, 15)
    shown = system.api.get(f"/api/internal/reservations/{held['reservationId']}").json()
    assert shown["status"] == "expired"
    fresh = system.api.internal(
        "reserve", {"accountId": account, "estimatedCostMicro": "1000000"}
    ).json()
    done = {"reservationId": fresh["reservationId"], "actualCostMicro": "1000000"}
    assert system.api.internal("finalize", done).status_code == 200
    system.wake(TaskName.ROLL_UP_REVENUE)
    posted = "SELECT is_revenue_posted AS done FROM credit_reservations WHERE id = :r"
    wait_until("the roll-up", lambda: system.rows(posted, r=fresh["reservationId"])[0].done, 15)
    system.verify()
