"""Real things for requests that a fuzzer makes up: ids that exist, in the state that a route needs.

Without them nearly every request would end in 404, and no answer to a success would be looked at.
"""

import re
from collections.abc import Callable
from typing import Any

from flask import Flask
from sqlalchemy import text

from shared.clock import system_clock
from shared.database import Database
from tests.harness import Api, make_id, unique

_ADMIN, _INTERNAL = "/admin/billing", "/api/internal"
_CAMPAIGNS, _RULES = f"{_ADMIN}/campaigns", f"{_ADMIN}/revenue-rules"
_SCOPES = ["billing:read", "billing:write", "billing:approve"]
_ALERT = text(
    "INSERT INTO alerts"
    " (name, subject, severity, status, since, above_at, evaluated_at, value, message)"
    " VALUES (:name, '', 'warning', 'firing', :now, :now, :now, 1, 'It fires.')"
)
_LETTER = text(
    "INSERT INTO billing_dlq (id, operation_type, subject_id, payload, status)"
    " VALUES (:id, 'notification', :delivery, '{}', 'manual_review')"
)
_DELIVERY = text("SELECT id FROM notification_deliveries WHERE endpoint_id = :id ORDER BY id DESC")
Ids = dict[str, str]


class Stock:
    """Makes what one request is about, through the API where it has a route for that."""

    def __init__(self, app: Flask, database: Database) -> None:
        self._client = app.test_client()
        self._database = database
        self._tokens = Api("", database)
        self.proposer = unique("proposer")  # of the newest proposal

    def path(self, label: str, own: str) -> Ids:
        """Return the parameters of the path of a route, for a caller whose account is *own*."""
        names = re.findall(r"{(\w+)}", label)
        return (_FOR.get(label) or _NAMED[names[-1]])(self, own) if names else {}

    def body(self, label: str, own: str, made_up: dict[str, Any]) -> dict[str, Any]:
        """Return *made_up* about things that exist, and with what is otherwise never right."""
        real = _BODIES[label](self, own) if label in _BODIES else {}
        return {name: value for name, value in (made_up | real).items() if value is not None}

    def admin(
        self, path: str, body: Any = None, *, method: str = "POST", who: str | None = None
    ) -> dict[str, Any]:
        """Send a request as an admin of its own, which must succeed."""
        bearer = self._tokens.admin(sub=who or unique("stock"), scopes=_SCOPES)
        return self._send(method, path, body, bearer)

    def finn(self, path: str, body: Any) -> dict[str, Any]:
        """Send a request as loa-finn, which must succeed."""
        return self._send("POST", _INTERNAL + path, body, self._tokens.s2s(sub=unique("stock")))

    def _send(self, method: str, path: str, body: Any, bearer: dict[str, str]) -> dict[str, Any]:
        answer = self._client.open(path, method=method, json=body, headers=bearer)
        assert answer.status_code < 300, (path, answer.text)
        return dict(answer.json)

    def insert(self, statement: Any, **row: Any) -> None:
        """Write a row that no route makes."""
        with self._database.transaction() as tx:
            tx.run(statement, **row)

    def delivery_to(self, endpoint: str) -> str:
        """Return the newest delivery to *endpoint*."""
        with self._database.reading() as tx:
            return str(tx.scalar(_DELIVERY, id=endpoint))


def _hold(stock: Stock, own: str) -> Ids:
    asked = {"accountId": own, "estimatedCostMicro": "1000"}
    return {"reservationId": stock.finn("/reserve", asked)["reservationId"]}


def _payment(stock: Stock, own: str) -> Ids:
    return {"paymentId": stock.finn("/payments", _PRICE | {"accountId": own})["paymentId"]}


def _credited(stock: Stock, own: str) -> Ids:
    made = _payment(stock, own)
    number = stock.admin(f"{_ADMIN}/payments/{made['paymentId']}", method="GET")
    minted = {"sourceType": "deposit", "paymentId": number["providerPaymentId"]}
    stock.admin(f"{_ADMIN}/accounts/{own}/mint", minted | {"amountMicro": "25000000"})
    return made


def _draft(stock: Stock, _own: str) -> Ids:
    facts = {"name": "Spring", "campaignType": "promotional", "budgetMicro": "1000000"}
    config = {"grantConfig": {"amountMicro": "5"}}
    return {"campaignId": stock.admin(_CAMPAIGNS, facts | config)["campaignId"]}


def _campaign(stock: Stock, own: str) -> Ids:
    made = _draft(stock, own)
    stock.admin(f"{_CAMPAIGNS}/{made['campaignId']}/activate")
    return made


def _grant(stock: Stock, own: str) -> Ids:
    made = _campaign(stock, own)
    path = f"{_CAMPAIGNS}/{made['campaignId']}/grants"
    stock.admin(f"{path}/batch", _grants(stock, own))
    [grant] = stock.admin(path, method="GET")["grants"]
    return made | {"grantId": grant["grantId"]}


def _grants(_stock: Stock, own: str) -> dict[str, Any]:
    return {"grants": [{"accountId": own, "amountMicro": "5"}]}


def _batch(stock: Stock, own: str) -> Ids:
    made = _campaign(stock, own)
    path = f"{_CAMPAIGNS}/{made['campaignId']}/grants/list"
    return made | {"batchId": stock.admin(path, _grants(stock, own))["batchId"]}


