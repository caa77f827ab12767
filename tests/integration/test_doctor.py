"""arrakis doctor: a line for each thing that can be wrong, with what to do, and exit codes."""

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.cli.checkup import verdict_on_sorting, weakness_of
from shared.clock import system_clock
from shared.database import Database
from shared.operations import ticks
from tests.command import NO_REDIS, arrakis, told
from tests.harness import SECRETS
from tests.ledger import Ledger
from tests.provider_harness import API_KEY, Simulator
from tests.shop import networks

STRONG = {name: secrets.token_urlsafe(48) for name in SECRETS}


def worked(ledger: Ledger, *, seconds_ago: int) -> None:
    """Let a worker have swept holds some time ago by this host's clock, which commands read."""
    before = system_clock() - timedelta(seconds=seconds_ago)
    database = Database(ledger.url, clock=lambda: before)
    with database.transaction() as tx:
        ticks.succeeded(tx, "ledger.expire_holds", every_seconds=60)
    database.dispose()


def well(ledger: Ledger, redis_url: str, simulator: Simulator) -> dict[str, str]:
    """Return an environment in which nothing is wrong but that test servers forget."""
    worked(ledger, seconds_ago=0)
    if ledger.database.is_sqlite:
        Path(ledger.database.engine.url.database or "").chmod(0o600)
    return {
        **STRONG,
        "DATABASE_URL": ledger.url,
        "REDIS_URL": redis_url,
        "FEATURE_BILLING_ENABLED": "true",
        "NOWPAYMENTS_API_URL": f"{simulator.url}/v1",
        "NOWPAYMENTS_API_KEY": API_KEY,
        "X402_NETWORKS": networks(simulator),
    }


def verdicts(**environment: str) -> tuple[int, dict[str, Any]]:
    code, found = told("doctor", **environment)
    return code, {one["check"]: one["verdict"] for one in found["findings"]}


def test_a_fit_environment_is_told_line_by_line(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    code, output, complaint = arrakis("doctor", **well(ledger, redis_url, simulator))
    assert complaint == ""
    lines = output.splitlines()[1:]
    assert len(lines) == 17
    unwell = [line.split()[1] for line in lines if not line.startswith("ok ")]
    # The tests' PostgreSQL may lose commits in a power cut, and the doctor sees that.
    assert unwell == ([] if ledger.database.is_sqlite else ["durability"]), output
    assert code == (0 if ledger.database.is_sqlite else 1)
    assert "\x1b" not in output  # colours are for terminals
    for secret in STRONG.values():
        assert secret not in output


def test_each_fault_is_told_with_what_to_do(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    ledger.configure(commons_rate_bps="501")
    faults = {
        "BILLING_ADMIN_JWT_SECRET": "short",
        "BILLING_MEMBER_JWT_SECRET": STRONG["BILLING_INTERNAL_JWT_SECRET"],
        "NOWPAYMENTS_IPN_SECRET": "",
        "OUTGOING_WEBHOOK_SECRET": "",
        "PAYMENTS_VERIFY_BEFORE_CREDIT": "false",
        "FEATURE_BILLING_ENABLED": "yes",
        "NOWPAYMENTS_API_KEY": "",
        "X402_NETWORKS": "{}",
    }
    environment = well(ledger, redis_url, simulator) | faults
    code, found = told("doctor", **environment)
    bad = {one["check"]: one for one in found["findings"] if one["verdict"] != "ok"}
    bad.pop("durability", None)
    assert {name: one["verdict"] for name, one in bad.items()} == {
        "BILLING_ADMIN_JWT_SECRET": "wrong",
        "BILLING_MEMBER_JWT_SECRET": "wrong",
        "NOWPAYMENTS_IPN_SECRET": "wrong",
        "OUTGOING_WEBHOOK_SECRET": "warning",
        "PAYMENTS_VERIFY_BEFORE_CREDIT": "warning",
        "FEATURE_BILLING_ENABLED": "warning",
        "NOWPAYMENTS_API_KEY": "wrong",
        "X402_NETWORKS": "wrong",
        "billing_config": "wrong",
    }
    assert code == 1
    assert all(one["advice"] for one in bad.values())
    assert "do not add up" in bad["billing_config"]["told"]
    assert "short" not in bad["BILLING_ADMIN_JWT_SECRET"]["told"]


def test_what_is_away_is_told_with_exit_3(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    environment = well(ledger, redis_url, simulator)
    code, found = verdicts(**environment | {"REDIS_URL": NO_REDIS})
    assert (code, found["redis"], found["database"]) == (3, "away", "ok")
    simulator.control("faults", mode="down")
    code, found = verdicts(**environment)
    assert (code, found["nowpayments"]) == (3, "away")
    code, found = verdicts(
        **environment | {"DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    )
    assert (code, found["database"], found["clock"]) == (3, "away", "away")


@pytest.mark.parametrize(
    ("provider", "collation", "verdict"),
    [
        ("c", "C", "ok"),
        ("c", "C.utf8", "ok"),
        ("b", "en_US.utf8", "ok"),
        ("c", "en_US.utf8", "warning"),
        ("i", "de_DE.utf8", "warning"),
    ],
)
def test_a_database_that_sorts_by_the_rules_of_a_language_is_told(
    provider: str, collation: str, verdict: str
) -> None:
    found = verdict_on_sorting(provider, collation)
    assert found.verdict == verdict
    assert (collation in found.told and "LOCALE 'C'" in found.advice) == (verdict == "warning")


def test_an_old_schema_is_told(tmp_path: Path) -> None:
    code, found = told("doctor", **SECRETS, DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
    [one] = [one for one in found["findings"] if one["check"] == "database"]
    assert (one["verdict"], one["advice"]) == ("wrong", "Run: arrakis migrate")
    assert code == 3  # Redis is away here


@pytest.mark.parametrize(
    "secret",
    [
        "a" * 64,
        "abcd" * 12,
        "changeme-changeme-changeme-change",
        "test-internal-secret-" + "i" * 32,
        "My-Password-is-rather-long-1234567",
    ],
)
def test_a_secret_that_could_be_guessed_is_seen(secret: str) -> None:
    assert weakness_of(secret) is not None


def test_what_generators_make_is_strong() -> None:
    for _ in range(1_000):
        assert weakness_of(secrets.token_hex(32)) is None
        assert weakness_of(secrets.token_urlsafe(32)) is None


def test_work_that_is_not_done_is_told(
    ledger: Ledger, redis_url: str, simulator: Simulator
) -> None:
    environment = well(ledger, redis_url, simulator)
    worked(ledger, seconds_ago=3_600)
    code, found = told("doctor", **environment)
    [work] = [one for one in found["findings"] if one["check"] == "work"]
    assert (code, work["verdict"]) == (1, "wrong")
    assert work["told"] == "ledger.expire_holds is not done"
