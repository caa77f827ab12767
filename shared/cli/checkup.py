"""The checks of ``arrakis doctor``: each looks at one thing and says what to do about it."""

import math
import shutil
from collections import Counter
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
from shared.operations import ticks
from shared.payments.policy import load_policy
from shared.payments.x402.networks import NetworksError, read_networks
from shared.wiring import make_provider

Verdict = Literal["ok", "warning", "wrong", "away"]
_CLOCK_SECONDS = 5.0  # tokens allow 30, holds live 300; more than this is a clock to be set
_FREE_BYTES = 1024**3
_LAG_SECONDS = 60
_SECRET_BITS = 100  # by how often each character comes; 32 hexadecimal digits have about 120
_PLACEHOLDERS = ("changeme", "change-me", "password", "secret", "example", "test", "12345678")
_BETTER_SECRET = f"Use at least {MIN_SECRET_BYTES} bytes, for example from: openssl rand -hex 32"
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_SORTING = text(
    "SELECT datlocprovider, datcollate FROM pg_database WHERE datname = current_database()"
)
_BUILTIN, _BYTE_BY_BYTE = "b", {"C", "POSIX", "C.UTF-8", "C.utf8"}
_OPTIONAL = {"OUTGOING_WEBHOOK_SECRET"}
_SECRETS = {
    "BILLING_INTERNAL_JWT_SECRET": "the API does not start without it",
    "BILLING_ADMIN_JWT_SECRET": "the API does not start without it",
    "BILLING_MEMBER_JWT_SECRET": "the API does not start without it",
    "NOWPAYMENTS_IPN_SECRET": "the webhook receiver does not start without it",
    "OUTGOING_WEBHOOK_SECRET": "outgoing webhooks are off without it",
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
    yield _feature(settings)
    database = open_database(settings)
    for name, check in _OF_DATABASE.items():
        yield _of_database(name, check, database)
    yield _redis(settings)
    yield _provider(settings)
    yield _verifying(settings)
    yield _networks(settings)


def _secrets(settings: DoctorSettings) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name, why in _SECRETS.items():
        secret = getattr(settings, name.lower()).strip()
        size = len(secret.encode())
        weakness = weakness_of(secret)
        if size == 0:
            verdict: Verdict = "warning" if name in _OPTIONAL else "wrong"
            yield Finding(name, verdict, "is not set", f"Set it: {why}.")
        elif size < MIN_SECRET_BYTES:
            yield Finding(name, "wrong", f"has {size} bytes", _BETTER_SECRET)
        elif secret in seen:
            told = f"is the same as {seen[secret]}"
            yield Finding(name, "wrong", told, f"Give each its own. {_BETTER_SECRET}")
        elif weakness:
            yield Finding(name, "wrong", weakness, _BETTER_SECRET)
        else:
            yield Finding(name, "ok", f"{size} bytes")
        seen.setdefault(secret, name)


def weakness_of(secret: str) -> str | None:
    """Say why *secret* could be guessed, None if it looks as if it came from a generator."""
    lower = secret.lower()
    word = next((word for word in _PLACEHOLDERS if word in lower), None)
    if word:
        return f"looks like a placeholder ({word})"
    counts = Counter(secret)
    bits = -sum(n * math.log2(n / len(secret)) for n in counts.values())
    if bits < _SECRET_BITS:
        return "repeats itself: it could be guessed"
    return None


def _feature(settings: DoctorSettings) -> Finding:
    flag, name = settings.feature_billing_enabled, "FEATURE_BILLING_ENABLED"
    if flag == "true":
        return Finding(name, "ok", "true")
    return Finding(name, "warning", f"is {flag!r}", "The API answers 503 until it is exactly: true")


def _schema_of(database: Database) -> Finding:
    missing = schema.all_names()[len(schema.applied(database)) :]
    if missing:
        return Finding("database", "wrong", f"lacks {', '.join(missing)}", "Run: arrakis migrate")
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    return Finding("database", "ok", f"{kind}, schema {schema.all_names()[-1]}")


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


def _disk_of(database: Database) -> Finding:
    if not database.is_sqlite or not database.engine.url.database:
        return Finding("disk", "ok", "the database's is on its own host")
    folder = Path(database.engine.url.database).resolve().parent
    free = shutil.disk_usage(folder).free
    told = f"{free // 1024**2} MiB free at {folder}"
    if free < _FREE_BYTES:
        return Finding("disk", "wrong", told, "Make room: a full disk stops every charge.")
    return Finding("disk", "ok", told)


def _durability_of(database: Database) -> Finding:
    """Tell whether a commit that was answered survives a power cut."""
    if database.is_sqlite:
        path = Path(database.engine.url.database or "")
        if path.is_file() and path.stat().st_mode & 0o007:
            advice = f"Keep it from other users of the host: chmod o= {path}"
            return Finding("durability", "warning", "the file is open to everybody", advice)
        return Finding("durability", "ok", "write-ahead log, every commit on disk")
    with database.reading() as tx:
        off = [name for name in _DURABLE if tx.scalar(text(f"SHOW {name}")) == "off"]
    if off:
        advice = "Turn it on in postgresql.conf: a power cut would lose money."
        return Finding("durability", "wrong", f"{', '.join(off)} is off", advice)
    return Finding("durability", "ok", "every commit is on disk")


def _sorting_of(database: Database) -> Finding:
    if database.is_sqlite:
        return Finding("sorting", "ok", "texts are compared byte by byte")
    with database.reading() as tx:
        compared = tx.all(_SORTING)[0]
    return verdict_on_sorting(compared.datlocprovider, compared.datcollate)


def verdict_on_sorting(provider: str, collation: str) -> Finding:
    """Tell how a PostgreSQL database with this provider of locales compares texts."""
    if provider == _BUILTIN or collation in _BYTE_BY_BYTE:
        return Finding("sorting", "ok", "texts are compared byte by byte")
    advice = (
        "Every index of ids is slower (half as much CPU again), and an upgrade of the host's C "
        "library can break them. Make the database anew with: CREATE DATABASE arrakis TEMPLATE "
        "template0 LOCALE 'C'; then bring it back by: arrakis restore"
    )
    return Finding("sorting", "warning", f"texts are compared as in {collation}", advice)


def _work_of(database: Database) -> Finding:
    """Tell whether the workers do what is due."""
    if schema.applied(database) != schema.all_names():
        return Finding("work", "wrong", "not read", "Run: arrakis migrate")
    with database.reading() as tx:
        seen, lags = ticks.list_ticks(tx), ticks.lags(tx)
    missing = [tick.name for tick in seen if tick.is_missing]
    late = [f"{lag.rows} {lag.kind}" for lag in lags if lag.seconds > _LAG_SECONDS]
    if missing or late:
        told = "; ".join(
            [*(f"{name} is not done" for name in missing), *(f"{one} wait" for one in late)]
        )
        return Finding("work", "wrong", told, "Start beat and the workers; see: arrakis status")
    if not seen:
        advice = "Start beat and a worker for each queue."
        return Finding("work", "warning", "no worker has ever done anything here", advice)
    return Finding("work", "ok", f"{len(seen)} kinds of work are done in time")


def _of_database(check: str, look: Callable[[Database], Finding], database: Database) -> Finding:
    try:
        return look(database)
    except ArrakisError as error:
        advice = "Start it, or correct DATABASE_URL."
        return Finding(check, "away", error.message, advice)


def _redis(settings: DoctorSettings) -> Finding:
    try:
        with open_redis(settings.redis_url) as redis:
            version = redis.info("server")["redis_version"]
            policy = redis.info("memory")["maxmemory_policy"]
    except (RedisError, OSError, ValueError) as error:
        advice = "Start it, or correct REDIS_URL. Until then limits are counted by each process."
        return Finding("redis", "away", type(error).__name__, advice)
    if policy != "noeviction":
        advice = "Set maxmemory-policy noeviction: evicted wake-ups and limits are lost."
        return Finding("redis", "warning", f"{version}, evicts by {policy}", advice)
    return Finding("redis", "ok", f"{version}, evicts nothing")


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


def _verifying(settings: DoctorSettings) -> Finding:
    name = "PAYMENTS_VERIFY_BEFORE_CREDIT"
    if settings.payments_verify_before_credit:
        return Finding(name, "ok", "the provider is asked before a notice is credited")
    advice = "Leave it on in production: whoever has the notices' secret could make credits."
    return Finding(name, "warning", "is off: a signed notice is believed", advice)


def _networks(settings: DoctorSettings) -> Finding:
    try:
        networks = read_networks(settings.x402_networks)
    except NetworksError as error:
        return Finding("X402_NETWORKS", "wrong", str(error), "Correct it; see .env.example.")
    names = ", ".join(network.caip2 for network in networks)
    return Finding("X402_NETWORKS", "ok", names or "empty: no top-ups by x402")


_OF_DATABASE: dict[str, Callable[[Database], Finding]] = {
    "database": _schema_of,
    "clock": _clock_of,
    "durability": _durability_of,
    "sorting": _sorting_of,
    "billing_config": _config_of,
    "work": _work_of,
    "disk": _disk_of,
}
