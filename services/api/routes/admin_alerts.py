"""The admin API of the alerts: what fires now, what did, and who has seen it (contract 5)."""

from flask import Response

from services.api.context import actor, answer, parse_body, parse_query, services
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.alerts import AcknowledgeRequest, HistoryQuery
from services.api.schemas.answers.notifications import AcknowledgedAlert, AlertHistory, Alerts
from shared.alerts import views
from shared.openapi.operations import documented

routes = admin_blueprint("alerts")


@routes.get("")
@documented({200: Alerts})
def show_alerts() -> Response:
    """Show every alert with its figure; those that fire come first."""
    with services().database.reading() as tx:
        return answer(views.show_alerts(tx))


@routes.get("/history")
@documented({200: AlertHistory}, query=HistoryQuery)
def list_history() -> Response:
    """List what fired, cleared and was acknowledged, newest first."""
    query = parse_query(HistoryQuery)
    with services().database.reading() as tx:
        return answer(views.list_history(tx, limit=query.limit, before=query.cursor))


@routes.post("/<name>/acknowledge")
@documented({200: AcknowledgedAlert}, body=AcknowledgeRequest, errors=("alert_not_firing",))
def acknowledge(name: str) -> Response:
    """Note that an admin has seen it; it fires on until its cause is gone."""
    body = parse_body(AcknowledgeRequest)
    database = services().database
    return answer(
        views.acknowledge(database, actor(), name, subject=body.subject, reason=body.reason)
    )
