"""The routes that payment providers call: verify, store, answer (contract 6)."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter
from sqlalchemy import text

from services.webhooks.signatures import BadSignature, WebhookRejected, verify
from shared.database import Database
from shared.errors import Invalid, Unavailable
from shared.observability import WEBHOOKS, exposition
from shared.openapi.operations import described_by
from shared.openapi.receiver import NOTICE, SIGNATURE_HEADER
from shared.payments.inbox import Inbox
from shared.wsgi import BodyTooLarge, Headers, read_body, served_in

log = structlog.get_logger()
BODY_MAX_BYTES = 64 * 1024
_PROVIDER = "nowpayments"
_STATUSES = {"unsupported_media_type": 415, BodyTooLarge.code: 413}
_SIGNATURE = f"HTTP_{SIGNATURE_HEADER.upper().replace('-', '_')}"


class Receiver(NamedTuple):
    """What the routes need: the secrets that notices may be signed with, and where they go."""

    secrets: tuple[str, ...]
    database: Database
    inbox: Inbox


class Answer(NamedTuple):
    """An answer, whole."""

    status: int
    headers: Headers
    body: bytes


def told(status: int, body: Mapping[str, object], *headers: tuple[str, str]) -> Answer:
    """Return an answer of JSON."""
    return _answer(status, "application/json", json.dumps(body).encode(), *headers)


@described_by(NOTICE)
def nowpayments(receiver: Receiver, environ: Mapping[str, Any]) -> Answer:
    """Store an authentic notice and answer 200; the workers do the rest.

    Nothing is stored, looked up or logged of a body before its signature is verified.
    """
    try:
        body, notice = _authentic(receiver.secrets, environ)
        event_id, status = receiver.inbox.store(provider=_PROVIDER, notice=notice, raw_body=body)
    except WebhookRejected as error:
        _count(error.reason).inc()
        if isinstance(error, BadSignature):
            return _refuse(401, "invalid_signature", "The signature is missing or wrong.")
        return _refuse(400, error.reason, "The body is not a notice.")
    except Invalid as error:
        _count(error.code).inc()
        return _refuse(_STATUSES.get(error.code, 400), error.code, error.message)
    except Unavailable as error:
        log.warning("notice_not_stored", reason=error.message)
        _count("not_stored").inc()
        return _refuse(503, error.code, error.message, ("Retry-After", "5"))
    is_new = event_id is not None
    outcome = "stored" if is_new else "repeated"
    about = {"outcome": outcome, "event_id": event_id, "payment_status": status}
    served_in(environ).touched = {name: one for name, one in about.items() if one is not None}
    _count(outcome).inc()
    return told(200, {"received": True, "duplicate": not is_new})


def health(receiver: Receiver, _environ: Mapping[str, Any]) -> Answer:
    """Say whether notices can be stored."""
    try:
        with receiver.database.reading() as tx:
            tx.scalar(text("SELECT 1 FROM webhook_events LIMIT 1"))
    except Unavailable as error:
        return told(503, {"status": "unavailable", "database": error.message})
    return told(200, {"status": "ok", "database": "ok"})


def metrics(_receiver: Receiver, _environ: Mapping[str, Any]) -> Answer:
    """Tell Prometheus what was counted."""
    return _answer(200, CONTENT_TYPE_LATEST, exposition())


def _authentic(
    secrets: tuple[str, ...], environ: Mapping[str, Any]
) -> tuple[bytes, Mapping[str, object]]:
    """Return the raw body and the notice that its sender signed. Raises for anything else."""
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() != "application/json":
        raise Invalid("Send application/json.", code="unsupported_media_type")
    body = read_body(environ, BODY_MAX_BYTES)
    return body, verify(body, environ.get(_SIGNATURE), secrets)


def _refuse(status: int, code: str, message: str, *headers: tuple[str, str]) -> Answer:
    return told(status, {"error": message.rstrip("."), "code": code, "message": message}, *headers)


def _answer(status: int, media_type: str, body: bytes, *headers: tuple[str, str]) -> Answer:
    length = ("Content-Length", str(len(body)))
    return Answer(status, [("Content-Type", media_type), length, *headers], body)


@lru_cache(maxsize=64)
def _count(outcome: str) -> Counter:
    return WEBHOOKS.labels(_PROVIDER, outcome)
