"""The bodies and queries about payments."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from services.api.schemas.fields import Dollars, Identifier, Reason, Request, Ticker
from shared.models.payments import PAYMENT_STATUSES

MAX_TOPUP_MICRO = 10_000_000_000
CREATION_ERRORS = (
    "account_not_found",
    "amount_above_ceiling",
    "config_invalid",
    "payment_outcome_unknown",
    "payment_refused",
    "payments_not_configured",
    "provider_unavailable",
)
PaymentStatus = Annotated[str, Field(pattern=f"^({'|'.join(PAYMENT_STATUSES)})$")]


def _within_the_limit(amount_micro: int) -> int:
    if amount_micro > MAX_TOPUP_MICRO:
        raise ValueError("Maximum top-up is $10,000")
    return amount_micro


TopUpDollars = Annotated[Dollars, AfterValidator(_within_the_limit)]


class PaymentRequest(Request):
    """A crypto payment to be made by a member, or by a chat bot for its user."""

    amount_usd: TopUpDollars
    pay_currency: Ticker


class ServicePaymentRequest(PaymentRequest):
    """The same, from a service that names the account."""

    account_id: Identifier


class PackRequest(Request):
    """A credit pack to be paid in a coin."""

    pay_currency: Ticker


class PaymentsQuery(Request):
    """Which payments an admin wants to see."""

    status: PaymentStatus | None = None
    account_id: Identifier | None = None
    provider: Literal["nowpayments", "x402"] | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None


class RefundRequest(Request):
    """Why credits are taken back."""

    reason: Reason
