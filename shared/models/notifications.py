"""Notification tables: who is told by webhook of what, the events, and their deliveries."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, Job, one_of
from shared.models.types import Flag

_WAITING = text("state = 'new'")


class Endpoint(Base):
    """A receiver of our webhooks. Its secrets are derived, never stored (ADR 0015).

    ``failing_since`` is when the first try failed since one succeeded. A removed one keeps its row,
    because its deliveries are evidence.
    """

    __tablename__ = "notification_endpoints"
    __table_args__ = (
        one_of("status", "active", "disabled", "removed"),
        CheckConstraint("secret_version >= 1", name="secret_version"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    description: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="active")
    secret_version: Mapped[int] = mapped_column(server_default="1")
    secret_rotated_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Subscription(Base):
    """A type of event that an endpoint wants to be told of."""

    __tablename__ = "notification_subscriptions"
    __table_args__ = (Index("ix_notification_subscriptions_endpoint_id", "endpoint_id"), STRICT)

    # The type comes first: it is what is looked up when something happens.
    event_type: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(
        ForeignKey("notification_endpoints.id"), primary_key=True
    )


class Event(Base):
    """Something that happened and that somebody wanted to know. ``key`` makes it one event."""

    __tablename__ = "notification_events"
    __table_args__ = (UniqueConstraint("key"), STRICT)

    id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    type: Mapped[str]
    data: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Delivery(Job, Base):
    """An event on its way to one endpoint. The row is the job.

    ``outcome`` says how it ended; ``status_code`` and ``response`` are the endpoint's last answer.
    """

    __tablename__ = "notification_deliveries"
    __table_args__ = (
        one_of("state", "new", "done", "parked"),
        one_of("outcome", "delivered", "gone", "cancelled"),
        UniqueConstraint("event_id", "endpoint_id"),
        Index("ix_notification_deliveries_endpoint", "endpoint_id", "id"),
        Index(
            "ix_notification_deliveries_due",
            "endpoint_id",
            "due_at",
            "id",
            postgresql_where=_WAITING,
            sqlite_where=_WAITING,
        ),
        {**STRICT, "postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(ForeignKey("notification_events.id"))
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("notification_endpoints.id"))
    outcome: Mapped[str | None]
    status_code: Mapped[int | None]
    response: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class BalanceWatch(Base):
    """Whether an account was low when it was last looked at, and how often it has become so."""

    __tablename__ = "notification_balance_watch"
    __table_args__ = (CheckConstraint("crossings >= 0", name="crossings"), STRICT)

    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"), primary_key=True)
    is_low: Mapped[bool] = mapped_column(Flag)
    crossings: Mapped[int] = mapped_column(server_default="0")
    changed_at: Mapped[datetime] = mapped_column(server_default=NOW)
