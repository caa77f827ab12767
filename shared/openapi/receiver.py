"""The documentation of the webhook receiver's routes.

The receiver is a service of its own, which the API does not know; so what the receiver attaches to
its routes, and the API writes into the one document, lives here between them.
"""

from pydantic import BaseModel, ConfigDict

from shared.openapi.operations import Operation

NOTICE_PATHS = ("/api/billing/webhooks/nowpayments", "/api/crypto/webhook")
SIGNATURE_HEADER = "x-nowpayments-sig"


class Notice(BaseModel):
    """A notice of a payment as NOWPayments writes it; what else it says is kept, not needed."""

    model_config = ConfigDict(extra="allow")

    payment_id: int | str
    payment_status: str


class Received(BaseModel):
    """The notice is kept; the workers do the rest."""

    received: bool
    duplicate: bool


class ReceiverHealth(BaseModel):
    """Whether the receiver can keep notices."""

    status: str
    database: str


NOTICE = Operation(
    answers={200: Received},
    body=Notice,
    errors=(
        "invalid_signature",
        "not_an_object",
        "not_json",
        "not_utf8",
        "too_deep",
        "unsupported_media_type",
    ),
    takes={SIGNATURE_HEADER: "HMAC-SHA512 of the body with sorted keys, in hex."},
)
HEALTH = Operation(answers={200: ReceiverHealth, 503: ReceiverHealth})
METRICS = Operation(answers={200: "text/plain: The counters, for Prometheus."})
