"""What the tests stand on: real databases, real servers in their own processes, real HTTP."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jwt
import requests
from sqlalchemy import create_engine, text

from deploy.local import tether
from deploy.local.servers import free_port
from deploy.local.serving import granian_command
from shared import schema
from shared.clock import system_clock
from shared.database import Database
from shared.ids import new_id
from shared.ledger import accounts

Started = TypeVar("Started")
ROOT = Path(__file__).resolve().parent.parent
SECRETS = {
    "BILLING_INTERNAL_JWT_SECRET": "test-internal-secret-" + "i" * 32,
    "BILLING_ADMIN_JWT_SECRET": "test-admin-secret-" + "a" * 32,
    "BILLING_MEMBER_JWT_SECRET": "test-member-secret-" + "m" * 32,
    "NOWPAYMENTS_IPN_SECRET": "test-ipn-secret-" + "n" * 32,
    "NOWPAYMENTS_API_KEY": "test-api-key",
    "OUTGOING_WEBHOOK_SECRET": "outgoing-" + "w" * 32,
}


def unique(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{secrets.token_hex(6)}"


def make_id() -> str:
    """Return a new id of now."""
    return new_id(system_clock())


def make_account(database: Database) -> str:
    """Create an account and return its id."""
    with database.transaction() as tx:
        account_id, _ = accounts.create_account(
            tx, entity_type="person", entity_id=unique("person")
        )
    return account_id


def set_config(database: Database, **values: str) -> None:
    """Change settings as the runbook does: by SQL."""
    with database.transaction() as tx:
        for key, value in values.items():
            tx.run(
                text("UPDATE billing_config SET value = :value WHERE key = :key"),
                key=key,
                value=value,
            )


def wait_until(what: str, condition: Any, seconds: float = 10.0) -> Any:
    """Poll *condition* until it gives something true, and return that; fail naming *what*."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {seconds} s: {what}")
        time.sleep(0.02)


