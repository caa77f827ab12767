"""The steady load of `bench.soak`: services that hold and settle, payers and their provider."""

import hashlib
import hmac
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jwt
from sqlalchemy import text

from deploy.local.stack import Stack
from shared.database import Database

REFUSALS = 300  # the first status that is one
_ACCOUNTS = [f"acct-soak-{number}" for number in range(200)]
_STORY = ("waiting", "confirming", "confirmed", "sending", "finished")  # a payment's notices
_CALLS_OF_A_SUBJECT = 20  # below the smallest limit of one caller in a minute


class Caller:
    """One thread of the load, with kept-alive connections of its own, and what it was answered."""

    def __init__(self, name: str, stack: Stack, ports: dict[str, int]) -> None:
        self.name = name
        self.answers = Counter[int]()
        self._secrets = stack.env
        self._lines = {
            server: http.client.HTTPConnection("127.0.0.1", ports[server], timeout=30)
            for server in ("api", "webhooks")
        }
        self._calls = 0

    def call(self, server: str, method: str, path: str, body: Any, headers: dict[str, str]) -> Any:
        """Send one request; return the answer's JSON, None if it was refused."""
        line = self._lines[server]
        line.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = line.getresponse()
        told = answer.read()
        self.answers[answer.status] += 1
        return json.loads(told) if answer.status < REFUSALS else None

    def ask(self, method: str, path: str, body: Any = None, *, is_admin: bool = False) -> Any:
        """Call the API as a service, or as an operator."""
        secret, life = self._secrets["BILLING_INTERNAL_JWT_SECRET"], 290
        claims: dict[str, Any] = {"iss": "loa-finn", "aud": "arrakis-internal"}
        if is_admin:
            secret = self._secrets["BILLING_ADMIN_JWT_SECRET"]
            claims = {"iss": "arrakis-admin", "aud": "arrakis-billing-admin"}
            claims["scopes"] = ["billing:read", "billing:write"]
        self._calls, now = self._calls + 1, int(time.time())
        subject = f"{self.name}-{self._calls // _CALLS_OF_A_SUBJECT}"
        claims |= {"sub": subject, "iat": now, "exp": now + life}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, secret, algorithm='HS256')}"}
        if is_admin:
            headers["Idempotency-Key"] = f"{self.name}-{self._calls}"
        sent = None if body is None else json.dumps(body).encode()
        return self.call("api", method, path, sent, headers)

    def tell(self, notice: dict[str, Any]) -> None:
        """Send a signed notice to the receiver, as the provider does."""
        sent = json.dumps(notice, sort_keys=True, separators=(",", ":")).encode()
        secret = self._secrets["NOWPAYMENTS_IPN_SECRET"].encode()
        signature = hmac.new(secret, sent, hashlib.sha512).hexdigest()
        path = "/api/billing/webhooks/nowpayments"
        self.call("webhooks", "POST", path, sent, {"x-nowpayments-sig": signature})


def prepare(caller: Caller, database: Database) -> None:
    """Make accounts with credits, and charge for real."""
    for account in _ACCOUNTS:
        made = {"entityType": "person", "entityId": account, "accountId": account}
        caller.ask("POST", "/admin/billing/accounts", made, is_admin=True)
        funds = {"amountMicro": "50000000", "sourceType": "grant"}
        caller.ask("POST", f"/admin/billing/accounts/{account}/mint", funds, is_admin=True)
    with database.transaction() as tx:
        tx.run(text("UPDATE billing_config SET value = 'live' WHERE key = 'billing_mode'"))


def spending(caller: Caller) -> Iterator[None]:
    """Hold, read the balance, settle; look at the history now and then."""
    for number, account in enumerate(itertools.cycle(_ACCOUNTS)):
        path = f"/api/internal/accounts/{account}"
        wanted = {"accountId": account, "estimatedCostMicro": "1000"}
        hold = caller.ask("POST", "/api/internal/reserve", wanted)
        yield
        caller.ask("GET", f"{path}/balance")
        yield
        if hold is not None and number % 20:  # the others run out by themselves
            settled = {"reservationId": hold["reservationId"], "actualCostMicro": "700"}
            caller.ask("POST", "/api/internal/finalize", settled)
        else:
            caller.ask("GET", f"{path}/history")
        yield


def paying(caller: Caller) -> Iterator[None]:
    """Ask for a payment, and tell how it comes, a notice each time."""
    for account in itertools.cycle(_ACCOUNTS):
        wanted = {"accountId": account, "amountUsd": "5.00", "payCurrency": "btc"}
        made = caller.ask("POST", "/api/internal/payments", wanted)
        for status in _STORY if made is not None else ():
            paid = made["payAmount"] if status != "waiting" else "0"
            caller.tell(
                {
                    "payment_id": made["providerPaymentId"],
                    "payment_status": status,
                    "price_amount": 5,
                    "price_currency": "usd",
                    "pay_amount": made["payAmount"],
                    "pay_currency": "btc",
                    "actually_paid": paid,
                }
            )
            yield


def keep_on(acts: Iterator[None], rate: float, stopping: threading.Event) -> None:
    """Take *rate* steps of *acts* a second until it is time to stop."""
    due = time.monotonic()
    while not stopping.wait(max(0.0, due - time.monotonic())):
        next(acts)
        due += 1 / rate
