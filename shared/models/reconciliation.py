"""Runs of the reconciliation: each is a job, and keeps what it found."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, Job, one_of
from shared.models.types import Flag

RUN_KINDS = ("cache", "daily")
_OPEN = text("state = 'new'")


class ReconciliationRun(Job, Base):
    """One comparison of the books, done check by check; at most one of a kind is open.

    ``step`` is the number of checks that are done, ``progress`` how far the next one is (JSON),
    ``result`` what was found so far (JSON). ``accounts_checked`` is empty if the cached balances
    could not be looked at. ``generation`` counts the daily runs.
    """

    __tablename__ = "reconciliation_runs"
    __table_args__ = (
        one_of("kind", *RUN_KINDS),
        one_of("state", "new", "done"),
        CheckConstraint("step >= 0", name="step"),
        CheckConstraint(
            "accounts_drifted >= 0 AND accounts_drifted <= accounts_checked", name="accounts"
        ),
        Index(
            "uq_reconciliation_runs_open",
            "kind",
            unique=True,
            postgresql_where=_OPEN,
            sqlite_where=_OPEN,
        ),
        Index("ix_reconciliation_runs_kind", "kind", "created_at"),
        Index("ix_reconciliation_runs_done_at", "done_at"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    generation: Mapped[int | None]
    requested_by: Mapped[str]
    asks_provider: Mapped[bool] = mapped_column(Flag, server_default=text("true"))
    provider_days: Mapped[int] = mapped_column(server_default="7")
    step: Mapped[int] = mapped_column(server_default="0")
    progress: Mapped[str | None]
    accounts_checked: Mapped[int | None]
    accounts_drifted: Mapped[int | None]
    passed: Mapped[bool | None] = mapped_column(Flag)
    result: Mapped[str] = mapped_column(server_default="{}")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
