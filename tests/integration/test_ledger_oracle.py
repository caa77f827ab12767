"""Random streams of commands, decided by the real ledger and by a naive one: they must agree.

The same streams go to SQLite and PostgreSQL, one command at a time and in batches of random size.
"""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from shared.ledger import accounts, sweeps
from shared.ledger.book import post
from shared.ledger.commands import (
    Command,
    Outcome,
)
from shared.ledger.terms import Terms
from tests.ledger import START, Ledger
from tests.oracle import Oracle, Told
from tests.streams import ACCOUNTS, POOLS, RECEIVERS, Stream

SEEDS = range(1, 7)


def told(outcome: Outcome) -> Told:
    return outcome.answer, outcome.error and outcome.error.code, outcome.is_replay


def run(ledger: Ledger, commands: Sequence[Command], terms: Terms) -> list[Told]:
    with ledger.database.transaction() as tx:
        return [told(outcome) for outcome in post(tx, commands, terms)]


def compare_books(ledger: Ledger, oracle: Oracle, seed: int) -> None:
    """Let the workers finish, then compare every lot, hold, debt and balance."""
    while ledger.sweep() != (0, 0):
        pass
    while sweeps.roll_up_revenue(ledger.database):
        pass
    oracle.settle_time()
    lots = ledger.rows(
        "SELECT id, available_micro, reserved_micro, consumed_micro FROM credit_lots"
        " WHERE source_type <> 'commons_dividend'"
    )
    assert sorted(lots) == sorted((x.id, x.left, x.held, x.gone) for x in oracle.lots.values()), (
        seed
    )
    holds = ledger.rows("SELECT id, status FROM credit_reservations")
    assert sorted(holds) == sorted((x.id, x.state) for x in oracle.holds.values()), seed
    debts = ledger.rows(
        "SELECT account_id, original_micro, CASE WHEN resolved_at IS NULL THEN debt_micro ELSE 0"
        " END FROM credit_debts"
    )
    assert Counter(debts) == Counter((x.account, x.first, x.owed) for x in oracle.debts), seed
    for account in ACCOUNTS:
        for pool in set(POOLS):
            assert ledger.balance(account, pool) == oracle.balance(account, pool), (seed, account)
    assert [ledger.balance(name)[0] for name in RECEIVERS] == oracle.revenue, seed
    assert ledger.breaches() == [], seed


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("largest", [1, 64], ids=["one_at_a_time", "in_batches"])
def test_any_stream_is_answered_as_the_oracle_says(ledger: Ledger, seed: int, largest: int) -> None:
    """Behaviours 34-69 and 139-159, in any order, with repeats, at any time."""
    with ledger.database.transaction() as tx:
        for account in ACCOUNTS:
            accounts.create_account(tx, entity_type="agent", entity_id=account, account_id=account)
    oracle, sizes = Oracle(list(ACCOUNTS), START), random.Random(seed)
    seen: Counter[str] = Counter()
    for number, drawn in enumerate(Stream(seed, oracle).rounds()):
        ledger.clock.now = oracle.now = drawn.now
        rest = list(drawn.commands)
        while rest:
            size = sizes.randint(1, largest)
            batch, rest = rest[:size], rest[size:]
            expected = [oracle.tell(command, drawn.terms) for command in batch]
            for command, mine, theirs in zip(
                batch, run(ledger, batch, drawn.terms), expected, strict=True
            ):
                assert mine == theirs, f"seed {seed}, round {number}: {command}"
                seen[mine[1] or ("replay" if mine[2] else type(command).__name__)] += 1
        if drawn.is_swept:
            ledger.sweep()
        if number % 15 == 14:
            compare_books(ledger, oracle, seed)
    # The stream met what it is meant to meet.
    settled = [hold for hold in oracle.holds.values() if hold.answer]
    assert (sum(seen.values()) > 500, len(settled) > 30, seen["Release"] > 7) == (True, True, True)
    assert {hold.answer["late"] for hold in settled if hold.answer} == {False, True}
    assert {hold.mode for hold in settled} == {"shadow", "soft", "live"}
    assert {"replay", "idempotency_conflict", "insufficient_credits"} <= set(seen)
    assert any(debt.owed < debt.first for debt in oracle.debts)
    assert {"Extend", "Refund", "Adjust"} <= set(seen)
