"""What admins may send about outgoing webhooks."""

from typing import Annotated

from pydantic import Field

from services.api.schemas.fields import Identifier, Request, Text
from shared.notifications.addresses import URL_MAX_CHARACTERS

Url = Annotated[str, Field(min_length=1, max_length=URL_MAX_CHARACTERS)]
EventTypes = Annotated[list[Identifier], Field(min_length=1, max_length=50)]


class WebhookRequest(Request):
    """A new endpoint; without types it subscribes to all."""

    url: Url
    description: Text | None = None
    event_types: EventTypes | None = None


class WebhookChange(Request):
    """What is to be changed about an endpoint; what is left out stays."""

    url: Url | None = None
    description: Text | None = None
    event_types: EventTypes | None = None
    is_active: bool | None = None
