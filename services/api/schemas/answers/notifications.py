"""Answers about alerts and outgoing webhooks."""

from typing import Any, Literal

from services.api.schemas.answers.fields import Answer, NextCursor, Time
from services.api.schemas.answers.operations import AuditRowOfTarget


class Alert(Answer):
    """An alert with its figure, its limit and what to do."""

    name: str
    subject: str
    severity: str
    status: Literal["firing", "ok"]
    value: int | None
    out_of: int | None
    threshold: str
    since: Time | None
    message: str | None
    meaning: str
    what_to_do: str
    clears: str
    clears_in_seconds: int | None
    acknowledged_by: str | None
    acknowledged_at: Time | None


class Alerts(Answer):
    """Every alert; ``firing`` is how many fire."""

    firing: int
    evaluated_at: Time
    alerts: list[Alert]


class AlertHistory(Answer):
    """A page of what fired, cleared and was acknowledged."""

    history: list[AuditRowOfTarget]
    next_cursor: NextCursor


class AcknowledgedAlert(Answer):
    """Who has seen an alert."""

    name: str
    subject: str
    acknowledged_by: str
    acknowledged_at: Time


class Webhook(Answer):
    """An endpoint of yours that is told of events."""

    endpoint_id: str
    url: str
    description: str | None
    event_types: list[str]
    status: Literal["active", "disabled"]
    disabled_reason: str | None
    failing_since: Time | None
    secret_version: int
    waiting: int
    created_by: str
    created_at: Time
    updated_at: Time


class WebhookWithSecret(Webhook):
    """An endpoint with its secret, which is shown this once."""

    secret: str


class Webhooks(Answer):
    """All endpoints."""

    webhooks: list[Webhook]


class WebhookDelivery(Answer):
    """An event on its way to an endpoint."""

    delivery_id: str
    endpoint_id: str
    event_id: str
    type: str
    data: Any
    status: str
    tries: int
    next_try_at: Time | None
    status_code: int | None
    response: str | None
    error: str | None
    created_at: Time
    ended_at: Time | None


class WebhookWithDeliveries(Webhook):
    """An endpoint with its last deliveries."""

    last_deliveries: list[WebhookDelivery]


class WebhookDeliveries(Answer):
    """A page of deliveries."""

    deliveries: list[WebhookDelivery]
    next_cursor: NextCursor


class RemovedWebhook(Answer):
    """An endpoint that is removed, and how many deliveries were cancelled."""

    endpoint_id: str
    status: Literal["removed"]
    cancelled: int


class WebhookTest(Answer):
    """The event that the endpoint will be told of."""

    event_id: str
    endpoint_id: str
