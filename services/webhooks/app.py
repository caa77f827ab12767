"""The application factory of the webhook receiver: its own app and process."""

import json

import structlog
from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from werkzeug.exceptions import HTTPException

from services.webhooks.routes import routes
from shared.config import WebhookSettings
from shared.database import Database
from shared.errors import Unavailable
from shared.observability import exposition
from shared.payments.inbox import Inbox
from shared.wsgi import observe

log = structlog.get_logger()


def create_app(settings: WebhookSettings, database: Database) -> Flask:
    """Build the receiver on *database*; it opens no connection yet."""
    app = Flask("arrakis-webhooks", static_folder=None)
    app.extensions["settings"] = settings
    app.extensions["inbox"] = Inbox(database)
    app.register_blueprint(routes)
    app.add_url_rule("/health", "health", lambda: _health(database))
    app.add_url_rule("/metrics", "metrics", _metrics)
    observe(app, "webhooks", database.clock)
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


def _answer_http(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    return _json(error.code or 500, {"error": error.name, "code": code})


def _answer_bug(error: Exception) -> Response:
    log.error("request_failed", exc_info=error)
    return _json(503, {"error": "Service Unavailable", "code": "internal_error"})


def _json(status: int, body: dict[str, object]) -> Response:
    return Response(json.dumps(body), status, mimetype="application/json")
