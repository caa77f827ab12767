"""Payment tables: what customers pay, and the inbox of what providers tell us (behaviour 3.2)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, Job, one_of
from shared.models.types import Coin, Micro
from shared.money import CoinAmount

PROVIDERS = ("nowpayments", "x402")
# The provider's nine, then ours: ``creating`` (the provider's answer is not known yet) and
# ``manual_review`` (money that no rule may credit on its own).
PAYMENT_STATUSES = (
    "waiting",
    "confirming",
    "confirmed",
    "sending",
    "partially_paid",
    "finished",
    "failed",
    "refunded",
    "expired",
    "creating",
    "manual_review",
)
# On what ground a payment was credited: its price, its pack, more than its price, what the
# provider paid out, what a transfer on chain brought, or an admin's decision.
CREDIT_BASES = ("price", "pack", "overpaid", "outcome", "transfer", "admin")

# Money has come for it and no lot was given; in ``manual_review`` a person has it in hand.
PAID_NOT_CREDITED = text(
    "lot_id IS NULL AND status IN ('confirmed', 'sending', 'partially_paid', 'finished')"
)

# A worked-off notice whose body, as it came over the wire, was not forgotten yet.
KEEPS_BODY = text("state = 'done' AND length(raw_body) > 0")


class CryptoPayment(Base):
    """One payment at a provider. Its credits are ``payment_credits``, the first lot ``lot_id``.

    ``pack_micro`` is what a pack gives for the full price; ``payer`` who paid, where it is known.
    ``provider_payment_id`` is empty only while ``status`` is ``creating``; ``payment_id`` is its
    earlier name and is kept equal by a trigger.
    """

    __tablename__ = "crypto_payments"
    __table_args__ = (
        one_of("provider", *PROVIDERS),
        one_of("status", *PAYMENT_STATUSES),
        CheckConstraint(
            "provider_payment_id IS NOT NULL OR status = 'creating'", name="provider_payment_id"
        ),
        UniqueConstraint("provider", "provider_payment_id"),
        Index("ix_crypto_payments_payment_id", "payment_id"),
        Index("ix_crypto_payments_community_id", "community_id", "status"),
        Index("ix_crypto_payments_account_id", "account_id", "created_at"),
        Index("ix_crypto_payments_created_at", "created_at"),
        Index("ix_crypto_payments_updated_at", "updated_at", "id"),
        Index("ix_crypto_payments_order_id", "order_id", unique=True),
        Index("ix_crypto_payments_lot_id", "lot_id"),
        Index(
            "uq_crypto_payments_idempotency",
            "account_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
            sqlite_where=text("idempotency_key IS NOT NULL"),
        ),
        Index(
            "ix_crypto_payments_poll",
            "next_poll_at",
            postgresql_where=text("next_poll_at IS NOT NULL"),
            sqlite_where=text("next_poll_at IS NOT NULL"),
        ),
        Index(
            "ix_crypto_payments_uncredited",
            "updated_at",
            postgresql_where=PAID_NOT_CREDITED,
            sqlite_where=PAID_NOT_CREDITED,
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(server_default="nowpayments")
    provider_payment_id: Mapped[str | None]
    payment_id: Mapped[str | None]
    parent_payment_id: Mapped[str | None]
    community_id: Mapped[str | None]
    tier: Mapped[str | None]
    price_amount: Mapped[CoinAmount | None] = mapped_column(Coin)
    price_currency: Mapped[str] = mapped_column(server_default="usd")
    pay_amount: Mapped[CoinAmount | None] = mapped_column(Coin)
    pay_currency: Mapped[str | None]
    pay_address: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="waiting")
    actually_paid: Mapped[CoinAmount | None] = mapped_column(Coin)
    outcome_amount: Mapped[CoinAmount | None] = mapped_column(Coin)
    outcome_currency: Mapped[str | None]
    order_id: Mapped[str | None]
    account_id: Mapped[str | None]
    amount_usd_micro: Mapped[int | None] = mapped_column(Micro)
    lot_id: Mapped[str | None]
    pack_id: Mapped[str | None]
    pack_micro: Mapped[int | None] = mapped_column(Micro)
    payer: Mapped[str | None]
    review_reason: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    request_fingerprint: Mapped[str | None]
    raw_payload: Mapped[str | None]
    next_poll_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class PaymentCredit(Base):
    """What a payment was credited: a lot, on what ground, at which rate in USD for one coin."""

    __tablename__ = "payment_credits"
    __table_args__ = (
        CheckConstraint("amount_micro > 0", name="amount_micro"),
        one_of("basis", *CREDIT_BASES),
        Index("ix_payment_credits_payment_id", "payment_id"),
        STRICT,
    )

    lot_id: Mapped[str] = mapped_column(ForeignKey("credit_lots.id"), primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("crypto_payments.id"))
    amount_micro: Mapped[int] = mapped_column(Micro)
    basis: Mapped[str]
    rate: Mapped[CoinAmount | None] = mapped_column(Coin)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Purchase(Base):
    """A credit pack that was sold (behaviour 3.5)."""

    __tablename__ = "credit_lot_purchases"
    __table_args__ = (
        CheckConstraint("amount_micro > 0", name="amount_micro"),
        UniqueConstraint("idempotency_key"),
        Index("ix_credit_lot_purchases_account_id", "account_id", "created_at"),
        Index("ix_credit_lot_purchases_lot_id", "lot_id"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    pack_id: Mapped[str]
    payment_reference: Mapped[str]
    idempotency_key: Mapped[str]
    lot_id: Mapped[str] = mapped_column(ForeignKey("credit_lots.id"))
    amount_micro: Mapped[int] = mapped_column(Micro)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class WebhookEvent(Job, Base):
    """A provider's notice, stored raw before anything is done with it. The row is the job.

    ``source`` is ``notice`` (they told us) or ``poll`` (we asked).
    """

    __tablename__ = "webhook_events"
    __table_args__ = (
        one_of("state", "new", "done", "parked"),
        UniqueConstraint("provider", "dedupe_key"),
        Index("ix_webhook_events_payment", "provider", "provider_payment_id"),
        Index(
            "ix_webhook_events_due",
            "due_at",
            "id",
            postgresql_where=text("state = 'new'"),
            sqlite_where=text("state = 'new'"),
        ),
        Index(
            "ix_webhook_events_body",
            "done_at",
            postgresql_where=KEEPS_BODY,
            sqlite_where=KEEPS_BODY,
        ),
        {**STRICT, "postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    provider: Mapped[str]
    dedupe_key: Mapped[str]
    source: Mapped[str] = mapped_column(server_default="notice")
    provider_payment_id: Mapped[str | None]
    status: Mapped[str | None]
    # ``notice`` is the authenticated reading; ``raw_body`` what came over the
    # wire, emptied after ``notice_body_days``.
    notice: Mapped[str]
    raw_body: Mapped[bytes] = mapped_column(LargeBinary)
    traceparent: Mapped[str | None]
    outcome: Mapped[str | None]
    received_at: Mapped[datetime] = mapped_column(server_default=NOW)
