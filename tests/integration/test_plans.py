"""No statement of the usual work walks a table that grows: it would be slower every day."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from shared.database import Database
from shared.errors import Unavailable
from shared.ledger import queries
from shared.ledger.commands import Adjust, Extend, Refund
from shared.ledger.integrity import INVARIANTS, verify
from shared.operations import gauges
from tests.conftest import KINDS
from tests.harness import Databases, make_id
from tests.ledger import Ledger
from tests.statements import Capture, capturing, fill, parts_of, walks
from tests.till import Till, work_of

M = 1_000_000
# What walks a table all the same, and why it may.
_MAY_WALK = {
    # The letters of all time are few: work that failed four times. It is the runbook's statement.
    "postgresql": ("FROM billing_dlq GROUP BY billing_dlq.status",),
    # SQLite can be told not to look at constraints, so there the alert looks at every lot.
    "sqlite": (
        "FROM billing_dlq GROUP BY billing_dlq.status",
        "credit_lots.consumed_micro != credit_lots.original_micro",
    ),
}
# What every call of the gateway sends, so what a cluster must be able to send to one node.
_HOT = ("reserve", "extend", "finalize", "release")
_ROUTED = {
    "SELECT credit_accounts",
    "SELECT credit_balances",
    "SELECT credit_lots",
    "INSERT credit_reservations",
    "INSERT credit_ledger",
    "INSERT credit_debts",
    "INSERT credit_balances",
    "INSERT credit_account_seq",
    "INSERT credit_operations",
    "UPDATE credit_lots",
    "UPDATE credit_reservations",
}
# What does not name its accounts, and why (docs/scaling.md tells what a cluster would need).
_NOT_ROUTED = {
    "SELECT credit_operations": "a repeat is known by its key alone; two lists would multiply",
    "SELECT credit_reservations": "callers name a hold by its id; due ones are found by time",
    "SELECT reservation_lots": "a hold's parts are found by its id",
    "INSERT reservation_lots": "a hold's part belongs to its hold, which names the account",
    "UPDATE reservation_lots": "the same, by the primary key",
}


@pytest.fixture(scope="module", params=KINDS)
def worked(
    request: pytest.FixtureRequest, databases: Databases
) -> Iterator[tuple[Database, Capture]]:
    """A database with a long past, and the statements that a day of all work has sent to it."""
    ledger = Ledger(databases.make(request.param))
    if not ledger.database.is_sqlite:
        fill(ledger.database)
    with capturing(ledger.database) as capture:
        _trade(ledger, capture)
        _read(ledger, capture)
        _work(ledger, capture)
    yield ledger.database, capture
    ledger.database.dispose()


def _trade(ledger: Ledger, capture: Capture) -> None:
    """Do everything that moves money, with keys, in two pools, debts and lots that end included."""
    soon = ledger.clock() + timedelta(seconds=30)
    account = ledger.account()
    with capture.during("mint"):
        ledger.mint(account, 100 * M, "deposit", source_id="deposit", idempotency_key="mint")
        ledger.mint(account, M, expires_at=soon)
        ledger.mint(account, M, pool_id="promo")
    with capture.during("reserve"):
        holds = [ledger.reserve(account, M, idempotency_key=f"key {n}") for n in range(5)]
        ledger.reserve(account, M, pool_id="promo")
    with capture.during("extend"):
        ledger.answer(Extend(holds[0], M, make_id(), idempotency_key="extend"))
    with capture.during("finalize"):
        ledger.finalize(holds[0], M, idempotency_key="finalize")
        ledger.finalize(holds[1], 2 * M)
    with capture.during("release"):
        ledger.release(holds[2])
    ledger.clock.advance(seconds=400)
    with capture.during("reserve"):
        ledger.reserve(account, M)
    with capture.during("finalize"):
        ledger.finalize(holds[3], M)  # late
    ledger.configure(billing_mode="soft")
    hold = ledger.reserve(account, M)
    with capture.during("finalize"):
        ledger.finalize(hold, 500 * M)
    with capture.during("mint"):
        lot = ledger.mint(account, M)
    with capture.during("refund"):
        ledger.answer(Refund(account, lot))
    with capture.during("adjust"):
        ledger.answer(Adjust(account, make_id(), M, "a test"))
    ledger.configure(billing_mode="live")


def _read(ledger: Ledger, capture: Capture) -> None:
    """Read as members, callers and operators do."""
    account = ledger.funded(M, M)
    hold = ledger.reserve(account, 10)
    with capture.during("balance"):
        ledger.balance(account)
    with capture.during("history"):
        page = ledger.history(account, limit=1)
        ledger.history(account, limit=1, cursor=page["nextCursor"], pool_id="general")
    with ledger.database.reading() as tx:
        with capture.during("lots"):
            queries.open_lots(tx, account, "promo")
        with capture.during("reservation"):
            queries.show_reservation(tx, hold)
        with capture.during("accounts"):
            queries.list_accounts(tx, limit=10, after=account)


def _work(ledger: Ledger, capture: Capture) -> None:
    """Let a notice come, and the workers do one batch of each kind."""
    ledger.funded(M, expires_at=ledger.clock() + timedelta(seconds=1))
    ledger.reserve(ledger.funded(M), 10)
    till = Till(ledger)
    payment = till.payment(next_poll_at=ledger.clock())
    with capture.during("notice"):
        till.tell(payment, "finished")
    ledger.clock.advance(hours=1)
    for name, batch in work_of(ledger.database).batches().items():
        with capture.during(name.value), suppress(Unavailable):  # its provider is away
            batch()
    with capture.during("gauges"), ledger.database.reading() as tx:
        gauges.read(tx)


def test_no_statement_walks_a_table_that_grows(worked: tuple[Database, Capture]) -> None:
    """Each goes by an index, with the plan that a prepared statement gets."""
    database, capture = worked
    walking = [
        f"{sorted(capture.senders[statement])}: {walked}\n{statement}\n"
        for statement, parameters in capture.sent.items()
        for walked in walks(database, statement, parameters)
        if not any(known in statement for known in _MAY_WALK[database.engine.dialect.name])
    ]
    assert walking == [], "\n".join(walking)


def test_notices_go_by_indexes_before_there_are_statistics(databases: Databases) -> None:
    """A burst after the start walks no table: a plan is kept until the first ANALYZE."""
    ledger = Ledger(databases.make("postgresql"))
    till = Till(ledger)
    payment = till.payment()
    with capturing(ledger.database) as capture, capture.during("notice"):
        till.tell(payment, "finished")
        till.drain()
    walking = {s: walks(ledger.database, s, capture.sent[s]) for s in capture.of("notice")}
    ledger.database.dispose()
    assert {statement: walked for statement, walked in walking.items() if walked} == {}


def test_no_invariant_is_checked_by_a_nested_loop_before_there_are_statistics(
    databases: Databases,
) -> None:
    """A database that was never analysed is verified in seconds, and not in minutes."""
    ledger, plans = Ledger(databases.make("postgresql")), {}

    def explain(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if any(query in statement for query in INVARIANTS.values()):
            cursor.execute(f"EXPLAIN {statement}")
            plans[statement] = "\n".join(line for (line,) in cursor.fetchall())

    event.listen(ledger.database.engine, "before_cursor_execute", explain)
    with ledger.database.reading() as tx:
        assert verify(tx) == []
        assert tx.scalar(text("SELECT current_setting('enable_nestloop')")) == "on"
    ledger.database.dispose()
    assert len(plans) == len(INVARIANTS)
    assert [plan for plan in plans.values() if "Nested Loop" in plan] == []


def test_hot_statements_name_their_accounts(worked: tuple[Database, Capture]) -> None:
    """A cluster could send each to the node of its accounts, but for those that are listed."""
    database, capture = worked
    if database.is_sqlite:  # one file: nothing is routed, and rows are written one by one
        assert capture.of(*_HOT) != []
        return
    parts = {part for statement in capture.of(*_HOT) for part in parts_of(statement)}
    assert {part.name for part in parts if part.names_accounts} == _ROUTED
    assert {part.name for part in parts if not part.names_accounts} == set(_NOT_ROUTED)
