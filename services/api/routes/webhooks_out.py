"""The admin API of outgoing webhooks: endpoints, tests, deliveries (docs/webhooks.md)."""

from flask import Response

from services.api.context import actor, answer, parse_body, parse_query, services
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.notifications import (
    RemovedWebhook,
    Webhook,
    WebhookDeliveries,
    WebhookDelivery,
    Webhooks,
    WebhookTest,
    WebhookWithDeliveries,
    WebhookWithSecret,
)
from services.api.schemas.requests import PageQuery
from services.api.schemas.webhooks import WebhookChange, WebhookRequest
from shared.notifications import deliveries, endpoints
from shared.notifications.endpoints import Wanted
from shared.notifications.keys import Keys
from shared.openapi.operations import documented
from shared.wiring import make_keys

_ERRORS = (
    "config_invalid",
    "unknown_event_type",
    "webhook_host_unknown",
    "webhook_url_refused",
    "webhooks_not_configured",
)
_UNKNOWN = "webhook_not_found"
routes = admin_blueprint("webhooks_out")


@routes.post("")
@documented({201: WebhookWithSecret}, body=WebhookRequest, errors=("too_many_webhooks", *_ERRORS))
def create() -> Response:
    """Add an endpoint: 201 with its secret, which is shown this once."""
    wanted = Wanted(**parse_body(WebhookRequest).model_dump())
    assert wanted.url is not None
    _require_url(wanted.url)
    with services().database.transaction() as tx:
        made = endpoints.create(tx, actor(), _keys(), wanted)
    return answer(made, 201)


@routes.get("")
@documented({200: Webhooks})
def list_endpoints() -> Response:
    """List endpoints, oldest first."""
    with services().database.reading() as tx:
        return answer(endpoints.list_endpoints(tx))


@routes.get("/<endpoint_id>")
@documented({200: WebhookWithDeliveries}, errors=(_UNKNOWN,))
def show(endpoint_id: str) -> Response:
    """Show an endpoint with its last deliveries."""
    with services().database.reading() as tx:
        return answer(deliveries.show_endpoint(tx, endpoint_id))


@routes.patch("/<endpoint_id>")
@documented({200: Webhook}, body=WebhookChange, errors=(_UNKNOWN, *_ERRORS))
def change(endpoint_id: str) -> Response:
    """Change an endpoint, disable it, or enable it again."""
    wanted = Wanted(**parse_body(WebhookChange).model_dump())
    if wanted.url is not None:
        _require_url(wanted.url)
    with services().database.transaction() as tx:
        return answer(endpoints.change(tx, actor(), endpoint_id, wanted))


@routes.delete("/<endpoint_id>")
@documented({200: RemovedWebhook}, errors=(_UNKNOWN,))
def remove(endpoint_id: str) -> Response:
    """Remove an endpoint and cancel what waits for it."""
    with services().database.transaction() as tx:
        return answer(endpoints.remove(tx, actor(), endpoint_id))


@routes.post("/<endpoint_id>/rotate-secret")
@documented({200: WebhookWithSecret}, errors=(_UNKNOWN, "webhooks_not_configured"))
def rotate_secret(endpoint_id: str) -> Response:
    """Give it a new secret, shown this once; the earlier one signs for a day more."""
    with services().database.transaction() as tx:
        return answer(endpoints.rotate_secret(tx, actor(), _keys(), endpoint_id))


@routes.post("/<endpoint_id>/test")
@documented({202: WebhookTest}, errors=(_UNKNOWN, "webhook_disabled"))
def send_test(endpoint_id: str) -> Response:
    """Have it told of a test: 202, the workers deliver it."""
    with services().database.transaction() as tx:
        return answer(endpoints.send_test(tx, actor(), endpoint_id), 202)


@routes.get("/<endpoint_id>/deliveries")
@documented({200: WebhookDeliveries}, query=PageQuery, errors=(_UNKNOWN,))
def list_deliveries(endpoint_id: str) -> Response:
    """List an endpoint's deliveries, newest first."""
    query = parse_query(PageQuery)
    with services().database.reading() as tx:
        return answer(
            deliveries.list_deliveries(tx, endpoint_id, limit=query.limit, after=query.cursor)
        )


@routes.post("/deliveries/<delivery_id>/retry")
@documented({202: WebhookDelivery}, errors=("delivery_not_found", "webhook_removed"))
def retry(delivery_id: str) -> Response:
    """Have a delivery made again: 202, the workers do it."""
    with services().database.transaction() as tx:
        return answer(deliveries.retry(tx, actor(), delivery_id), 202)


def _keys() -> Keys:
    return make_keys(services().settings)


def _require_url(url: str) -> None:
    _keys().require()
    allow_private = services().settings.arrakis_webhook_allow_private
    endpoints.require_url(services().database, actor(), url, allow_private=allow_private)
