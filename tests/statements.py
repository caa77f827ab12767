"""Statements as they are really sent, how a database would carry them out, and tables to fill."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event, text

from shared.database import Database

_ROWS = 5_000
_PLANNED = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_STEP = re.compile(r"(?:WITH |, )w\d+ AS \(|\) (?=INSERT INTO|UPDATE)")
_WRITTEN = re.compile(r"(INSERT|UPDATE)(?: INTO)? (\w+)")
_READ = re.compile(r"\bFROM (\w+)")
_OF_ACCOUNTS = re.compile(r"\baccount_id = |\bcredit_accounts\.id = ")
# A provider is no condition that finds a row: there are two, and most rows have the same.
_SOUGHT_BY = re.compile(r"\((?!provider = )\w+")
_SQLITE_SCAN = re.compile(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?")

# Every table that grows with use: a plan that walks one whole gets slower every day.
LARGE = {
    "admin_audit_log", "billing_dlq", "billing_idempotency_keys", "credit_account_seq",
    "credit_accounts", "credit_balances", "credit_debt_payments", "credit_debts", "credit_grants",
    "credit_ledger", "credit_lot_purchases", "credit_lots", "credit_operations",
    "credit_reservations", "crypto_payments", "grant_batches", "grant_items", "minute_counts",
    "mint_proposals", "notification_balance_watch", "notification_deliveries",
    "notification_events", "payment_credits", "payment_quotes", "reservation_lots",
    "revoked_tokens", "webhook_events", "x402_settlements",
}  # fmt: skip


@dataclass
class Capture:
    """Every statement that a database was sent, with its first parameters and what sent it."""

    sent: dict[str, Any] = field(default_factory=dict)
    senders: dict[str, set[str]] = field(default_factory=dict)
    _sender: str = ""

    @contextmanager
    def during(self, sender: str) -> Iterator[None]:
        """Name what is sent in the block after *sender*."""
        self._sender = sender
        yield
        self._sender = ""

    def note(self, statement: str, parameters: Any) -> None:
        """Note a statement, if it belongs to a sender."""
        if self._sender and statement.lstrip().upper().startswith(_PLANNED):
            self.sent.setdefault(statement, parameters)
            self.senders.setdefault(statement, set()).add(self._sender)

    def of(self, *senders: str) -> list[str]:
        """Return the statements that any of *senders* has sent."""
        return [one for one, by in self.senders.items() if by & set(senders)]


@contextmanager
def capturing(database: Database) -> Iterator[Capture]:
    """Capture what *database* is sent."""
    found = Capture()

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, many: bool) -> None:
        found.note(statement, parameters[0] if many else parameters)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


@dataclass(frozen=True)
class Part:
    """One step of a statement: what it does to a table, and whether it says of which accounts."""

    name: str
    names_accounts: bool


def parts_of(statement: str) -> list[Part]:
    """Return the steps of *statement* on tables that grow: itself, or each of its CTEs."""
    steps = [step for step in _STEP.split(statement) if step]
    return [part for part in map(_part_of, steps) if part.name.split()[1] in LARGE]


def _part_of(step: str) -> Part:
    """Read one step: an INSERT tells of its accounts in its columns, others in a condition."""
    written = _WRITTEN.match(step)
    if written is None:
        condition = step[step.rfind("WHERE") :]
        return Part(f"SELECT {_READ.findall(step)[-1]}", _names_accounts(condition))
    verb, table = written.groups()
    if verb == "INSERT":
        return Part(f"INSERT {table}", "account_id" in step[: step.index(")")])
    return Part(f"UPDATE {table}", _names_accounts(step[step.rindex("WHERE") :]))


def _names_accounts(condition: str) -> bool:
    return _OF_ACCOUNTS.search(condition) is not None


def walks(database: Database, statement: str, parameters: Any) -> list[str]:
    """Return the large tables that *statement* would walk from end to end."""
    if database.is_sqlite:
        return _sqlite_walks(database, statement, parameters)
    return _postgres_walks(database, statement)


def _sqlite_walks(database: Database, statement: str, parameters: Any) -> list[str]:
    with database.reading() as tx:
        steps = tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        partial = set(tx.connection.exec_driver_sql(_PARTIAL_SQLITE).scalars())
        aliases = dict(re.findall(r"(\w+) AS (\w+)", statement))
    names = {alias: table for table, alias in aliases.items()}
    found = []
    for step in steps:
        scan = _SQLITE_SCAN.match(step.detail)
        if scan and names.get(scan[1], scan[1]) in LARGE and scan[2] not in partial:
            found.append(step.detail)
    return found


def _postgres_walks(database: Database, statement: str) -> list[str]:
    numbers: dict[str, int] = {}
    for name in _PLACEHOLDER.findall(statement):
        numbers.setdefault(name, len(numbers) + 1)
    numbered = _PLACEHOLDER.sub(lambda found: f"${numbers[found[1]]}", statement)
    values = f"({', '.join(['NULL'] * len(numbers))})" if numbers else ""
    with database.transaction() as tx:
        # A generic plan does not know the parameters: it is what a prepared statement gets.
        run = tx.connection.exec_driver_sql
        partial = set(run(_PARTIAL_POSTGRES).scalars())
        run(f"PREPARE planned AS {numbered}".replace("%%", "%").replace("%", "%%"))
        [found] = run(f"EXPLAIN (FORMAT JSON) EXECUTE planned{values}").scalars()
        run("DEALLOCATE planned")
    plan = json.loads(found) if isinstance(found, str) else found
    return list(_walking_nodes(plan[0]["Plan"], partial, is_limited=False))


def _walking_nodes(
    node: Mapping[str, Any], partial: set[str], *, is_limited: bool
) -> Iterator[str]:
    """Tell of nodes that read a whole table, or a whole index that is not a partial one.

    Under a LIMIT an index may be read in its order, if each row of it is wanted.
    """
    kind, index = node["Node Type"], node.get("Index Name")
    is_sought = index in partial or _SOUGHT_BY.search(node.get("Index Cond", "")) is not None
    is_whole = kind == "Seq Scan" or (
        index is not None and not is_sought and not (is_limited and "Filter" not in node)
    )
    table = node.get("Relation Name")
    if is_whole and (table in LARGE or table is None):
        yield f"{kind} on {table} {index or ''} {node.get('Filter', '')}"
    for inner in node.get("Plans", ()):
        yield from _walking_nodes(inner, partial, is_limited=is_limited or kind == "Limit")


def fill(database: Database) -> None:
    """Give every large table rows of the past, none of which waits for anything (PostgreSQL)."""
    with database.transaction() as tx:
        for into, values in _FILL.items():
            table, columns = into.split(" ", 1)
            tx.run(
                text(
                    f"INSERT INTO {table} ({columns}) SELECT {values}"
                    f" FROM generate_series(1, {_ROWS}) AS n"
                )
            )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


_PARTIAL_SQLITE = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%WHERE%'"
_PARTIAL_POSTGRES = (
    "SELECT indexrelid::regclass::text FROM pg_index"
    " WHERE indpred IS NOT NULL AND indrelid::regclass::text NOT LIKE 'pg_%%'"
)
_PAST = "now() - n * interval '10 minutes'"
_FILL = {
    "credit_accounts id, entity_type, entity_id": "'a' || n, 'person', 'e' || n",
    "credit_lots id, account_id, source_type, source_id, original_micro, consumed_micro, is_open,"
    " created_at": f"'l' || n, 'a' || n, 'grant', 's' || n, 10, 10, false, {_PAST}",
    "credit_balances account_id": "'a' || n",
    "credit_account_seq account_id, pool_id": "'a' || n, 'general'",
    "credit_reservations id, account_id, total_reserved_micro, status, expires_at, created_at,"
    " finalized_at": f"'r' || n, 'a' || n, 10, 'finalized', {_PAST}, {_PAST}, {_PAST}",
    "reservation_lots reservation_id, lot_id": "'r' || n, 'l' || n",
    "credit_ledger id, account_id, lot_id, reservation_id, entry_seq, entry_type, amount_micro,"
    " created_at": f"'n' || n, 'a' || n, 'l' || n, 'r' || n, n, 'finalize', -10, {_PAST}",
    "credit_debts id, account_id, debt_micro, resolved_at": f"'d' || n, 'a' || n, 1, {_PAST}",
    "credit_debt_payments debt_id, lot_id, paid_micro": "'d' || n, 'l' || n, 1",
    "credit_operations idempotency_key, account_id, operation, fingerprint, answer": (
        "'k' || n, 'a' || n, 'reserve', 'f', '{}'"
    ),
    "billing_idempotency_keys scope, idempotency_key, expires_at": (
        "'deposit', 'k' || n, now() + interval '1 hour'"
    ),
    "crypto_payments id, provider_payment_id, status, order_id, account_id, lot_id, created_at,"
    " updated_at": f"'p' || n, n, 'finished', 'p' || n, 'a' || n, 'l' || n, {_PAST}, {_PAST}",
    "payment_credits lot_id, payment_id, amount_micro, basis": "'l' || n, 'p' || n, 10, 'price'",
    "credit_lot_purchases id, account_id, pack_id, payment_reference, idempotency_key, lot_id,"
    " amount_micro": "'u' || n, 'a' || n, 'small', 'p' || n, 'k' || n, 'l' || n, 10",
    "webhook_events id, provider, dedupe_key, provider_payment_id, status, notice, raw_body, state,"
    " due_at, done_at, received_at": (
        f"'w' || n, 'nowpayments', 'k' || n, n, 'finished', '{{}}', 'x', 'done', {_PAST}, {_PAST},"
        f" {_PAST}"
    ),
    "billing_dlq id, operation_type, subject_id, payload, status, created_at": (
        f"'q' || n, 'webhook', 'w' || n, '{{}}', 'completed', {_PAST}"
    ),
    "admin_audit_log id, actor_type, actor_id, action, created_at": (
        f"'t' || n, 'admin', 'someone', 'config_set', {_PAST}"
    ),
    "credit_campaigns id, name, campaign_type, status": "'c' || n, 'c', 'loyalty', 'completed'",
    "credit_grants id, campaign_id, account_id, amount_micro, status": (
        "'g' || n, 'c' || n, 'a' || n, 10, 'granted'"
    ),
    "grant_batches id, campaign_id, created_by, fingerprint, total, state": (
        "'b' || n, 'c' || n, 'someone', 'f', 1, 'done'"
    ),
    "grant_items batch_id, position, account_id, amount_micro": "'b' || n, 1, 'a' || n, 10",
    "notification_endpoints id, url, created_by, status": "'h' || n, 'u', 'someone', 'removed'",
    "notification_events id, key, type, data": "'v' || n, 'k' || n, 'lot.expired', '{}'",
    "notification_deliveries id, event_id, endpoint_id, state, outcome": (
        "'y' || n, 'v' || n, 'h1', 'done', 'delivered'"
    ),
    "notification_balance_watch account_id, is_low": "'a' || n, false",
    "payment_quotes id, account_id, amount_micro, credit_micro, offers, expires_at": (
        "'o' || n, 'a' || n, 10, 10, '[]', now() + interval '1 hour'"
    ),
    "x402_settlements id, payment_id, quote_id, network, asset, payer, value, phase, is_open,"
    " state": "'x' || n, 'p' || n, 'o' || n, 'n', 'usdc', 'y', '1', 'settled', false, 'done'",
    "minute_counts name, minute, total": f"'cache_hit', {_PAST}, 1",
    "revoked_tokens jti, expires_at, revoked_by, reason": (
        "'j' || n, now() + interval '1 hour', 'someone', 'lost'"
    ),
    "mint_proposals id, account_id, amount_micro, source_type, pool_id, proposed_by, expires_at,"
    " status, decided_at": (
        "'m' || n, 'a' || n, 10, 'grant', 'general', 'someone', now(), 'expired', now()"
    ),
}
