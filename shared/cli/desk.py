"""Where a command works: on the database of this host, or on a running service by its admin API.

Both answer with the same facts, so a command says once what it asks: the call of the API, and the
operation that is behind it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, update_wrapper
from typing import Any, TypeVar

import click

from shared import schema
from shared.balance_cache import BalanceCache
from shared.cli.acting import operator
from shared.config import CommonSettings, OperatorSettings
from shared.database import Database, Tx
from shared.ledger.commands import Outcome
from shared.ledger.terms import TermsCache
from shared.operations.audit import Actor
from shared.payments.intake import Intake
from shared.wiring import make_intake

Facts = dict[str, Any]
R = TypeVar("R")
KEY = "shared.cli.desk"
HOST_ONLY = (
    "`{}` works where the system runs, not over an API: leave --api and ARRAKIS_API_URL away."
)


@dataclass(frozen=True)
class Call:
    """One request to the admin API; *path* are the parts below ``/admin/billing``.

    *is_repeatable*: sending it twice does no more than sending it once, so it is sent again when
    its outcome is unknown. *key* is the caller's Idempotency-Key; without one it is a new one.
    *wait_seconds*: how long the API may wait for a job to be done before it answers.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | bytes | None = None
    key: str | None = None
    is_repeatable: bool = True
    wait_seconds: int = 0


@dataclass(frozen=True)
class Answer:
    """What became of a call: the facts, and whether they are those of an earlier one."""

    facts: Facts
    is_replay: bool = False


def open_database(settings: CommonSettings) -> Database:
    """Return the database of a command, which closes it at its end.

    Who watches balances hears of each commit.
    """
    database = Database(settings.database_url, after_commit=[BalanceCache(settings.redis_url)])
    click.get_current_context().call_on_close(database.dispose)
    return database


class Host:
    """This host: its database, and what works on it as the services have it."""

    def __init__(self, settings: OperatorSettings) -> None:
        self.settings = settings
        self.actor = operator()

    @cached_property
    def database(self) -> Database:
        """The database, of this release."""
        database = open_database(self.settings)
        schema.require_current(database)
        return database

    @cached_property
    def terms(self) -> TermsCache:
        """The settings that operations obey."""
        return TermsCache(self.database, ceiling_micro=self.settings.billing_ceiling_micro)

    @cached_property
    def intake(self) -> Intake:
        """What notices are worked off with, as the workers have it."""
        return make_intake(self.settings, self.database, self.terms)

    def read(self, call: Call, look: Callable[[Tx], Facts]) -> Facts:
        """Return what *look* finds in one snapshot."""
        with self.database.reading() as tx:
            return look(tx)

    def change(self, call: Call, act: Callable[[Tx, Actor], Facts | Outcome]) -> Answer:
        """Do *act* in one transaction. Raises its refusal, which is committed as well (audit)."""
        with self.database.transaction() as tx:
            done = act(tx, self.actor)
        return _answer(done)

    def work(self, call: Call, do: Callable[["Host"], Facts | Outcome]) -> Answer:
        """Do what needs more than one transaction. Raises its refusal."""
        return _answer(do(self))


def _answer(done: Facts | Outcome) -> Answer:
    if isinstance(done, Outcome):
        return Answer(done.unwrap(), is_replay=done.is_replay)
    return Answer(done)


def get(*path: str, query: Mapping[str, Any] | None = None) -> Call:
    """Return the call that reads what *path* names."""
    return Call("GET", path, query=query or {})


def post(*path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Call:
    """Return the call that does what *path* names, and may be repeated."""
    return Call("POST", path, body=body or {}, key=key)


def on_host(command: Callable[..., R]) -> Callable[..., R]:
    """Give the settings to a command that makes sense only where the system runs."""

    @click.pass_context
    def run(context: click.Context, /, *args: Any, **kwargs: Any) -> R:
        if context.obj is None:  # as it is over an API
            raise click.UsageError(HOST_ONLY.format(context.command_path))
        return context.invoke(command, context.obj, *args, **kwargs)

    return update_wrapper(run, command)


with_desk = click.decorators.pass_meta_key(KEY, doc_description="where the command works")
