"""The webhook receiver: its own WSGI application and process.

It has four addresses, so it needs no framework: one costs as much as storing a notice does.
"""

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog

from services.webhooks import routes
from services.webhooks.routes import Answer, Receiver, told
from shared import tracing
from shared.config import WebhookSettings
from shared.database import Database
from shared.openapi.receiver import NOTICE_PATHS
from shared.payments.inbox import Inbox
from shared.wsgi import Observed, WsgiApp, served_in

log = structlog.get_logger()
_View = Callable[[Receiver, Mapping[str, Any]], Answer]
ROUTES: dict[str, tuple[str, _View]] = {
    **dict.fromkeys(NOTICE_PATHS, ("POST", routes.nowpayments)),
    "/health": ("GET", routes.health),
    "/metrics": ("GET", routes.metrics),
}
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


def create_app(settings: WebhookSettings, database: Database) -> WsgiApp:
    """Build the receiver on *database*; it opens no connection yet."""
    receiver = Receiver(
        (settings.nowpayments_ipn_secret, settings.nowpayments_ipn_secret_prev),
        database,
        Inbox(database),
    )

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        known = served_in(environ)
        known.route = path if path in ROUTES else "unknown"
        with tracing.serving(known.route, method, environ.get("HTTP_TRACEPARENT")) as span:
            answer = _answer(receiver, method, path, environ)
            tracing.answered(span, answer.status, **known.touched)
        start_response(_STATUS_LINES[answer.status], answer.headers)
        return () if method == "HEAD" else (answer.body,)

    return Observed(serve, "webhooks", database.clock)


def _answer(receiver: Receiver, method: str, path: str, environ: Mapping[str, Any]) -> Answer:
    if path not in ROUTES:
        return told(404, {"error": "Not Found", "code": "not_found"})
    allowed, view = ROUTES[path]
    if method != allowed and (method, allowed) != ("HEAD", "GET"):
        refusal = {"error": "Method Not Allowed", "code": "method_not_allowed"}
        return told(405, refusal, ("Allow", allowed))
    try:
        return view(receiver, environ)
    except Exception:
        log.exception("request_failed")
        return told(503, {"error": "Service Unavailable", "code": "internal_error"})
