"""The executor: one writer a process that carries all waiting commands in one transaction.

A hot account costs no lock waits under load, because the commands of a process queue in front of
it (shared/batching.py).
"""

from collections.abc import Sequence
from functools import partial

import structlog

from shared.batching import WAITING_MAX, Batcher
from shared.database import Database, patiently
from shared.errors import ArrakisError, Unavailable
from shared.ledger.book import post
from shared.ledger.commands import Command, Outcome
from shared.ledger.terms import TermsCache

log = structlog.get_logger()


class Executor:
    """Carries commands to the database; safe to call from any thread."""

    def __init__(
        self, database: Database, terms: TermsCache, *, waiting_max: int = WAITING_MAX
    ) -> None:
        self._database = database
        self._terms = terms
        self._batches = Batcher(
            "ledger batch", self._post, self._post_alone, waiting_max=waiting_max
        )

    def execute(self, command: Command) -> Outcome:
        """Carry out one command durably and return its outcome.

        Raises Unavailable if the database does not answer: nothing is known then, and the same
        command may be sent again, because its ids and keys make it the same.
        """
        return self.execute_all([command])[0]

    def execute_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """Carry out *commands* in order, together or not; return an outcome each."""
        return self._batches.carry_out(commands)

    def _post_alone(
        self, commands: Sequence[Command], lock_timeout_ms: int | None
    ) -> list[Outcome]:
        """Carry out one caller's commands together; if that fails, each by itself."""
        try:
            return patiently(partial(self._post, commands, lock_timeout_ms))
        except Unavailable:
            raise
        except Exception:
            if len(commands) == 1:
                raise
            log.warning("call_failed", commands=len(commands), exc_info=True)
        outcomes = []
        for command in commands:
            try:
                outcomes += patiently(partial(self._post, [command], lock_timeout_ms))
            except Unavailable:
                raise
            except Exception:
                log.exception("command_failed", operation=command.operation)
                fault = ArrakisError("This is our fault; nothing was changed.")
                outcomes.append(Outcome(error=fault))
        return outcomes

    def _post(
        self, commands: Sequence[Command], lock_timeout_ms: int | None = None
    ) -> list[Outcome]:
        terms = self._terms.current()
        with self._database.transaction(lock_timeout_ms=lock_timeout_ms) as tx:
            return post(tx, commands, terms)
