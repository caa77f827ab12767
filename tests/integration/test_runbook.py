"""docs/runbook.md does what it says: every statement runs, every command exists (contract 2)."""

import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click
import psycopg
import pytest

from shared.cli.main import arrakis
from shared.clock import system_clock
from shared.operations.audit import Actor, record
from tests.harness import ROOT
from tests.ledger import Ledger

BLOCK = re.compile(r"^```(sql|sh) ?(sqlite|postgresql|)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "runbook.md").read_text()
COMMANDS = [
    line
    for language, _, block in BLOCK.findall(PAGE)
    if language == "sh"
    for line in block.splitlines()
]


def statements(kind: str) -> Iterator[str]:
    """Yield the statements for a kind of database, in the page's order and spelling."""
    for language, name, block in BLOCK.findall(PAGE):
        if language == "sql" and name in ("", kind):
            bare = "\n".join(line for line in block.splitlines() if not line.startswith("--"))
            yield from (part.strip() for part in bare.split(";") if part.strip())


def run(ledger: Ledger, statement: str) -> list[tuple[Any, ...]] | int:
    """Execute *statement* as an operator's shell does, by the driver itself; return its answer."""
    url = ledger.database.engine.url
    if ledger.database.is_sqlite:
        with closing(sqlite3.connect(str(url.database), isolation_level=None)) as connection:
            cursor = connection.execute(statement, ["c1"] * statement.count("?"))
            return cursor.fetchall() if cursor.description else cursor.rowcount
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else cursor.rowcount


@pytest.fixture
def lived_in(ledger: Ledger) -> Ledger:
    """A ledger in which what the runbook looks for has happened, just now."""
    ledger.clock.now = system_clock()
    account = ledger.funded(10_000_000)
    ledger.finalize(ledger.reserve(account, 4_000_000), 3_000_000)
    ledger.reserve(account, 1_000)
    ledger.mint(account, 5_000, "deposit", idempotency_key="nowpay-1")
    ledger.configure(billing_mode="shadow")
    ledger.sql(
        "INSERT INTO credit_campaigns (id, name, campaign_type, budget_micro, status, created_by)"
        " VALUES ('c1', 'spring', 'promotional', 10, 'active', 'ann'),"
        " ('CAMPAIGN_ID', 'May', 'promotional', 10, 'active', 'ann')"
    )
    with ledger.database.transaction() as tx:
        for details in ({"amountMicro": "7"}, {"amountMicro": "9", "proposalId": "p1"}):
            record(
                tx,
                Actor("admin", "ann"),
                "admin_mint",
                target_type="account",
                target_id=account,
                details=details,
            )
    ledger.sql(
        "INSERT INTO billing_dlq (id, operation_type, payload, status) VALUES"
        " ('d1', 'webhook', '{}', 'pending'), ('d2', 'webhook', '{}', 'manual_review')"
    )
    return ledger


def test_every_statement_gives_the_answer_that_the_runbook_promises(lived_in: Ledger) -> None:
    kind = "sqlite" if lived_in.database.is_sqlite else "postgresql"
    answers = {statement: run(lived_in, statement) for statement in statements(kind)}
    assert len(answers) == 24
    by_start = {" ".join(statement.split()): answer for statement, answer in answers.items()}

    def answer_to(start: str) -> Any:
        [found] = [answer for text, answer in by_start.items() if text.startswith(start)]
        return found

    assert len(answer_to("SELECT * FROM migrations")) == 5
    assert answer_to("SELECT COUNT(*) FROM credit_lots") == [(0,)]
    assert answer_to("SELECT key, value FROM billing_config") == [("billing_mode", "shadow")]
    assert len(answer_to("SELECT id, entity_type FROM credit_accounts")) == 3
    assert answer_to("UPDATE billing_config SET value = 'soft'") == 1
    assert answer_to("UPDATE billing_config SET value = 'live'") == 1
    assert sorted(answer_to("SELECT status, COUNT(*) FROM billing_dlq")) == [
        ("manual_review", 1),
        ("pending", 1),
    ]
    assert answer_to("SELECT COUNT(*) FROM credit_reservations") == [(1,)]
    revenue = dict(answer_to("SELECT entry_type, SUM"))
    assert {name: int(total) for name, total in revenue.items()} == {
        "commons_contribution": 150_000,
        "revenue_share": 2_850_000,
    }
    assert answer_to("SELECT value FROM billing_config WHERE key = 'billing_mode'") == [("live",)]
    assert answer_to("SELECT * FROM credit_lots WHERE") == []
    assert len(answer_to("SELECT * FROM billing_idempotency_keys")) == 1
    assert answer_to("SELECT actor_id, COUNT(DISTINCT target_id)") == [("ann", 1, 7)]
    assert answer_to("UPDATE credit_campaigns") == 1
    assert answer_to("SELECT SUM(amount_micro) FROM credit_grants") == [(None,)]
    assert [row[0] for row in answer_to("SELECT id, operation_type")] == ["d1"]
    assert [row[0] for row in answer_to("SELECT * FROM billing_dlq")] == ["d2"]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists_and_is_spelled_right(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "arrakis"
    command: click.Command = arrakis
    context = click.Context(arrakis)
    while words and isinstance(command, click.Group):  # a group may work without a subcommand
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    command.make_context(line, words)  # parses, and does nothing


def test_there_are_as_many_commands_as_the_page_shows() -> None:
    assert len(COMMANDS) > 30
