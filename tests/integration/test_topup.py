"""Top-ups by x402 over HTTP, with a real facilitator's protocol and a chain beside (contract 7)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import text

from deploy.simulator.wallet import sign_claim, sign_v1, sign_v2
from shared.balance_cache import BalanceCache
from shared.config import ProviderSettings
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.payments import watching
from shared.payments.quotes import Cashier
from shared.payments.x402.claims import claim_text
from shared.wiring import make_cashier
from tests.front_door import breaches, rows
from tests.harness import Api, Databases, running_api, set_config, unique
from tests.provider_harness import Simulator
from tests.x402_harness import PAYER, PAYER_KEY, SHOP, X402

M = 1_000_000
_DUE = text(
    "UPDATE x402_settlements SET due_at = created_at, lease_until = NULL WHERE state = 'new'"
)


class Shop:
    """An API that takes x402, its simulator, and the worker that looks settlements up."""

    def __init__(self, api: Api, x402: X402, cashier: Cashier) -> None:
        self.api, self.x402, self.cashier = api, x402, cashier
        self.account = api.funded_account(0)

    def post(
        self, body: dict[str, Any], account: str | None = None, **headers: str
    ) -> requests.Response:
        """POST /topup as a member."""
        bearer = self.api.member(account or self.account)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.api.post("/api/billing/topup", body, headers=bearer | sent)

    def pay(self, body: dict[str, Any], version: int = 2, **how: Any) -> requests.Response:
        """Ask for terms, sign them, pay them."""
        asked = self.post(body)
        assert asked.status_code == 402, asked.text
        return self.post(body, **self.sign(asked, version, **how))

    def sign(self, asked: requests.Response, version: int = 2, **how: Any) -> dict[str, str]:
        """Return the payment header that the terms in *asked* want."""
        how.setdefault("key", PAYER_KEY)
        if version == 2:
            return {"PAYMENT_SIGNATURE": sign_v2(asked.headers["PAYMENT-REQUIRED"], **how)}
        return {"X_PAYMENT": sign_v1(asked.json(), **how)}

    def watch(self) -> None:
        """Let everything that waits become due, and look it up."""
        with self.api.database.transaction() as tx:
            tx.run(_DUE)
        while watching.watch(self.cashier):
            pass

    def balance(self, account: str | None = None) -> int:
        """Return what the member has."""
        bearer = self.api.member(account or self.account)
        told = self.api.get("/api/billing/balance", headers=bearer)
        return int(told.json()["availableMicro"])

    def claim(self, transaction: str, account: str | None = None, **changes: Any) -> dict[str, Any]:
        """Return the body that claims a transfer."""
        words = claim_text(transaction=transaction, account_id=account or self.account)
        signature = sign_claim(words, PAYER_KEY)
        return {
            "amountUsd": "5.00",
            "txHash": transaction,
            "chainId": 8453,
            "from": PAYER,
            "amount": "5000000",
            "signature": signature,
            **changes,
        }


def networks(simulator: Simulator) -> str:
    """Return the setting that has us paid on the simulator's chain."""
    place = {
        "network": "eip155:8453",
        "payTo": SHOP,
        "facilitatorUrl": f"{simulator.url}/facilitator",
        "rpcUrl": f"{simulator.url}/rpc",
    }
    return json.dumps([place])


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def shop_api(
    request: pytest.FixtureRequest,
    databases: Databases,
    redis_url: str,
    one_simulator: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Api, Cashier]]:
    """The API with x402 on, one for each kind of database."""
    url = databases.make(request.param)
    log: Path = tmp_path_factory.mktemp("logs") / "api.log"
    settings = {"X402_NETWORKS": networks(one_simulator)}
    with running_api(url, redis_url, log, **settings) as api:
        set_config(api.database, billing_mode="live")
        made = ProviderSettings(database_url=url, x402_networks=settings["X402_NETWORKS"])
        database = Database(url, after_commit=[BalanceCache(redis_url)])
        yield api, make_cashier(made, database, TermsCache(database))
        database.dispose()


@pytest.fixture
def shop(shop_api: tuple[Api, Cashier], x402: X402) -> Iterator[Shop]:
    """A member of this test's own, with a payer who has money."""
    api, cashier = shop_api
    x402.give(PAYER, 1_000 * M)
    yield Shop(replace(api, subject=unique("caller")), x402, cashier)
    assert breaches(api) == []


@pytest.mark.parametrize("version", [1, 2])
def test_terms_are_told_paid_and_credited_once(shop: Shop, version: int) -> None:
    body = {"amountUsd": "5.00"}
    asked = shop.post(body)
    assert asked.status_code == 402
    assert (asked.json()["code"], asked.json()["creditMicro"]) == ("payment_required", "5000000")
    header = shop.sign(asked, version)
    paid = shop.post(body, **header)
    assert paid.status_code == 201, paid.text
    told = paid.json()
    assert (told["status"], told["settlement"]) == ("finished", "settled")
    assert (told["amountUsdMicro"], told["provider"]) == ("5000000", "x402")
    assert paid.headers["X-PAYMENT-RESPONSE" if version == 1 else "PAYMENT-RESPONSE"]
    assert shop.balance() == 5 * M
    again = shop.post(body, **header)
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    assert shop.balance() == 5 * M
    lot = rows(shop.api, "SELECT source_id FROM credit_lots WHERE id = :id", id=told["lotId"])
    assert lot == [(f"x402-{told['transaction']}",)]
    assert shop.x402.balance(SHOP) == 5 * M


def test_a_transfer_is_claimed_by_its_sender_for_one_account(shop: Shop) -> None:
    """Behaviours 87, 162."""
    sent = shop.x402.transfer(5 * M, to=SHOP)["transaction"]
    early = shop.post(shop.claim(sent))
    assert early.status_code == 202, early.text
    assert early.json()["settlement"] == "settlement_pending"
    shop.watch()
    assert shop.balance() == 0
    shop.x402.mine(12)
    shop.watch()
    assert shop.balance() == 5 * M
    again = shop.post(shop.claim(sent))
    assert (again.status_code, again.json()["code"]) == (409, "payment_replayed")
    thief = shop.api.funded_account(0)
    stolen = shop.post(shop.claim(sent, account=thief), account=thief)
    assert (stolen.status_code, stolen.json()["code"]) == (409, "payment_replayed")
    assert shop.balance(thief) == 0
