"""The running receiver as tests drive it: signed notices, and what was stored."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import text

from deploy.local.servers import free_port
from shared.database import Database
from tests.harness import SECRETS, granian, service, service_environment, unique

PATHS = ("/api/billing/webhooks/nowpayments", "/api/crypto/webhook")


def sign(body: bytes, secret: str = SECRETS["NOWPAYMENTS_IPN_SECRET"]) -> str:
    """Return the signature that the provider sends with *body*."""
    return hmac.new(secret.encode(), body, hashlib.sha512).hexdigest()


def notice(**fields: Any) -> bytes:
    """Return a notice as the provider writes it."""
    standard = {"payment_id": 5077125051, "payment_status": "waiting", "actually_paid": 0}
    return json.dumps({**standard, **fields}, sort_keys=True, separators=(",", ":")).encode()


def own_payment_id() -> int:
    """Return a payment id that no other test uses."""
    return int(unique("")[1:], 16) % 10**12


@dataclass
class Receiver:
    """A client of the running receiver."""

    url: str
    database: Database

    def deliver(self, body: bytes, **headers: str) -> requests.Response:
        """POST *body*, signed unless *headers* say otherwise; an empty header is left out."""
        sent = {"Content-Type": "application/json", "x-nowpayments-sig": sign(body), **headers}
        kept = {name: value for name, value in sent.items() if value}
        return requests.post(self.url + PATHS[0], data=body, headers=kept, timeout=10)

    def stored(self) -> int:
        """Return how many notices are stored."""
        with self.database.reading() as tx:
            return int(tx.scalar(text("SELECT COUNT(*) FROM webhook_events")))


@contextmanager
def running_receiver(
    database_url: str, redis_url: str, log: Path, **settings: str
) -> Iterator[Receiver]:
    """Run the real receiver on granian, with a previous secret unless *settings* set another."""
    port = free_port()
    rotating = {"NOWPAYMENTS_IPN_SECRET_PREV": "previous-" + "p" * 32, **settings}
    environment = service_environment(database_url, redis_url, **rotating)
    base = f"http://127.0.0.1:{port}"
    with service(granian("services.webhooks.wsgi:app", port), environment, f"{base}/health", log):
        database = Database(database_url)
        yield Receiver(base, database)
        database.dispose()