def _proposal(stock: Stock, own: str) -> Ids:
    large = {"amountMicro": "2000000000", "sourceType": "grant"}
    stock.proposer = unique("proposer")
    made = stock.admin(f"{_ADMIN}/accounts/{own}/mint", large, who=stock.proposer)
    return {"proposalId": made["proposalId"]}


def _letter(stock: Stock, own: str) -> Ids:
    made = make_id()
    stock.insert(_LETTER, id=made, delivery=_delivery(stock, own)["deliveryId"])
    return {"letterId": made}


def _alert(stock: Stock, _own: str) -> Ids:
    name = unique("alert")
    stock.insert(_ALERT, name=name, now=system_clock())
    return {"name": name}


def _endpoint(stock: Stock, _own: str) -> Ids:
    """Use one that is there: there may be twenty."""
    kept = stock.admin(f"{_ADMIN}/webhooks", method="GET")["webhooks"]
    active = [one for one in kept if one["status"] == "active"]
    one = active[0] if active else stock.admin(f"{_ADMIN}/webhooks", HOOK)
    return {"endpointId": one["endpointId"]}


def _delivery(stock: Stock, own: str) -> Ids:
    endpoint = _endpoint(stock, own)["endpointId"]
    stock.admin(f"{_ADMIN}/webhooks/{endpoint}/test")
    return {"deliveryId": stock.delivery_to(endpoint)}


def _run(stock: Stock, _own: str) -> Ids:
    return {"runId": stock.admin(f"{_ADMIN}/reconciliation/run", {"kind": "cache"})["runId"]}


def _rule(stock: Stock, *moves: str) -> Ids:
    made = stock.admin(_RULES, {"name": "Spring", **SHARES})["ruleId"]
    for move in moves:
        stock.admin(f"{_RULES}/{made}/{move}", method="PATCH")
    return {"ruleId": made}


MODEL = "native-7b"
PRICES = {MODEL: {"inputMicroPer1k": 10, "outputMicroPer1k": 20}}
HOOK = {"url": "https://1.1.1.1/hook"}  # public, and no name to resolve; nothing is sent
SHARES = {"commonsBps": 500, "communityBps": 7000, "foundationBps": 2500}
_Maker = Callable[[Stock, str], dict[str, Any]]
_NAMED: dict[str, _Maker] = {
    "accountId": lambda _, own: {"accountId": own},
    "batchId": _batch,
    "campaignId": _campaign,
    "deliveryId": _delivery,
    "endpointId": _endpoint,
    "grantId": _grant,
    "key": lambda *_: {"key": "reserve_ttl_seconds"},
    "letterId": _letter,
    "name": _alert,
    "packId": lambda *_: {"packId": "starter"},
    "paymentId": _payment,
    "proposalId": _proposal,
    "reservationId": _hold,
    "ruleId": lambda stock, _: _rule(stock),
    "runId": _run,
    "subjectId": lambda stock, own: {"subjectId": _hold(stock, own)["reservationId"]},
}
_FOR: dict[str, _Maker] = {  # where it must be in another state than it is made in
    f"PATCH {_CAMPAIGNS}/{{campaignId}}": _draft,
    f"POST {_CAMPAIGNS}/{{campaignId}}/activate": _draft,
    f"POST {_ADMIN}/payments/{{paymentId}}/refund": _credited,
    f"PATCH {_RULES}/{{ruleId}}/approve": lambda stock, _: _rule(stock, "submit"),
    f"PATCH {_RULES}/{{ruleId}}/reject": lambda stock, _: _rule(stock, "submit"),
    f"PATCH {_RULES}/{{ruleId}}/override-cooldown": lambda stock, _: _rule(
        stock, "submit", "approve"
    ),
}
_PRICE = {"amountUsd": "25.00", "payCurrency": "btc"}
_SMALL = {"estimatedCostMicro": "1000", "model": None}
_BODIES: dict[str, _Maker] = {
    f"POST {_INTERNAL}/reserve": lambda _, own: _SMALL | {"accountId": own},
    f"POST {_INTERNAL}/extend": lambda stock, own: {
        **_hold(stock, own),
        "accountId": own,
        "additionalMicro": "1000",
    },
    f"POST {_INTERNAL}/finalize": lambda stock, own: _hold(stock, own) | {"accountId": own},
    f"POST {_INTERNAL}/release": lambda stock, own: _hold(stock, own) | {"accountId": own},
    f"POST {_INTERNAL}/estimate": lambda *_: {"model": MODEL},
    f"POST {_INTERNAL}/payments": lambda _, own: _PRICE | {"accountId": own},
    "POST /api/billing/payments": lambda *_: _PRICE,
    "POST /api/billing/packs/{packId}/purchase": lambda *_: {"payCurrency": "btc"},
    f"POST {_ADMIN}/accounts/{{accountId}}/mint": lambda *_: {
        "amountMicro": "1000",
        "paymentId": None,
    },
    f"PATCH {_ADMIN}/config": lambda *_: {"values": {"reserve_ttl_seconds": "300"}},
    f"POST {_CAMPAIGNS}/{{campaignId}}/grants/batch": _grants,
    f"POST {_CAMPAIGNS}/{{campaignId}}/grants/list": _grants,
    f"POST {_CAMPAIGNS}/{{campaignId}}/grants/preview": _grants,
    f"POST {_ADMIN}/webhooks": lambda *_: HOOK,
    f"POST {_RULES}": lambda *_: SHARES,
}
