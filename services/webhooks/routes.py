"""The routes that payment providers call: verify, store, answer (contract 6)."""

import json
from collections.abc import Mapping
from functools import lru_cache

import structlog
from flask import Blueprint, Response, current_app, request
from prometheus_client import Counter

from services.webhooks.signatures import BadSignature, WebhookRejected, verify
from shared.config import WebhookSettings
from shared.errors import Invalid, Unavailable
from shared.observability import WEBHOOKS
from shared.openapi.operations import described_by
from shared.openapi.receiver import NOTICE, NOTICE_PATHS, SIGNATURE_HEADER
from shared.payments.inbox import Inbox
from shared.wsgi import BodyTooLarge, read_body, served

log = structlog.get_logger()
routes = Blueprint("webhooks", __name__)
BODY_MAX_BYTES = 64 * 1024
_PROVIDER = "nowpayments"
_STATUSES = {"unsupported_media_type": 415, BodyTooLarge.code: 413}


@routes.post(NOTICE_PATHS[0])
@routes.post(NOTICE_PATHS[1])
@described_by(NOTICE)
def nowpayments() -> Response:
    """Store an authentic notice and answer 200; the workers do the rest.

    Nothing is stored, looked up or logged of a body before its signature is verified.
    """
    try:
        body, notice = _authentic(current_app.extensions["settings"])
        inbox: Inbox = current_app.extensions["inbox"]
        event_id, status = inbox.store(provider=_PROVIDER, notice=notice, raw_body=body)
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
        return _refuse(503, error.code, error.message, {"Retry-After": "5"})
    is_new = event_id is not None
    outcome = "stored" if is_new else "repeated"
    about = {"outcome": outcome, "event_id": event_id, "payment_status": status}
    served().touched.update((name, known) for name, known in about.items() if known is not None)
    _count(outcome).inc()
    return _answer(200, {"received": True, "duplicate": not is_new})


def _authentic(settings: WebhookSettings) -> tuple[bytes, Mapping[str, object]]:
    """Return the raw body and the notice that its sender signed. Raises for anything else."""
    if request.mimetype != "application/json":
        raise Invalid("Send application/json.", code="unsupported_media_type")
    body = read_body(request.environ, BODY_MAX_BYTES)
    secrets = (settings.nowpayments_ipn_secret, settings.nowpayments_ipn_secret_prev)
    return body, verify(body, request.headers.get(SIGNATURE_HEADER), secrets)


@lru_cache(maxsize=64)
def _count(outcome: str) -> Counter:
    return WEBHOOKS.labels(_PROVIDER, outcome)


def _refuse(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    return _answer(
        status, {"error": message.rstrip("."), "code": code, "message": message}, headers
    )


def _answer(
    status: int, body: dict[str, object], headers: dict[str, str] | None = None
) -> Response:
    return Response(json.dumps(body), status, headers, content_type="application/json")
