"""The tables of revenue rules, on their own: seeds, constraints, and the audit log's view."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from services.workers.schedule import beat_schedule
from shared import schema
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.messaging import TaskName
from shared.operations import audit, revenue_rules
from tests.harness import set_config
from tests.till import work_of

RATES = ("commons_rate_bps", "community_rate_bps", "foundation_rate_bps")
ADA, BOB = audit.Actor("admin", "ada"), audit.Actor("admin", "bob")


def query(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.reading() as tx:
        return [tuple(row) for row in tx.all(text(statement))]


def execute(database: Database, statement: str) -> None:
    with database.transaction() as tx:
        tx.run(text(statement))


def active(database: Database) -> list[tuple[Any, ...]]:
    return query(
        database,
        "SELECT commons_bps, community_bps, foundation_bps FROM revenue_rules"
        " WHERE status = 'active'",
    )


def cooling(database: Database, name: str) -> str:
    """Bring a rule 1000/6000/3000 to its cooldown and return its id."""
    with database.transaction() as tx:
        proposal = revenue_rules.Proposal(name, 1_000, 6_000, 3_000)
        rule_id: str = revenue_rules.propose(tx, ADA, proposal)["ruleId"]
        revenue_rules.submit(tx, ADA, rule_id).unwrap()
        revenue_rules.approve(tx, BOB, rule_id).unwrap()
    return rule_id


def test_the_seeded_rule_is_active_with_the_seeded_rates(database: Database) -> None:
    """Behaviour 82: 500/7000/2500, and a cooldown of 48 hours."""
    assert active(database) == [(500, 7_000, 2_500)]
    with database.reading() as tx:
        told = revenue_rules.show_active(tx)
    assert told["revenueRule"]["status"] == "active"
    assert told["ratesInForce"] == {"commonsBps": 500, "communityBps": 7000, "foundationBps": 2500}
    assert (told["differs"], told["fault"]) == (False, None)
    hours = "SELECT value FROM billing_config WHERE key = 'revenue_rule_cooldown_hours'"
    assert query(database, hours) == [("48",)]


@pytest.mark.parametrize(
    ("configured", "seeded"),
    [
        (("1000", "6000", "3000"), (1_000, 6_000, 3_000)),
        (("1000", "6000", "2500"), (500, 7_000, 2_500)),
        (("1000", "many", "2500"), (500, 7_000, 2_500)),
    ],
)
def test_the_first_rule_is_made_of_the_rates_that_an_operator_has_set(
    database: Database, configured: tuple[str, ...], seeded: tuple[int, ...]
) -> None:
    """Migration 035 keeps what is in force; rates that make no sense are in force nowhere."""
    schema.downgrade(database, "034_webhook_inbox")
    set_config(database, **dict(zip(RATES, configured, strict=True)))
    assert "035_revenue_rules" in schema.upgrade(database)
    assert active(database) == [seeded]
    kept = query(
        database, "SELECT value FROM billing_config WHERE key LIKE '%_rate_bps' ORDER BY key"
    )
    assert [value for (value,) in kept] == list(configured)


def test_undoing_the_migration_leaves_nothing_of_it(database: Database) -> None:
    schema.downgrade(database, "034_webhook_inbox")
    for name in ("revenue_rules", "revenue_rule_audit_log"):
        with pytest.raises(DBAPIError):
            query(database, f"SELECT * FROM {name}")
    assert query(database, "SELECT 1 FROM billing_config WHERE key LIKE 'revenue_rule%'") == []


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ("'n', 'draft', 500, 7000, 2501, 'ada', NULL, NULL", "bps_sum"),
        ("'n', 'draft', -500, 7000, 3500, 'ada', NULL, NULL", "ck_revenue_rules_bps"),
        ("'', 'draft', 500, 7000, 2500, 'ada', NULL, NULL", "ck_revenue_rules_name"),
        ("'n', 'agreed', 500, 7000, 2500, 'ada', NULL, NULL", "ck_revenue_rules_status"),
        ("'n', 'active', 500, 7000, 2500, 'ada', 'bob', NULL", "revenue_rules.(active|status)"),
        ("'n', 'pending_approval', 500, 7000, 2500, 'ada', 'ada', NULL", "four_eyes"),
        ("'n', 'rejected', 500, 7000, 2500, 'ada', NULL, 'ada'", "four_eyes"),
        ("'n', 'cooling_down', 500, 7000, 2500, 'ada', 'bob', NULL", "activates_at"),
    ],
)
def test_the_database_itself_refuses_a_wrong_rule(
    database: Database, values: str, broken: str
) -> None:
    """Behaviours 3.5 and 83: the sum is 10,000, and never are two rules active."""
    columns = (
        "id, name, status, commons_bps, community_bps, foundation_bps, proposed_by, approved_by,"
        " overridden_by"
    )
    with pytest.raises(DBAPIError, match=broken):
        execute(database, f"INSERT INTO revenue_rules ({columns}) VALUES ('r', {values})")
    assert active(database) == [(500, 7_000, 2_500)]


def test_the_rules_audit_log_is_a_view_that_nobody_can_change(database: Database) -> None:
    """Behaviour 3.5: the name is there; the rows are those of the one audit log."""
    rule = cooling(database, "audited")
    found = query(
        database, "SELECT rule_id, action, actor_id FROM revenue_rule_audit_log ORDER BY id"
    )
    assert found == [
        (rule, "revenue_rule_propose", "ada"),
        (rule, "revenue_rule_submit", "ada"),
        (rule, "revenue_rule_approve", "bob"),
    ]
    for change in (
        "UPDATE revenue_rule_audit_log SET action = 'x'",
        "DELETE FROM revenue_rule_audit_log",
    ):
        with pytest.raises(DBAPIError):
            execute(database, change)
    assert len(query(database, "SELECT 1 FROM revenue_rule_audit_log")) == 3


def test_the_activator_does_nothing_when_nothing_is_due(database: Database) -> None:
    """Behaviour 83: 0, and not a row changes, although a rule is cooling down."""
    cooling(database, "later")
    tables = ("revenue_rules", "admin_audit_log", "billing_config")
    before = [query(database, f"SELECT * FROM {name} ORDER BY 1") for name in tables]
    assert work_of(database).run(TaskName.ACTIVATE_RULES) == 0
    assert [query(database, f"SELECT * FROM {name} ORDER BY 1") for name in tables] == before


def test_the_activator_is_on_the_schedule() -> None:
    planned = beat_schedule()["maintenance.activate_revenue_rules"]
    assert planned["schedule"] <= 300
    assert planned["options"]["queue"] == "maintenance"


def test_of_several_due_rules_the_one_that_was_due_last_stays_active(database: Database) -> None:
    set_config(database, revenue_rule_cooldown_hours="0")
    first, second = cooling(database, "first"), cooling(database, "second")
    assert work_of(database).run(TaskName.ACTIVATE_RULES) == 2
    statuses = dict(query(database, "SELECT id, status FROM revenue_rules"))
    assert (statuses[first], statuses[second]) == ("superseded", "active")


def test_rates_that_an_operator_deleted_are_there_again_after_an_activation(
    database: Database,
) -> None:
    execute(database, "DELETE FROM billing_config WHERE key LIKE '%_rate_bps'")
    set_config(database, revenue_rule_cooldown_hours="0")
    cooling(database, "restored")
    assert work_of(database).run(TaskName.ACTIVATE_RULES) == 1
    terms = TermsCache(database).current()
    assert (terms.commons_rate_bps, terms.community_rate_bps, terms.foundation_rate_bps) == (
        1_000,
        6_000,
        3_000,
    )


def test_rates_that_make_no_sense_are_told_as_a_fault(database: Database) -> None:
    set_config(database, commons_rate_bps="501")
    with database.reading() as tx:
        told = revenue_rules.show_active(tx)
    assert (told["ratesInForce"], told["differs"]) == (None, True)
    assert "501" in told["fault"]
