"""What tests of top-ups stand on: an API that takes x402, its simulator, and the worker behind it.

Nothing runs by itself: a test says when the worker looks and when blocks are mined.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import text

from deploy.simulator.wallet import read_header, sign_claim, sign_v1, sign_v2
from shared.balance_cache import BalanceCache
from shared.config import ProviderSettings
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.payments import watching
from shared.payments.quotes import Cashier
from shared.payments.x402.claims import claim_text
from shared.wiring import make_cashier
from tests.front_door import breaches, rows
from tests.harness import Api, Databases, running_api, set_config, started_once, unique
from tests.provider_harness import Simulator
from tests.x402_harness import PAYER, PAYER_KEY, SHOP, X402

M = 1_000_000
FIVE = {"amountUsd": "5.00"}
_DUE = text(
    "UPDATE x402_settlements SET due_at = created_at, lease_until = NULL WHERE state = 'new'"
)
_LEFT = text("UPDATE x402_settlements SET state = 'parked' WHERE state = 'new'")


@dataclass(frozen=True)
class Premises:
    """A running API and all that another process needs to work on the same database."""

    api: Api
    url: str
    settings: dict[str, str]
    database: Database
    redis_url: str
    log: Path

    def cashier(self) -> Cashier:
        """Return the cashier of a worker that has just started."""
        made = ProviderSettings(database_url=self.url, x402_networks=self.settings["X402_NETWORKS"])
        return make_cashier(made, self.database, TermsCache(self.database))


class Shop:
    """An API that takes x402, its simulator, and the worker that looks settlements up."""

    def __init__(self, premises: Premises, x402: X402) -> None:
        self.premises, self.x402 = premises, x402
        self.api = replace(premises.api, subject=unique("caller"))
        self.cashier = premises.cashier()
        self.account = self.api.funded_account(0)

    def post(
        self, body: Any, account: str | None = None, api: Api | None = None, **headers: str
    ) -> requests.Response:
        """POST /topup as a member."""
        at = api or self.api
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        bearer = at.member(account or self.account)
        return at.post("/api/billing/topup", body, headers=bearer | sent)

    def ask(self, body: Any = FIVE, account: str | None = None) -> requests.Response:
        """Ask for terms."""
        asked = self.post(body, account)
        assert asked.status_code == 402, asked.text
        return asked

    def pay(self, body: Any = FIVE, version: int = 2, **how: Any) -> requests.Response:
        """Ask for terms, sign them, pay them."""
        return self.post(body, **self.sign(self.ask(body), version, **how))

    def sign(self, asked: requests.Response, version: int = 2, **how: Any) -> dict[str, str]:
        """Return the payment header that the terms in *asked* want; *changes* act on the terms."""
        how.setdefault("key", PAYER_KEY)
        changes = how.pop("changes", {})
        is_second = version == 2
        told = read_header(asked.headers["PAYMENT-REQUIRED"]) if is_second else asked.json()
        told["accepts"][0].update(changes)
        if is_second:
            return {"PAYMENT_SIGNATURE": sign_v2(told, **how)}
        return {"X_PAYMENT": sign_v1(told, **how)}

    def watch(self) -> None:
        """Let everything that waits become due, and look it up once."""
        with self.api.database.transaction() as tx:
            tx.run(_DUE)
        while watching.watch(self.cashier):
            pass

    def balance(self, account: str | None = None) -> int:
        """Return what the member has."""
        bearer = self.api.member(account or self.account)
        told = self.api.get("/api/billing/balance", headers=bearer)
        return int(told.json()["availableMicro"])

    def payment(self, payment_id: str, account: str | None = None) -> dict[str, Any]:
        """Return a payment as its member sees it."""
        bearer = self.api.member(account or self.account)
        shown = self.api.get(f"/api/billing/payments/{payment_id}", headers=bearer)
        assert shown.status_code == 200, shown.text
        return dict(shown.json())

    def claim(
        self, transaction: str, account: str | None = None, key: str = PAYER_KEY, **changes: Any
    ) -> dict[str, Any]:
        """Return the body that claims a transfer."""
        words = claim_text(transaction=transaction, account_id=account or self.account)
        return {
            **FIVE,
            "txHash": transaction,
            "chainId": 8453,
            "from": PAYER,
            "amount": "5000000",
            "signature": sign_claim(words, key),
            **changes,
        }

    def settlements(self, account: str | None = None) -> list[tuple[Any, ...]]:
        """Return phase, state and openness of an account's settlements, oldest first."""
        statement = (
            "SELECT s.phase, s.state, s.is_open FROM x402_settlements s"
            " JOIN crypto_payments p ON p.id = s.payment_id"
            " WHERE p.account_id = :id ORDER BY s.id"
        )
        found = rows(self.api, statement, id=account or self.account)
        return [(phase, state, bool(is_open)) for phase, state, is_open in found]

    def dead_letters(self, payment_id: str) -> list[tuple[Any, ...]]:
        """Return the dead letters of a payment."""
        statement = (
            "SELECT operation_type, status FROM billing_dlq WHERE subject_id = :id"
            " ORDER BY created_at"
        )
        return rows(self.api, statement, id=payment_id)


def at_once(*calls: Callable[[], requests.Response]) -> list[requests.Response]:
    """Make all *calls* at the same moment, each in a thread of its own; return their answers."""
    barrier = threading.Barrier(len(calls))
    answers: list[Any] = [None] * len(calls)

    def run(place: int, call: Callable[[], requests.Response]) -> None:
        barrier.wait()
        answers[place] = call()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def networks(simulator: Simulator, **changes: Any) -> str:
    """Return the setting that has us paid on the simulator's chain; None leaves a field out."""
    place = {
        "network": "eip155:8453",
        "payTo": SHOP,
        "facilitatorUrl": f"{simulator.url}/facilitator",
        "rpcUrl": f"{simulator.url}/rpc",
        **changes,
    }
    return json.dumps([{name: value for name, value in place.items() if value is not None}])


@pytest.fixture(scope="session")
def all_premises(
    databases: Databases,
    redis_url: str,
    one_simulator: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Premises]]:
    """Return the API with x402 on, on a kind of database; it serves the run."""

    @contextmanager
    def start(kind: str) -> Iterator[Premises]:
        url = databases.make(kind)
        log: Path = tmp_path_factory.mktemp("logs") / "api.log"
        settings = {
            "X402_NETWORKS": networks(one_simulator),
            "NOWPAYMENTS_API_URL": f"{one_simulator.url}/v1",
            "NOWPAYMENTS_API_KEY": one_simulator.session.headers["x-api-key"],
        }
        with running_api(url, redis_url, log, **settings) as api:
            set_config(api.database, billing_mode="live")
            database = Database(url, after_commit=[BalanceCache(redis_url)])
            yield Premises(api, url, settings, database, redis_url, log)
            database.dispose()

    with started_once(start) as of_kind:
        yield of_kind


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def premises(request: pytest.FixtureRequest, all_premises: Callable[[str], Premises]) -> Premises:
    """The API with x402 on, shared by all tests of the run."""
    return all_premises(request.param)


@pytest.fixture
def shop(premises: Premises, x402: X402) -> Iterator[Shop]:
    """A member of this test's own, with a payer who has money; the books are right at the end."""
    x402.give(PAYER, 1_000 * M)
    with premises.api.database.transaction() as tx:
        tx.run(_LEFT)  # what another test left waits for a chain that is no more
    made = Shop(premises, x402)
    yield made
    assert breaches(made.api) == []
