"""The rules alone, in memory, against the naive ledger: 100,000 random commands and more.

ORACLE_COMMANDS asks for a longer run, and ORACLE_SEED for other streams (``make chaos``).
"""

import os
import random
from collections import Counter

import pytest

from shared.ledger.rules import apply, pass_time
from shared.ledger.state import AccountState, Book
from tests.ledger import START
from tests.oracle import Oracle
from tests.streams import ACCOUNTS, POOLS, Stream

COMMANDS = int(os.environ.get("ORACLE_COMMANDS", "100000"))
FIRST_SEED = int(os.environ.get("ORACLE_SEED", "100"))
COMMANDS_OF_A_SEED = 2_500
SEEDS = range(FIRST_SEED, FIRST_SEED + COMMANDS // COMMANDS_OF_A_SEED)


def compare(book: Book, oracle: Oracle, seed: int) -> None:
    oracle.settle_time()
    lots = [
        (x.id, x.available_micro, x.reserved_micro, x.consumed_micro) for x in book.lots.values()
    ]
    assert sorted(lots) == sorted((x.id, x.left, x.held, x.gone) for x in oracle.lots.values()), (
        seed
    )
    holds = Counter((x.id, x.status) for x in book.reservations.values())
    assert holds == Counter((x.id, x.state) for x in oracle.holds.values()), seed
    for account in ACCOUNTS:
        for pool in set(POOLS):
            told = book.accounts[account].balance(pool)
            shown = (told["availableMicro"], told["reservedMicro"], told["debtMicro"])
            assert tuple(map(int, shown)) == oracle.balance(account, pool), (seed, account, pool)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rules_alone_answer_as_the_oracle_says(seed: int) -> None:
    """Behaviours 34-69 and 139-161: conservation, order, repeats, time, modes."""
    oracle, book = Oracle(list(ACCOUNTS), START), Book(now=START)
    book.accounts = {name: AccountState(name) for name in ACCOUNTS}
    stream, done, sums = Stream(seed, oracle), 0, random.Random(seed)
    while done < COMMANDS_OF_A_SEED:
        for drawn in stream.rounds():
            book.now = oracle.now = drawn.now
            for command in drawn.commands:
                expected = oracle.tell(command, drawn.terms)
                pass_time(book, book.reservations.values())
                outcome = apply(book, command, drawn.terms)
                mine = (outcome.answer, outcome.error and outcome.error.code, outcome.is_replay)
                assert mine == expected, (seed, command)
                done += 1
            if sums.random() < 0.1:
                pass_time(book, book.reservations.values())
                compare(book, oracle, seed)
    pass_time(book, book.reservations.values())
    compare(book, oracle, seed)
