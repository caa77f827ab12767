"""The documentation: this document, and the same as a page for people."""

from flask import Blueprint, Response, current_app, request

from services.api import limits
from services.api.context import count
from services.api.documents import Documents
from shared.openapi.operations import documented

routes = Blueprint("documentation", __name__)
_CACHED = "public, max-age=300"  # it changes with a release only


@routes.before_request
def _let_in() -> None:
    # Neither feature nor database is needed to read it.
    count(limits.PUBLIC, "public", request.remote_addr or "unknown")


@routes.get("/api/billing/openapi.json")
@documented({200: "application/json: OpenAPI 3.1."})
def show_document() -> Response:
    """Show this document."""
    answer = Response(_documents().text, mimetype="application/json")
    answer.headers["Cache-Control"] = _CACHED
    return answer


@routes.get("/api/billing/docs")
@routes.get("/docs")
@documented({200: "text/html: The same as a page; it needs no script and no other server."})
def show_page() -> Response:
    """Show this document as a page."""
    page = _documents().page
    answer = Response(page.html, mimetype="text/html")
    answer.headers["Content-Security-Policy"] = page.policy
    answer.headers["Cache-Control"] = _CACHED
    return answer


def _documents() -> Documents:
    found: Documents = current_app.extensions["documents"]
    return found
