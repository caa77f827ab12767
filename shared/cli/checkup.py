"""The checks of ``arrakis doctor``: each looks at one thing and says what to do about it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from redis.exceptions import RedisError
from sqlalchemy import text

from shared import schema
from shared.balance_upkeep import open_redis
from shared.cli.desk import open_database
from shared.config import MIN_SECRET_BYTES, DoctorSettings
from shared.database import Database
from shared.errors import ArrakisError
from shared.ledger.terms import TermsError, load_terms
from shared.payments.policy import load_policy
from shared.payments.x402.networks import NetworksError, read_networks
from shared.wiring import make_provider

Verdict = Literal["ok", "warning", "wrong", "away"]
_CLOCK_SECONDS = 5.0  # tokens allow 30, holds live 300; more than this is a clock to be set
_FREE_BYTES = 1024**3
_SECRETS = {
    "BILLING_INTERNAL_JWT_SECRET": "the API does not start without it",
    "BILLING_ADMIN_JWT_SECRET": "the API does not start without it",
    "BILLING_MEMBER_JWT_SECRET": "the API does not start without it",
    "NOWPAYMENTS_IPN_SECRET": "the webhook receiver does not start without it",
}


@dataclass(frozen=True)
class Finding:
    """What one check found: *advice* says what to do, empty if nothing has to be done."""

    check: str
    verdict: Verdict
    told: str
    advice: str = ""


def examine(settings: DoctorSettings) -> Iterator[Finding]:
    """Yield what each check finds, in the order in which one would look."""
    yield from _secrets(settings)
    yield _outgoing(settings)
    yield _feature(settings)
    database = open_database(settings)
    for check in (_schema, _clock, _config, _disk):
        yield check(settings, database)
    yield _redis(settings)
    yield _provider(settings)
    yield _networks(settings)


def _secrets(settings: DoctorSettings) -> Iterator[Finding]:
    for name, why in _SECRETS.items():
        size = len(getattr(settings, name.lower()).strip().encode())
        if size == 0:
            yield Finding(name, "wrong", "is not set", f"Set it: {why}.")
        elif size < MIN_SECRET_BYTES:
            advice = f"Use at least {MIN_SECRET_BYTES}, for example from: openssl rand -hex 32"
            yield Finding(name, "wrong", f"has {size} bytes", advice)
        else:
            yield Finding(name, "ok", f"{size} bytes")


def _outgoing(settings: DoctorSettings) -> Finding:
    name = "OUTGOING_WEBHOOK_SECRET"
    size = len(settings.outgoing_webhook_secret.strip().encode())
    if size == 0:
        return Finding(name, "warning", "is not set", "Outgoing webhooks are off until it is.")
    if size < MIN_SECRET_BYTES:
        advice = f"Use at least {MIN_SECRET_BYTES}, for example from: openssl rand -hex 32"
        return Finding(name, "wrong", f"has {size} bytes", advice)
    return Finding(name, "ok", f"{size} bytes")


def _feature(settings: DoctorSettings) -> Finding:
    flag, name = settings.feature_billing_enabled, "FEATURE_BILLING_ENABLED"
    if flag == "true":
        return Finding(name, "ok", "true")
    return Finding(name, "warning", f"is {flag!r}", "The API answers 503 until it is exactly: true")


def _schema(_settings: DoctorSettings, database: Database) -> Finding:
    return _of_database("database", _schema_of, database)


def _schema_of(database: Database) -> Finding:
    missing = schema.all_names()[len(schema.applied(database)) :]
    if missing:
        return Finding("database", "wrong", f"lacks {', '.join(missing)}", "Run: arrakis migrate")
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    return Finding("database", "ok", f"{kind}, schema {schema.all_names()[-1]}")


def _clock(_settings: DoctorSettings, database: Database) -> Finding:
    return _of_database("clock", _clock_of, database)


def _clock_of(database: Database) -> Finding:
    if database.is_sqlite:
        return Finding("clock", "ok", "SQLite's is this host's")
    with database.reading() as tx:
        before = database.clock()
        theirs = tx.scalar(text("SELECT clock_timestamp()"))
        after = database.clock()
    ahead = (before + (after - before) / 2 - theirs).total_seconds()
    told = f"{ahead:+.3f} s against the database's"
    if abs(ahead) > _CLOCK_SECONDS:
        return Finding("clock", "wrong", told, "Set the clocks of both hosts by NTP.")
    return Finding("clock", "ok", told)


def _config(_settings: DoctorSettings, database: Database) -> Finding:
    return _of_database("billing_config", _config_of, database)


def _config_of(database: Database) -> Finding:
    if schema.applied(database) != schema.all_names():
        return Finding("billing_config", "wrong", "not read", "Run: arrakis migrate")
    try:
        with database.reading() as tx:
            terms = load_terms(tx)
            load_policy(tx)
    except (TermsError, ArrakisError) as error:
        advice = "Mend it: arrakis config list, then arrakis config set"
        return Finding("billing_config", "wrong", str(error), advice)
    return Finding("billing_config", "ok", f"makes sense; the mode is {terms.mode}")


def _disk(_settings: DoctorSettings, database: Database) -> Finding:
    if not database.is_sqlite or not database.engine.url.database:
        return Finding("disk", "ok", "the database's is on its own host")
    folder = Path(database.engine.url.database).resolve().parent
    free = shutil.disk_usage(folder).free
    told = f"{free // 1024**2} MiB free at {folder}"
    if free < _FREE_BYTES:
        return Finding("disk", "wrong", told, "Make room: a full disk stops every charge.")
    return Finding("disk", "ok", told)


def _of_database(check: str, look: Callable[[Database], Finding], database: Database) -> Finding:
    try:
        return look(database)
    except ArrakisError as error:
        advice = "Start it, or correct DATABASE_URL."
        return Finding(check, "away", error.message, advice)


def _redis(settings: DoctorSettings) -> Finding:
    try:
        with open_redis(settings.redis_url) as redis:
            redis.ping()
    except (RedisError, OSError, ValueError) as error:
        advice = "Start it, or correct REDIS_URL. Until then limits are counted by each process."
        return Finding("redis", "away", type(error).__name__, advice)
    return Finding("redis", "ok", "answers")


def _provider(settings: DoctorSettings) -> Finding:
    if not settings.nowpayments_api_key:
        advice = "Set it: payments cannot be made, and credits are not confirmed."
        return Finding("NOWPAYMENTS_API_KEY", "wrong", "is not set", advice)
    advice = "Look at status.nowpayments.io, or correct NOWPAYMENTS_API_URL."
    try:
        is_well = make_provider(settings).status()
    except ArrakisError as error:
        return Finding("nowpayments", "away", error.message, advice)
    if not is_well:
        return Finding("nowpayments", "away", "says that it is not well", advice)
    return Finding("nowpayments", "ok", settings.nowpayments_api_url)


def _networks(settings: DoctorSettings) -> Finding:
    try:
        networks = read_networks(settings.x402_networks)
    except NetworksError as error:
        return Finding("X402_NETWORKS", "wrong", str(error), "Correct it; see .env.example.")
    names = ", ".join(network.caip2 for network in networks)
    return Finding("X402_NETWORKS", "ok", names or "empty: no top-ups by x402")
