"""Outgoing webhooks as tests drive them: a real receiver, a courier, and a clock that they set."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from shared.clock import system_clock
from shared.notifications import endpoints, outbox
from shared.notifications.courier import Courier
from shared.notifications.endpoints import Wanted
from shared.notifications.keys import Keys
from shared.notifications.sending import Patience
from shared.operations.audit import Actor
from tests.ledger import Ledger
from tests.scripted_provider import Request, ScriptedProvider

KEYS = Keys("outgoing-" + "w" * 32)
OPERATOR = Actor("operator", "ops")
QUICK = Patience(connect_seconds=1.0, answer_seconds=0.3)


class Post:
    """Endpoints on one ledger, whose clock begins at the present, and one courier."""

    def __init__(self, ledger: Ledger, receiver: ScriptedProvider) -> None:
        self.ledger = ledger
        self.receiver = receiver
        ledger.clock.now = system_clock()
        self.courier = self.courier_with(KEYS)

    def courier_with(self, keys: Keys, **more: Any) -> Courier:
        options = {"allow_private": True, "patience": QUICK, "wait_seconds": 10.0} | more
        return Courier(self.ledger.database, keys, **options)

    def endpoint(self, path: str = "/hook", *types: str, url: str | None = None) -> dict[str, Any]:
        """Add an endpoint of the receiver (or at *url*), subscribed to all types unless named."""
        wanted = Wanted(url=url or self.receiver.url + path, event_types=types or None)
        with self.ledger.database.transaction() as tx:
            return endpoints.create(tx, OPERATOR, KEYS, wanted)

    def emit(self, key: str = "drift:1", **data: Any) -> str:
        with self.ledger.database.transaction() as tx:
            event_id = outbox.emit(tx, "alert.fired", key=key, data=data or {"name": "drift"})
        assert event_id is not None
        return event_id

    def deliveries(self) -> list[tuple[Any, ...]]:
        """Return state, outcome, tries and the last status of every delivery."""
        return self.ledger.rows(
            "SELECT state, outcome, attempts, status_code FROM notification_deliveries ORDER BY id"
        )

    def letters(self) -> list[tuple[Any, ...]]:
        return self.ledger.rows(
            "SELECT operation_type, status, subject_id FROM billing_dlq ORDER BY id"
        )

    def statuses(self) -> list[tuple[Any, ...]]:
        return self.ledger.rows("SELECT id, status FROM notification_endpoints ORDER BY id")


def verified(request: Request, secret: str) -> dict[str, Any]:
    """Return what *request* tells, verified as the docs tell a receiver to do."""
    told: dict[str, Any] = Webhook(secret).verify(request.body, dict(request.headers))
    return told


def is_signed_with(request: Request, secret: str) -> bool:
    """Tell whether *request* verifies with *secret*, at the time that it names itself."""
    at = datetime.fromtimestamp(int(request.headers["webhook-timestamp"]), tz=UTC)
    signature = Webhook(secret).sign(request.headers["webhook-id"], at, request.body.decode())
    with suppress(WebhookVerificationError):
        verified(request, secret)
        assert signature in request.headers["webhook-signature"].split(" ")
    return signature in request.headers["webhook-signature"].split(" ")


def data_of(request: Request) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(request.body)["data"]
    return data
