"""For tests through the front door: what lies behind it, settings in force, and raw HTTP."""

import http.client
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import requests
from sqlalchemy import text

from shared.clock import system_clock
from shared.database import insert_rows
from shared.ledger import integrity, sweeps
from shared.ledger.terms import TermsCache
from shared.models.payments import CryptoPayment
from tests.harness import Api, set_config, unique, wait_until

SEEDED_CEILING_MICRO = 100_000_000_000
_MONEY_TABLES = {
    "credit_lots": "account_id = :id",
    "credit_balances": "account_id = :id",
    "credit_ledger": "account_id = :id",
    "credit_reservations": "account_id = :id",
    "credit_debts": "account_id = :id",
    "credit_operations": "account_id = :id",
    "reservation_lots": "lot_id IN (SELECT id FROM credit_lots WHERE account_id = :id)",
}


def rows(api: Api, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Return the rows of *statement* as plain tuples."""
    with api.database.reading() as tx:
        return [tuple(row) for row in tx.all(text(statement), **parameters)]


def snapshot(api: Api, account_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of money of an account, to show that a refusal has changed none."""
    return {
        table: sorted(rows(api, f"SELECT * FROM {table} WHERE {owned}", id=account_id), key=repr)
        for table, owned in _MONEY_TABLES.items()
    }


def ledger(api: Api, account_id: str) -> list[tuple[str, int, int, int]]:
    """Return an account's entries in order: type, amount, balance before and after."""
    return [
        (kind, amount, before, after)
        for kind, amount, before, after in rows(
            api,
            "SELECT entry_type, amount_micro, pre_balance_micro, post_balance_micro"
            " FROM credit_ledger WHERE account_id = :id ORDER BY created_at, id",
            id=account_id,
        )
    ]


def balance(api: Api, account_id: str, pool_id: str = "general") -> tuple[int, int, int]:
    """Return available, reserved and debt as the S2S API tells them."""
    told = api.get(f"/api/internal/accounts/{account_id}/balance", params={"poolId": pool_id})
    assert told.status_code == 200, told.text
    body = told.json()
    return int(body["availableMicro"]), int(body["reservedMicro"]), int(body["debtMicro"])


def revenue(api: Api, reservation_id: str) -> list[tuple[str, str, int]]:
    """Return the revenue entries of a charge: receiver, type, amount."""
    return [
        (receiver, kind, amount)
        for receiver, kind, amount in rows(
            api,
            "SELECT account_id, entry_type, amount_micro FROM credit_ledger"
            " WHERE reservation_id = :id"
            " AND entry_type IN ('commons_contribution', 'revenue_share') ORDER BY id",
            id=reservation_id,
        )
    ]


def breaches(api: Api) -> list[integrity.Breach]:
    """Return what breaks an invariant of the ledger, over all that the tests have done to it."""
    with api.database.reading() as tx:
        return integrity.verify(tx)


def mint(api: Api, account_id: str, amount_micro: int, **fields: Any) -> requests.Response:
    """Mint a deposit as an admin of its own."""
    body = {"amountMicro": str(amount_micro), "sourceType": "deposit", **fields}
    minted = api.post(
        f"/admin/billing/accounts/{account_id}/mint",
        body,
        headers=api.admin(sub=unique("admin")),
    )
    assert minted.status_code == 201, minted.text
    return minted


def insert_payment(api: Api, account_id: str, **fields: Any) -> str:
    """Put a payment of $25 into the database and return its id."""
    row = {
        "id": unique("cp"),
        "provider": "nowpayments",
        "provider_payment_id": unique("np"),
        "account_id": account_id,
        "price_currency": "usd",
        "status": "waiting",
        "created_at": system_clock(),
        "updated_at": system_clock(),
        **fields,
    }
    with api.database.transaction() as tx:
        insert_rows(tx, CryptoPayment.__table__, [row])
    payment_id: str = row["id"]
    return payment_id


def hold(api: Api, account_id: str, amount_micro: int, **fields: Any) -> str:
    """Reserve credits and return the reservation's id."""
    body = {"accountId": account_id, "estimatedCostMicro": str(amount_micro), **fields}
    held = api.internal("reserve", body)
    assert held.status_code == 200, held.text
    reservation_id: str = held.json()["reservationId"]
    return reservation_id


def settle(
    api: Api, reservation_id: str, cost_micro: int, key: str | None = None, **fields: Any
) -> requests.Response:
    """Finalize a hold at *cost_micro*."""
    body = {"reservationId": reservation_id, "actualCostMicro": str(cost_micro), **fields}
    return api.internal("finalize", body, key)


def metric(api: Api, sample: str) -> float:
    """Return the value of *sample* (name and labels) in the API's metrics, 0 if it has none."""
    for line in api.get("/metrics", headers={}).text.splitlines():
        if line.startswith(f"{sample} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def wait_until_expired(api: Api, reservation_id: str) -> None:
    """Wait until a hold's time is over, then let the sweep end it as the workers do."""

    def ended() -> bool:
        shown = api.get(
            f"/api/internal/reservations/{reservation_id}", headers=api.s2s(sub=unique("look"))
        )
        return bool(shown.json()["status"] == "expired")

    wait_until(f"the end of hold {reservation_id}", ended)
    sweeps.expire_holds(api.database, TermsCache(api.database))


@contextmanager
def settings_in_force(api: Api, **values: str) -> Iterator[None]:
    """Change settings by SQL as the runbook does, wait until they act; put them back after."""
    names = {f"k{number}": name for number, name in enumerate(values)}
    listed = ", ".join(f":{parameter}" for parameter in names)
    statement = f"SELECT key, value FROM billing_config WHERE key IN ({listed})"
    before: dict[str, str] = dict(rows(api, statement, **names))
    assert before.keys() == values.keys()
    try:
        _put_in_force(api, values, SEEDED_CEILING_MICRO - 1 - secrets.randbelow(10**9))
        yield
    finally:
        _put_in_force(api, before, SEEDED_CEILING_MICRO)


def _put_in_force(api: Api, values: Mapping[str, str], ceiling_micro: int) -> None:
    # The ceiling is the mark: it changes in the same transaction, and a refusal tells it.
    set_config(api.database, **values, ceiling_micro=str(ceiling_micro))

    def told_ceiling() -> bool:
        asked = replace(api, subject=unique("mark")).internal(
            "reserve", {"accountId": "sys-commons", "estimatedCostMicro": "9" * 16}
        )
        return bool(asked.json()["details"]["ceilingMicro"] == str(ceiling_micro))

    wait_until("the changed settings", told_ceiling, seconds=5.0)


def send(
    api: Api,
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Send exactly these bytes, *path* too; return status, headers and body. Iterators chunk."""
    address = urlsplit(api.url).netloc
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(
            method, path, body=body, headers=dict(headers or {}), encode_chunked=not _is_plain(body)
        )
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def _is_plain(body: object) -> bool:
    return body is None or isinstance(body, bytes)
