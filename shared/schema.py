"""The shape of the database: what is applied, what is missing, and how to apply it."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from shared.database import Database
from shared.errors import Unavailable

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def alembic_config(database: Database | None = None) -> Config:
    """Return Alembic's configuration for our migrations on *database*."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database"] = database
    return config


def upgrade(database: Database) -> list[str]:
    """Apply every missing migration, each once; return the names of those applied now."""
    before = set(applied(database))
    command.upgrade(alembic_config(database), "head")
    return [name for name in all_names() if name not in before]


def downgrade(database: Database, revision: str) -> None:
    """Undo the migrations after *revision* (``base`` for all). Their tables' data is lost."""
    command.downgrade(alembic_config(database), revision)


@cache
def all_names() -> tuple[str, ...]:
    """Return the names of all migrations, oldest first."""
    steps = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    return tuple(step.revision for step in reversed(list(steps)))


def applied(database: Database) -> tuple[str, ...]:
    """Return the names of the migrations that *database* has, oldest first."""
    with database.reading() as tx:
        head = MigrationContext.configure(tx.connection).get_current_revision()
    names = all_names()
    return names[: names.index(head) + 1] if head in names else ()


def require_current(database: Database) -> None:
    """Raise Unavailable (``schema_outdated``) with what to do if a migration is missing."""
    missing = all_names()[len(applied(database)) :]
    if missing:
        raise Unavailable(
            f"The database lacks {', '.join(missing)}. Run: arrakis migrate",
            code="schema_outdated",
        )
