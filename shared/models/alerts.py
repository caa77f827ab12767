"""Alert tables: what fires, and counts for each minute of what leaves no row of its own."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, one_of
from shared.models.types import Micro


class Alert(Base):
    """The state of one alert, of one of its subjects if it has many (a campaign, a tick).

    ``since`` is when it took its status. ``above_at`` is when it was last above its threshold and
    ``evaluated_at`` of when the figures are, so that late figures never undo newer ones. ``value``
    is a number, or so many out of ``out_of``.
    """

    __tablename__ = "alerts"
    __table_args__ = (
        one_of("severity", "critical", "warning"),
        one_of("status", "firing", "cleared"),
        Index("ix_alerts_status", "status"),
        STRICT,
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True, server_default="")
    severity: Mapped[str]
    status: Mapped[str]
    since: Mapped[datetime]
    above_at: Mapped[datetime]
    evaluated_at: Mapped[datetime]
    value: Mapped[int] = mapped_column(Micro)
    out_of: Mapped[int | None] = mapped_column(Micro)
    message: Mapped[str]
    acknowledged_by: Mapped[str | None]
    acknowledged_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class MinuteCount(Base):
    """How often something happened in one minute, in all processes together."""

    __tablename__ = "minute_counts"
    __table_args__ = (
        CheckConstraint("total >= 0", name="total"),
        Index("ix_minute_counts_minute", "minute"),
        STRICT,
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(Micro)
