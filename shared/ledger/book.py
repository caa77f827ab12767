"""One batch of commands, from the rows to the rows: load, decide, save."""

from collections.abc import Sequence

from shared.database import Tx
from shared.ledger import rules
from shared.ledger.commands import Command, Outcome
from shared.ledger.loading import load
from shared.ledger.saving import save
from shared.ledger.terms import Terms


def post(tx: Tx, commands: Sequence[Command], terms: Terms) -> list[Outcome]:
    """Carry out *commands* in order within *tx*; return an outcome each.

    The caller's transaction may do more: a payment's row and its credit are one commit.
    """
    book = load(tx, commands)
    rules.pass_time(book, book.reservations.values())
    outcomes = [rules.apply(book, command, terms) for command in commands]
    save(tx, book)
    return outcomes


def rehearse(tx: Tx, command: Command, terms: Terms) -> Outcome:
    """Return what would become of *command* now; nothing is written, its account stays locked."""
    book = load(tx, [command])
    rules.pass_time(book, book.reservations.values())
    return rules.apply(book, command, terms)
