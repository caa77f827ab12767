"""The declarative base and what all tables have in common."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Integer, MetaData, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.models.types import UtcTime

NOW = text("CURRENT_TIMESTAMP")


class Base(DeclarativeBase):
    """All tables; constraints are named, so that a violation says which rule it broke."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, datetime: UtcTime, int: Integer}  # noqa: RUF012  declarative API


STRICT: dict[str, Any] = {"sqlite_strict": True}


def one_of(column: str, *words: str, name: str | None = None) -> CheckConstraint:
    """Return a CHECK that *column* holds one of *words*."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=name or column)


class Job:
    """Columns of a row that is its own job: claimed under a lease, done or put off (ADR 0005).

    ``state``: new → done, or → parked when it waits for an operator. A claimed row stays ``new``
    with a lease; a lease that lapses makes it due again.
    """

    state: Mapped[str] = mapped_column(server_default="new")
    attempts: Mapped[int] = mapped_column(server_default="0")
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
    lease_until: Mapped[datetime | None]
    lease_token: Mapped[str | None]
    last_error: Mapped[str | None]
    done_at: Mapped[datetime | None]
