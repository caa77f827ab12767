"""The operators' command as they run it: what it prints, and the exit code that scripts read."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from deploy.local.servers import free_port
from shared import schema
from shared.database import Database
from tests.command import arrakis, in_a_process
from tests.harness import SECRETS, Databases, make_account, unique
from tests.ledger import Ledger


def at_once(*runs: tuple[tuple[str, ...], dict[str, str]]) -> list[tuple[int, str, str]]:
    """Run the command several times at once, each with its arguments and environment."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda run: in_a_process(*run[0], **run[1]), runs))


@pytest.fixture(params=("sqlite", "postgresql"))
def empty_url(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/empty.db"
    name = unique("empty").replace("-", "_")
    databases._admin(f"CREATE DATABASE {name}")
    return databases._named(name)


def test_migrate_makes_a_database_usable_and_repeats_harmlessly(empty_url: str) -> None:
    code, output, complaint = arrakis("ledger", "verify", DATABASE_URL=empty_url)
    assert (code, output) == (3, "")
    assert "Run: arrakis migrate (schema_outdated)" in complaint
    assert "Traceback" not in complaint
    code, output, _ = arrakis("migrate", DATABASE_URL=empty_url)
    assert (code, output.startswith("Applied 030_")) == (0, True)
    code, output, _ = arrakis("migrate", "--json", DATABASE_URL=empty_url)
    assert (code, json.loads(output)) == (0, {"applied": []})
    database = Database(empty_url)
    assert schema.applied(database) == schema.all_names()
    make_account(database)
    database.dispose()


def test_verify_tells_of_a_sound_ledger_and_of_a_broken_row(ledger: Ledger) -> None:
    account = ledger.funded(100)
    verify, database = ("ledger", "verify"), {"DATABASE_URL": ledger.url}
    for_people, for_scripts = at_once((verify, database), ((*verify, "--json"), database))
    assert (for_people[0], for_people[1].count("\n")) == (0, 1)
    assert for_people[1].endswith("invariants hold.\n")
    facts = json.loads(for_scripts[1])
    assert (for_scripts[0], facts["breaches"]) == (0, [])
    sums = {"minted": "100", "available": "100", "held": "0", "consumed": "0"}
    assert facts["totalsMicro"] == sums
    ledger.sql(
        "UPDATE credit_balances SET available_micro = 101 WHERE account_id = :id", id=account
    )
    ledger.is_sound_at_end = False
    code, output, _ = arrakis(*verify, **database)
    assert (code, [line.split() for line in output.splitlines()]) == (
        1,
        [
            ["invariant", "where", "expected", "found"],
            ["lots_minus_debts_equal_balances", account, "general", "100", "101"],
            ["entries_sum_to_balances", account, "100", "101"],
        ],
    )


WRONG: dict[str, dict[str, str]] = {
    "DATABASE_URL is not the address of a database": {"DATABASE_URL": "nonsense"},
    "DATABASE_URL is not the address": {"DATABASE_URL": "no+such://x/y"},
    "BILLING_CEILING_MICRO": {"BILLING_CEILING_MICRO": "much"},
    "BILLING_ADMIN_JWT_SECRET": {"BILLING_ADMIN_JWT_SECRET": "short"},
}


def test_a_wrong_setting_is_told_in_a_sentence() -> None:
    for sentence, environment in WRONG.items():
        code, output, complaint = arrakis("ledger", "verify", **environment)
        assert (code, output) == (2, "")
        assert sentence in complaint
        assert complaint.count("\n") == 1


def test_a_database_that_is_away_is_told_from_a_fault() -> None:
    away = {"DATABASE_URL": f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"}
    commands = (("migrate",), ("ledger", "verify", "--json"))
    for command in commands:
        code, output, complaint = arrakis(*command, **away)
        assert (code, output) == (3, "")
        assert complaint.endswith("(database_unavailable)\n")
        assert complaint.count("\n") == 1


KINDS = (
    (("s2s",), "BILLING_INTERNAL_JWT_SECRET", "arrakis-internal", "loa-finn"),
    (("admin",), "BILLING_ADMIN_JWT_SECRET", "arrakis-billing-admin", "operator"),
    (("member", "account-7"), "BILLING_MEMBER_JWT_SECRET", "arrakis-billing", "account-7"),
)


def test_a_token_is_printed_alone() -> None:
    for kind, variable, audience, subject in KINDS:
        code, output, complaint = arrakis("token", *kind, **SECRETS)
        assert (code, complaint, output.count("\n")) == (0, "", 1)
        secret = SECRETS[variable]
        claims = jwt.decode(output.strip(), secret, algorithms=["HS256"], audience=audience)
        assert claims["sub"] == subject


def test_without_its_secret_no_token_is_printed() -> None:
    code, output, complaint = arrakis("token", "s2s")
    assert (code, output) == (2, "")
    assert "BILLING_INTERNAL_JWT_SECRET is not set" in complaint


def test_help_needs_neither_database_nor_secrets() -> None:
    for command in ((), ("migrate",), ("ledger", "verify"), ("token", "s2s")):
        code, output, complaint = arrakis(*command, "--help", DATABASE_URL="nonsense")
        assert (code, complaint) == (0, "")
        assert output.startswith("Usage: ")