class Databases:
    """Makes fresh, migrated databases quickly: by copying one that was migrated once."""

    def __init__(self, directory: Path, postgres_url: str) -> None:
        self._directory = directory
        self._postgres_url = postgres_url  # ends in the name of the maintenance database
        self._sqlite_template = directory / "template.db"
        self._migrate(f"sqlite:///{self._sqlite_template}")
        self._template = unique("template").replace("-", "_")
        self._admin(f"CREATE DATABASE {self._template}")
        self._migrate(self._named(self._template))

    def make(self, kind: str) -> str:
        """Return the URL of a new database of *kind*: ``sqlite`` or ``postgresql``."""
        name = unique("test").replace("-", "_")
        if kind == "sqlite":
            path = self._directory / f"{name}.db"
            shutil.copy(self._sqlite_template, path)
            return f"sqlite:///{path}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return self._named(name)

    def _migrate(self, url: str) -> None:
        database = Database(url)
        schema.upgrade(database)
        database.dispose()

    def _named(self, name: str) -> str:
        base, _, options = self._postgres_url.partition("?")
        return f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{options}" if options else "")

    def _admin(self, statement: str) -> None:
        engine = create_engine(self._postgres_url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


@contextmanager
def service(
    command: list[str], environment: Mapping[str, str], ready_url: str | None, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a real service as a child that dies with us; stop it, and all it started, at the end."""
    with log.open("ab") as output:
        process = tether.spawn(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        if ready_url is not None:
            _wait_ready(process, ready_url, log)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if requests.get(url, timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{url} did not become ready:\n{log.read_text()[-3000:]}")


@contextmanager
def started_once(
    start: Callable[[str], AbstractContextManager[Started]],
) -> Iterator[Callable[[str], Started]]:
    """Yield what starts a server on a kind of database at its first call; all stop at the end.

    For fixtures of a session: a parametrised one would stop and start at each change of kind.
    """
    with ExitStack() as running:
        yield cache(lambda kind: running.enter_context(start(kind)))


def granian(target: str, port: int) -> list[str]:
    """Return the command that serves *target* as production does."""
    return granian_command(target, port, log_level="error")


def worker(*queues: str) -> list[str]:
    """Return the command of a real worker on *queues*."""
    return [
        sys.executable,
        *("-m", "celery", "-A", "services.workers.main", "worker", "-Q", ",".join(queues)),
        *("--pool", "threads", "-c", "4", "--without-gossip", "--without-mingle"),
        *("--loglevel", "WARNING", "-n", unique("worker") + "@%h"),
    ]


@dataclass
class Api:
    """A client of one running API, with tokens of its own so that tests share no rate limit."""

    url: str
    database: Database
    subject: str = field(default_factory=lambda: unique("caller"))

    def s2s(self, **claims: Any) -> dict[str, str]:
        """Return the Authorization header that loa-finn would send."""
        return self._bearer(
            "BILLING_INTERNAL_JWT_SECRET",
            300,
            {"iss": "loa-finn", "aud": "arrakis-internal", "sub": self.subject, **claims},
        )

    def admin(self, **claims: Any) -> dict[str, str]:
        """Return an admin's Authorization header."""
        standard = {
            "iss": "arrakis-admin",
            "aud": "arrakis-billing-admin",
            "sub": self.subject,
            "scopes": ["billing:read", "billing:write"],
        }
        return self._bearer("BILLING_ADMIN_JWT_SECRET", 3600, {**standard, **claims})

    def member(self, account_id: str, **claims: Any) -> dict[str, str]:
        """Return the Authorization header of a member's app."""
        standard = {"iss": "arrakis", "aud": "arrakis-billing", "sub": account_id}
        return self._bearer("BILLING_MEMBER_JWT_SECRET", 3600, {**standard, **claims})

    def _bearer(self, name: str, life: int, claims: dict[str, Any]) -> dict[str, str]:
        now = int(time.time())
        times = {"iat": now, "exp": now + life}
        secret = claims.pop("secret", SECRETS[name])
        return {
            "Authorization": "Bearer " + jwt.encode({**times, **claims}, secret, algorithm="HS256")
        }

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET *path*, as loa-finn unless headers say otherwise."""
        options.setdefault("headers", self.s2s())
        return requests.get(self.url + path, timeout=30, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        """POST *body* as JSON to *path*, as loa-finn unless headers say otherwise."""
        options.setdefault("headers", self.s2s())
        if body is not None:
            options["json"] = body
        return requests.post(self.url + path, timeout=30, **options)

    def patch(self, path: str, body: Any, **options: Any) -> requests.Response:
        """PATCH *path* with *body* as JSON; the headers say who calls."""
        return requests.patch(self.url + path, json=body, timeout=30, **options)

    def internal(self, operation: str, body: Any, key: str | None = None) -> requests.Response:
        """POST to the S2S API, with an Idempotency-Key if *key* is given."""
        headers = self.s2s() | ({"Idempotency-Key": key} if key else {})
        return self.post(f"/api/internal/{operation}", body, headers=headers)

    def admin_get(self, path: str) -> requests.Response:
        """GET *path* of the admin API, as an admin of its own."""
        return self.get(f"/admin/billing/{path}", headers=self.admin(sub=unique("admin")))

    def funded_account(self, amount_micro: int = 10_000_000) -> str:
        """Create an account through the admin API and mint *amount_micro* into it."""
        made = self.post(
            "/admin/billing/accounts",
            {"entityType": "person", "entityId": unique("person")},
            headers=self.admin(sub=unique("admin")),
        )
        assert made.status_code == 201, made.text
        account_id: str = made.json()["accountId"]
        if amount_micro:
            minted = self.post(
                f"/admin/billing/accounts/{account_id}/mint",
                {"amountMicro": str(amount_micro), "sourceType": "deposit"},
                headers=self.admin(sub=unique("admin")),
            )
            assert minted.status_code == 201, minted.text
        return account_id


@contextmanager
def running_api(database_url: str, redis_url: str, log: Path, **environment: str) -> Iterator[Api]:
    """Run the real API on granian against *database_url*; yields a client."""
    port = free_port()
    settings = service_environment(database_url, redis_url, **environment)
    url = f"http://127.0.0.1:{port}"
    database = Database(database_url)
    with service(
        granian("services.api.wsgi:app", port), settings, f"{url}/api/internal/health", log
    ):
        yield Api(url, database)
    database.dispose()


def service_environment(database_url: str, redis_url: str, **environment: str) -> dict[str, str]:
    """Return the environment of a service under test."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FEATURE_BILLING_ENABLED": "true",
        "ARRAKIS_LOG_LEVEL": "WARNING",
        # Most tests tell notices that no provider stands behind.
        "PAYMENTS_VERIFY_BEFORE_CREDIT": "false",
        **SECRETS,
        **environment,
    }
