"""The database as operators and the runbook find it (behaviours 16-31, contract 2)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from shared import schema
from shared.clock import from_stored
from shared.database import Database
from tests.harness import Databases, make_id

RUNBOOK_CHECKS = {
    "SELECT COUNT(*) FROM credit_lots "
    "WHERE available_micro + reserved_micro + consumed_micro != original_micro": [(0,)],
    "SELECT id, entity_type FROM credit_accounts WHERE id LIKE 'sys-%' ORDER BY id": [
        ("sys-commons", "commons"),
        ("sys-community-pool", "community"),
        ("sys-foundation", "foundation"),
    ],
    "SELECT status, COUNT(*) FROM billing_dlq GROUP BY status": [],
    "SELECT value FROM billing_config WHERE key = 'last_reconciliation_result'": [("{}",)],
    "SELECT COUNT(*) FROM credit_reservations WHERE status = 'pending'": [(0,)],
    "SELECT * FROM billing_idempotency_keys WHERE scope = 'deposit'": [],
    "SELECT SUM(amount_micro) FROM credit_grants WHERE campaign_id = 'x'": [(None,)],
    "SELECT * FROM billing_dlq WHERE status = 'manual_review'": [],
}


@pytest.fixture(params=("sqlite", "postgresql"))
def fresh(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Database]:
    made = Database(databases.make(request.param))
    yield made
    made.dispose()


def query(database: Database, statement: str) -> list[tuple[object, ...]]:
    with database.reading() as tx:
        return [tuple(row) for row in tx.all(text(statement))]


def refuses(database: Database, statement: str) -> bool:
    try:
        with database.transaction() as tx:
            tx.run(text(statement))
    except IntegrityError:
        return True
    return False


@pytest.mark.parametrize("statement", RUNBOOK_CHECKS)
def test_the_runbooks_checks_answer_as_promised(fresh: Database, statement: str) -> None:
    assert query(fresh, statement) == RUNBOOK_CHECKS[statement]


def test_the_seeds_are_there(fresh: Database) -> None:
    """Behaviours 16, 18 and 19."""
    seeds = dict(query(fresh, "SELECT key, value FROM billing_config"))
    rates = [seeds[f"{who}_rate_bps"] for who in ("commons", "community", "foundation")]
    assert (rates, sum(map(int, rates))) == (["500", "7000", "2500"], 10_000)
    assert (seeds["foundation_account_id"], seeds["commons_account_id"]) == (
        "sys-foundation",
        "sys-commons",
    )
    assert (seeds["billing_mode"], seeds["ceiling_micro"], seeds["reserve_ttl_seconds"]) == (
        "shadow",
        "100000000000",
        "300",
    )


def test_the_system_accounts_are_exactly_three(fresh: Database) -> None:
    """Behaviour 17."""
    assert len(query(fresh, "SELECT id FROM credit_accounts")) == 3


def test_the_promised_columns_are_there(fresh: Database) -> None:
    """Behaviours 20, 21 and 24."""
    promised = {
        "billing_dlq": "operation_type payload error_message retry_count max_retries status "
        "next_retry_at created_at updated_at completed_at",
        "crypto_payments": "provider provider_payment_id payment_id account_id amount_usd_micro "
        "lot_id raw_payload community_id tier price_amount pay_amount status actually_paid",
        "credit_campaigns": "campaign_type budget_micro spent_micro grant_formula "
        "per_wallet_cap_micro grant_config pool_id expires_at",
        "credit_ledger": "id account_id pool_id lot_id reservation_id entry_seq entry_type "
        "amount_micro idempotency_key description metadata pre_balance_micro post_balance_micro",
        "credit_account_seq": "account_id pool_id next_seq",
    }
    inspector = inspect(fresh.engine)
    for table, columns in promised.items():
        found = {column["name"] for column in inspector.get_columns(table)}
        assert set(columns.split()) <= found, table


def test_a_payment_is_unique_within_its_provider(fresh: Database) -> None:
    """Behaviours 22 and 23, and the legacy name kept equal."""
    insert = (
        "INSERT INTO crypto_payments (id, provider, provider_payment_id) VALUES ('{}', '{}', 'N1')"
    )
    assert not refuses(fresh, insert.format("a", "nowpayments"))
    assert refuses(fresh, insert.format("b", "nowpayments"))
    assert not refuses(fresh, insert.format("c", "x402"))
    assert query(fresh, "SELECT id, payment_id FROM crypto_payments ORDER BY id") == [
        ("a", "N1"),
        ("c", "N1"),
    ]
    assert not refuses(fresh, "UPDATE crypto_payments SET provider_payment_id='N2' WHERE id='a'")
    assert query(fresh, "SELECT payment_id FROM crypto_payments WHERE id='a'") == [("N2",)]


def test_a_campaign_grants_once_to_an_account(fresh: Database) -> None:
    """Behaviour 25."""
    assert not refuses(
        fresh,
        "INSERT INTO credit_campaigns (id, name, campaign_type) VALUES ('c', 'n', 'loyalty')",
    )
    grant = (
        "INSERT INTO credit_grants (id, campaign_id, account_id, amount_micro) "
        "VALUES ('{}', 'c', 'sys-commons', 5)"
    )
    assert not refuses(fresh, grant.format("g1"))
    assert refuses(fresh, grant.format("g2"))


def test_migrating_again_changes_nothing_and_overwrites_no_value(fresh: Database) -> None:
    """Behaviour 171 (W48, R1, R2)."""
    with fresh.transaction() as tx:
        tx.run(text("UPDATE billing_config SET value = 'mine' WHERE key = 'commons_account_id'"))
        tx.run(text("UPDATE billing_config SET value = '501' WHERE key = 'commons_rate_bps'"))
    tables = inspect(fresh.engine).get_table_names()
    before = {name: sorted(map(repr, query(fresh, f"SELECT * FROM {name}"))) for name in tables}
    assert schema.upgrade(fresh) == []
    after = {name: sorted(map(repr, query(fresh, f"SELECT * FROM {name}"))) for name in tables}
    assert after == before


def test_the_migrations_are_listed_newest_first_as_the_runbook_asks(fresh: Database) -> None:
    rows = query(fresh, "SELECT name FROM migrations ORDER BY applied_at DESC LIMIT 5")
    assert [row[0] for row in rows] == list(reversed(schema.all_names()))[:5]


def test_undoing_the_first_migration_leaves_no_credit_table(fresh: Database) -> None:
    """Behaviour 28; and everything can be applied again."""
    schema.downgrade(fresh, "base")
    tables = inspect(fresh.engine).get_table_names()
    assert [name for name in tables if name.startswith("credit_")] == []
    assert query(fresh, "SELECT name FROM migrations") == []
    assert schema.upgrade(fresh) == list(schema.all_names())


def test_a_sqlite_file_is_in_wal_mode_durable_and_patient(databases: Databases) -> None:
    """Behaviour 30, W76."""
    database = Database(databases.make("sqlite"))
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    found = [query(database, f"PRAGMA {name}")[0][0] for name in pragmas]
    database.dispose()
    assert found == ["wal", 2, 1, 5_000]


def test_sqlite_stores_no_fraction_and_times_as_promised(databases: Databases) -> None:
    """W21: the tables are strict; contract 2: times are text in UTC."""
    database = Database(databases.make("sqlite"))
    lot = (
        "INSERT INTO credit_lots (id, account_id, source_type, original_micro, available_micro) "
        f"VALUES ('{make_id()}', 'sys-commons', 'grant', {{0}}, {{0}})"
    )
    assert refuses(database, lot.format("1.5"))
    moment = str(query(database, "SELECT applied_at FROM migrations")[0][0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?", moment)
    assert from_stored(moment).tzinfo is not None
    database.dispose()


def test_every_setting_is_in_the_example(request: pytest.FixtureRequest) -> None:
    """Contract 1: settings are environment variables, all listed in .env.example."""
    root = Path(str(request.config.rootpath))
    listed = set(re.findall(r"^([A-Z0-9_]+)=", (root / ".env.example").read_text(), re.MULTILINE))
    names = re.findall(
        r"^    ([a-z0-9_]+): ", (root / "shared/config.py").read_text(), re.MULTILINE
    )
    assert {name.upper() for name in names} <= listed
