"""Answers about payments, top-ups and what is on sale."""

from typing import Annotated, Any, Literal

from pydantic import Field

from services.api.schemas.answers.fields import Answer, Coin, Micro, Mode, NextCursor, Time, Usd
from services.api.schemas.payments import PaymentStatus


class Credit(Answer):
    """A lot that a payment brought, and by which rule."""

    lot_id: str
    amount_micro: Micro
    basis: str
    rate: Coin | None


class Payment(Answer):
    """A payment as we know it; ``creditedMicro`` and ``lotId`` once credits have come of it."""

    payment_id: str
    provider: Literal["nowpayments", "x402"]
    provider_payment_id: str | None
    account_id: str
    status: PaymentStatus
    price_amount: Usd | None
    price_currency: str
    pack_id: str | None
    pay_address: str | None
    pay_amount: Coin | None
    pay_currency: str | None
    qr_data: Annotated[str | None, Field(description="What a QR code of the payment says.")]
    actually_paid: Coin | None
    credited_micro: Micro | None
    lot_id: str | None
    credits: list[Credit]
    review_reason: str | None
    created_at: Time
    expires_at: Time | None
    finished_at: Time | None


class Payments(Answer):
    """A page of payments, newest first."""

    payments: list[Payment]
    next_cursor: NextCursor


class Notice(Answer):
    """A notice of the provider, stored, and what became of it."""

    event_id: str
    source: str
    status: str | None
    state: str
    outcome: str | None
    attempts: int
    last_error: str | None
    received_at: Time


class LetterOfPayment(Answer):
    """A dead letter about the payment."""

    id: str
    operation: str
    status: str
    retries: int
    error: str | None


class ExplainedPayment(Payment):
    """A payment with its notices and dead letters."""

    parent_payment_id: str | None
    outcome_amount: Coin | None
    outcome_currency: str | None
    next_poll_at: Time | None
    events: list[Notice]
    dead_letters: list[LetterOfPayment]


class ReplayedPayment(ExplainedPayment):
    """The payment after its notices were worked off again."""

    is_provider_asked: bool


class ReplayStarted(Answer):
    """A replay that goes on. The audit log tells how it ends, by ``correlationId``."""

    payment_id: str
    status: Literal["running"]
    look_up: str
    correlation_id: str


class RefundedPayment(Answer):
    """What was taken back of a payment's credits."""

    payment_id: str
    account_id: str
    status: Literal["refunded"]
    clawed_back_micro: Micro
    debt_micro: Micro
    held_micro: Micro
    lots: list[str]


class TopUp(Payment):
    """A payment by x402: settled (201), or waiting for the chain (202)."""

    settlement: Literal["settled", "settlement_pending"]
    transaction: str | None
    amount_usd_micro: Micro | None


class PaymentTerms(Answer):
    """What to pay, and where: version 1 in this body, version 2 in PAYMENT-REQUIRED (base64)."""

    x402_version: Annotated[Literal[1], Field(alias="x402Version")]
    error: str
    accepts: list[dict[str, Any]]
    code: str
    message: str
    quote_id: str
    amount_micro: Micro
    credit_micro: Micro
    pack_id: str | None
    expires_at: Time
    request_id: str


class Pool(Answer):
    """A kind of credits."""

    name: str
    description: str


class Tier(Answer):
    """A tier and its amount."""

    name: str
    amount_micro: str


class ModelPrice(Answer):
    """What 1,000 tokens of a model cost."""

    input_micro_per1k: Annotated[Micro, Field(alias="inputMicroPer1k")]
    output_micro_per1k: Annotated[Micro, Field(alias="outputMicroPer1k")]


class Pricing(Answer):
    """Pools, rates, tiers and models with their prices, and the mode in force."""

    pools: dict[str, Pool]
    rates: dict[str, str]
    tiers: list[Tier]
    models: dict[str, ModelPrice]
    billing_mode: Mode


class Pack(Answer):
    """Credits that are sold together."""

    pack_id: str
    price_usd: Usd
    price_micro: Micro
    credit_micro: Micro
    bonus_bps: int


class Packs(Answer):
    """The packs on sale, cheapest first."""

    packs: list[Pack]
