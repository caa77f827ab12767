"""Alembic's entry: one transaction and one lock around all steps, each noted in ``migrations``."""

from typing import Any

import sqlalchemy as sa
from alembic import context

from shared.clock import system_clock
from shared.config import database_url_from_environment
from shared.database import Database
from shared.models import metadata
from shared.models.types import Coin, Flag, UtcTime

_ADVISORY_LOCK = 4_217_030  # any fixed number: two deploys must not migrate at once


def note_step(*, ctx: Any, step: Any, **_others: Any) -> None:
    """Keep the runbook's ``migrations`` table: a row for each step that is applied."""
    statement = (
        "INSERT INTO migrations (name, applied_at) VALUES (:name, :now) ON CONFLICT DO NOTHING"
        if step.is_upgrade
        else "DELETE FROM migrations WHERE name = :name"
    )
    # The clock, not the transaction's time: the runbook sorts by it, so each step has its own.
    typed = sa.text(statement)
    values: dict[str, Any] = {"name": step.up_revision_id}
    if step.is_upgrade:
        typed = typed.bindparams(sa.bindparam("now", type_=UtcTime()))
        values["now"] = system_clock()
    ctx.connection.execute(typed, values)


def compare_type(_context: Any, _inspected: Any, _metadata: Any, _found: Any, wanted: Any) -> Any:
    """Trust our own types: each is spelled differently on the two databases."""
    return False if isinstance(wanted, (UtcTime, Flag, Coin)) else None


def run() -> None:
    """Run the steps that Alembic asks for on the database at hand."""
    database: Database | None = context.config.attributes.get("database")
    own = database is None
    database = database or Database(database_url_from_environment())
    try:
        with database.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text("SET LOCAL lock_timeout = '60s'"))
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
                )
            context.configure(
                connection=connection,
                target_metadata=metadata,
                transactional_ddl=True,
                on_version_apply=note_step,
                compare_type=compare_type,
            )
            with context.begin_transaction():
                context.run_migrations()
    finally:
        if own:
            database.dispose()


run()
