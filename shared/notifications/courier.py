"""The courier: takes due deliveries to their endpoints, each endpoint in a thread of its own.

So an endpoint that hangs holds up nobody else, and no endpoint is sent to twice at once by one
process. What became of a try that was not noted (a crash, a lost database) is unknown: it is made
again with the same webhook-id, by which the receiver knows it.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import bindparam, or_, select, text
from standardwebhooks import Webhook

from shared import jobs
from shared.clock import to_wire
from shared.database import Database
from shared.errors import Unavailable
from shared.models.notifications import Delivery, Endpoint, Event
from shared.models.types import UtcTime
from shared.notifications.keys import Keys
from shared.notifications.outcomes import TRIES_MAX, note_no_more, note_reply, note_silence
from shared.notifications.sending import NoAnswer, Patience, post
from shared.observability import DELIVERIES
from shared.parameters import constant, member_of

log = structlog.get_logger()
_BATCH = 10  # for each endpoint
_WAIT_SECONDS = 2.0
# A lease lasts 60 s, and one try 20 at the most with a resolver that is slow: no try is begun that
# may outlive the lease.
_BEGIN_SECONDS = jobs.LEASE_SECONDS / 2
_USUAL_PATIENCE = Patience()


class Courier:
    """Delivers what is due. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        keys: Keys,
        *,
        allow_private: bool = False,
        patience: Patience = _USUAL_PATIENCE,
        wait_seconds: float = _WAIT_SECONDS,
    ) -> None:
        self._database = database
        self._keys = keys
        self._allow_private = allow_private
        self._patience = patience
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._busy: set[str] = set()

    def deliver(self) -> int:
        """Take a batch of due deliveries on its way; return how many.

        Waits two seconds at the most: a slow endpoint's thread goes on, and until it is done that
        endpoint is left out. Raises Unavailable if something is due and there is no secret to sign.
        """
        with self._lock:
            claims = self._claim()
            self._busy.update(claims)
        threads = [
            threading.Thread(
                target=self._work, args=(endpoint, held), name=f"webhook {endpoint}", daemon=True
            )
            for endpoint, held in claims.items()
        ]
        for thread in threads:
            thread.start()
        ends_at = time.monotonic() + self._wait_seconds
        for thread in threads:
            thread.join(max(0.0, ends_at - time.monotonic()))
        return sum(len(held.ids) for held in claims.values())

    def _claim(self) -> dict[str, jobs.Claim]:
        """Take the oldest due deliveries of each endpoint that is not being served."""
        owners: dict[str, str] = {}
        with self._database.reading() as tx:
            for endpoint in tx.all(_ENDPOINTS):
                if endpoint.id not in self._busy:
                    due = tx.all(_DUE, endpoint_id=endpoint.id, now=tx.now)
                    owners |= {row.id: endpoint.id for row in due}
        if not owners:
            return {}
        self._keys.require()  # before the claim: without a secret no try is made, and none counted
        held = jobs.claim(self._database, Delivery, limit=len(owners), only=list(owners))
        claimed = defaultdict(list)
        for one in held.ids:
            claimed[owners[one]].append(one)
        return {endpoint: jobs.Claim(held.token, ids) for endpoint, ids in claimed.items()}

    def _work(self, endpoint_id: str, held: jobs.Claim) -> None:
        try:
            self._serve(endpoint_id, held)
        except Unavailable as error:
            log.warning("webhooks_unavailable", endpoint_id=endpoint_id, reason=error.message)
        except Exception:  # the lease lapses, and the try was counted when it was claimed
            log.exception("webhooks_failed", endpoint_id=endpoint_id)
        finally:
            with self._lock:
                self._busy.discard(endpoint_id)

    def _serve(self, endpoint_id: str, held: jobs.Claim) -> None:
        """Send what is *held*, one after another; what is not begun goes back untried."""
        began = time.monotonic()
        with self._database.reading() as tx:
            endpoint = tx.first(_ENDPOINT, id=endpoint_id)
            rows = tx.all(_HELD, ids=held.ids)
        waiting = [row.id for row in rows]
        for row in rows:
            if endpoint is None or time.monotonic() - began > _BEGIN_SECONDS:
                break
            is_reachable = self._try(endpoint, row, held)
            waiting.remove(row.id)
            if not is_reachable:
                break
        if waiting:
            with self._database.transaction() as tx:
                jobs.give_back(tx, Delivery, jobs.Claim(held.token, waiting))

    def _try(self, endpoint: Any, row: Any, held: jobs.Claim) -> bool:
        """Make one try and note what became of it; tell whether the next one may be made now."""
        reply, silence = None, ""
        if row.attempts <= TRIES_MAX:
            try:
                reply = self._send(endpoint, row)
            except NoAnswer as error:
                silence = str(error)
        with self._database.transaction() as tx:
            if not jobs.held_rows(tx, Delivery, held, [row.id]):
                return True  # another has taken it over
            if row.attempts > TRIES_MAX:
                outcome = note_no_more(tx, row, "The last try was broken off.")
            elif reply is not None:
                outcome = note_reply(tx, row, reply)
            else:
                outcome = note_silence(tx, row, silence)
        DELIVERIES.labels(outcome).inc()
        log.info(
            "webhook_tried",
            delivery_id=row.id,
            event_type=row.type,
            outcome=outcome,
            status=reply.status if reply else None,
        )
        return reply is not None and outcome != "gone"

    def _send(self, endpoint: Any, row: Any) -> Any:
        now = self._database.clock()
        body = body_of(row)
        secrets = self._keys.signing_secrets(endpoint, now)
        signatures = [Webhook(secret).sign(row.event_id, now, body) for secret in secrets]
        headers: Mapping[str, str] = {
            "Content-Type": "application/json",
            "User-Agent": "arrakis-billing",
            "webhook-id": row.event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        return post(
            endpoint.url,
            body=body.encode(),
            headers=headers,
            allow_private=self._allow_private,
            patience=self._patience,
        )


def body_of(row: Any) -> str:
    """Return what is sent of an event: its type, when it happened, and its data."""
    told = {"type": row.type, "timestamp": to_wire(row.happened_at), "data": json.loads(row.data)}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


_ENDPOINTS = select(Endpoint.id).where(Endpoint.status == "active").order_by(Endpoint.id)
_ENDPOINT = select(*Endpoint.__table__.c).where(
    Endpoint.id == text(":id"), Endpoint.status == "active"
)
_NOW = bindparam("now", type_=UtcTime())
_DUE = (
    select(Delivery.id)
    .where(
        Delivery.endpoint_id == text(":endpoint_id"),
        Delivery.state == constant("new"),
        Delivery.due_at <= _NOW,
        or_(Delivery.lease_until.is_(None), Delivery.lease_until <= _NOW),
    )
    .order_by(Delivery.due_at, Delivery.id)
    .limit(_BATCH)
)
_HELD = (
    select(
        *(Delivery.__table__.c[name] for name in ("id", "event_id", "endpoint_id", "attempts")),
        Event.type,
        Event.data,
        Event.created_at.label("happened_at"),
    )
    .join(Event, Event.id == Delivery.event_id)
    .where(member_of(Delivery.id, "ids"))
    .order_by(Delivery.id)
)
