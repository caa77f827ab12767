"""The start of the API: what stops it, with which sentence, and when it migrates by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import schema
from shared.database import Database
from tests.conftest import KINDS
from tests.harness import SECRETS, Databases, running_api, service_environment
from tests.starting import start

REQUIRED = ("BILLING_INTERNAL_JWT_SECRET", "BILLING_ADMIN_JWT_SECRET", "BILLING_MEMBER_JWT_SECRET")
NO_REDIS = "redis://127.0.0.1:1/0"


def settings_for(path: Path, **changes: str) -> dict[str, str]:
    return service_environment(f"sqlite:///{path}", NO_REDIS, **changes)


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """Where a database could be, and is not."""
    return tmp_path / "data" / "new.db"


@pytest.fixture(params=KINDS)
def outdated(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Database]:
    """A database that lacks every migration after the first two."""
    made = Database(databases.make(request.param))
    schema.downgrade(made, "031_crypto_payments_v2")
    yield made
    made.dispose()


def url_of(database: Database) -> str:
    url: str = database.engine.url.render_as_string(hide_password=False)
    return url


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_secret_stops_the_start_and_is_named(nothing: Path, name: str) -> None:
    """Behaviour 123."""
    settings = settings_for(nothing)
    del settings[name]
    stopped = start(settings)
    assert stopped.returncode == 1
    assert stopped.stderr == f"Cannot start: {name} is not set. See .env.example.\n"
    assert not nothing.exists()


@pytest.mark.parametrize("name", [*REQUIRED, "BILLING_ADMIN_JWT_SECRET_PREV"])
def test_a_short_secret_stops_the_start_and_is_named(nothing: Path, name: str) -> None:
    stopped = start(settings_for(nothing, **{name: "x" * 31 + "  "}))
    assert stopped.returncode == 1
    assert stopped.stderr == (
        f"Cannot start: {name} must have at least 32 bytes. See .env.example.\n"
    )
    assert not nothing.exists()


def test_every_fault_is_told_at_once(nothing: Path) -> None:
    """Behaviour 123."""
    settings = settings_for(nothing, BILLING_CEILING_MICRO="0")
    settings["BILLING_ADMIN_JWT_SECRET"] = " " * 40
    del settings["BILLING_MEMBER_JWT_SECRET"]
    stopped = start(settings)
    assert stopped.returncode == 1
    for name in ("BILLING_CEILING_MICRO", "BILLING_ADMIN_JWT_SECRET", "BILLING_MEMBER_JWT_SECRET"):
        assert name in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1


def test_no_secret_is_ever_printed(nothing: Path) -> None:
    short = "too-short-to-be-good"
    stopped = start(settings_for(nothing, BILLING_ADMIN_JWT_SECRET=short))
    assert short not in stopped.stdout + stopped.stderr
    assert not any(secret in stopped.stdout + stopped.stderr for secret in SECRETS.values())


def test_an_old_schema_is_refused_with_what_to_do(outdated: Database) -> None:
    before = schema.applied(outdated)
    settings = service_environment(url_of(outdated), NO_REDIS, ARRAKIS_AUTO_MIGRATE="false")
    stopped = start(settings)
    assert stopped.returncode == 1
    assert "arrakis migrate" in stopped.stderr
    assert "032_billing_ops" in stopped.stderr
    assert schema.applied(outdated) == before


def test_an_empty_database_is_refused_too_when_told_not_to_migrate(nothing: Path) -> None:
    stopped = start(settings_for(nothing, ARRAKIS_AUTO_MIGRATE="false"))
    assert stopped.returncode == 1
    assert "030_credit_ledger" in stopped.stderr
    assert "arrakis migrate" in stopped.stderr


def test_postgresql_is_not_migrated_unless_told_to(databases: Databases) -> None:
    database = Database(databases.make("postgresql"))
    schema.downgrade(database, "031_crypto_payments_v2")
    settings = service_environment(url_of(database), NO_REDIS)
    assert "arrakis migrate" in start(settings).stderr
    assert start({**settings, "ARRAKIS_AUTO_MIGRATE": "true"}).returncode == 0
    assert schema.applied(database) == schema.all_names()
    database.dispose()


def test_sqlite_is_migrated_at_the_start_also_while_the_feature_is_off(
    nothing: Path, redis_url: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{nothing}"
    settings = {"FEATURE_BILLING_ENABLED": "false"}
    with running_api(url, redis_url, tmp_path / "api.log", **settings) as off:
        assert schema.applied(off.database) == schema.all_names()
        assert off.get("/api/internal/health", headers={}).json()["status"] == "ok"
        assert off.get("/api/internal/reservations/x").status_code == 503


def test_an_old_sqlite_file_is_brought_up_to_date_at_the_start(nothing: Path) -> None:
    database = Database(f"sqlite:///{nothing}")
    schema.upgrade(database)
    schema.downgrade(database, "031_crypto_payments_v2")
    started = start(settings_for(nothing))
    assert (started.returncode, started.stderr) == (0, "")
    assert schema.applied(database) == schema.all_names()
    database.dispose()
