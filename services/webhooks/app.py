"""The application factory of the webhook receiver: its own app and process."""

import json
import time

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from werkzeug.exceptions import HTTPException

from services.webhooks.routes import routes
from shared import tracing
from shared.clock import system_clock
from shared.config import WebhookSettings
from shared.database import Database
from shared.errors import Unavailable
from shared.ids import new_id
from shared.observability import REQUEST_SECONDS, REQUESTS, exposition
from shared.wsgi import offered_id, protect

log = structlog.get_logger()


def create_app(settings: WebhookSettings, database: Database) -> Flask:
    """Build the receiver on *database*; it opens no connection yet."""
    app = Flask("arrakis-webhooks", static_folder=None)
    app.extensions["settings"] = settings
    app.extensions["database"] = database
    app.register_blueprint(routes)
    app.add_url_rule("/health", "health", lambda: _health(database))
    app.add_url_rule("/metrics", "metrics", _metrics)
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)
    return app


def _health(database: Database) -> Response:
    try:
        with database.reading() as tx:
            tx.scalar(text("SELECT 1 FROM webhook_events LIMIT 1"))
    except Unavailable as error:
        return _json(503, {"status": "unavailable", "database": error.message})
    return _json(200, {"status": "ok", "database": "ok"})


def _metrics() -> Response:
    return Response(exposition(), content_type=CONTENT_TYPE_LATEST)


def _begin() -> None:
    g.tracing = tracing.serving(_route(), request.method, request.headers.get("traceparent"))
    g.span = g.tracing.__enter__()
    g.started = time.perf_counter()
    g.request_id = offered_id(request.headers.get("X-Request-Id")) or new_id(system_clock())
    correlation_id = offered_id(request.headers.get("X-Correlation-Id")) or g.request_id
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        service="webhooks", request_id=g.request_id, correlation_id=correlation_id
    )


def _end(response: Response) -> Response:
    route = _route()
    tracing.answered(g.span, response.status_code)
    seconds = time.perf_counter() - g.started
    response.headers["X-Request-Id"] = g.request_id
    protect(response.headers)
    REQUESTS.labels("webhooks", route, response.status_code).inc()
    REQUEST_SECONDS.labels("webhooks", route).observe(seconds)
    log.info(
        "request_answered",
        method=request.method,
        route=route,
        status=response.status_code,
        ms=round(seconds * 1000, 2),
    )
    return response


def _forget(_error: BaseException | None) -> None:
    if "tracing" in g:
        g.pop("tracing").__exit__(None, None, None)


def _route() -> str:
    return request.url_rule.rule if request.url_rule else "unknown"


def _answer_http(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    return _json(error.code or 500, {"error": error.name, "code": code})


def _answer_bug(error: Exception) -> Response:
    log.error("request_failed", exc_info=error)
    return _json(503, {"error": "Service Unavailable", "code": "internal_error"})


def _json(status: int, body: dict[str, object]) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")
