"""``arrakis cache``: the balances in Redis, which nothing depends on (runbook 5)."""

import json
import sys
from typing import Any

import click

from shared import balance_upkeep
from shared.cli.acting import confirm, confirmed
from shared.cli.desk import on_host, open_database
from shared.cli.output import as_json, progress, table, tell
from shared.config import OperatorSettings
from shared.ledger import queries
from shared.models.ledger import GENERAL_POOL

_BAD_NEWS = 1
_AMOUNTS = ("availableMicro", "reservedMicro", "debtMicro")


@click.group()
def cache() -> None:
    """Look at the cached balances, and forget them."""


@cache.command()
@click.argument("account_id")
@click.argument("pool_id", default=GENERAL_POOL)
@as_json
@on_host
def show(settings: OperatorSettings, account_id: str, pool_id: str, *, is_json: bool) -> None:
    """Show the cached balance of ACCOUNT_ID beside the database's; exit 1 if they differ.

    \b
    Example:
        arrakis cache show ACCOUNT general
    """
    with open_database(settings).reading() as tx:
        balance = queries.balance(tx, account_id, pool_id)
    stored = {name: balance[name] for name in _AMOUNTS}
    found = balance_upkeep.show(settings.redis_url, account_id, pool_id)
    cached = _read(found["text"])
    differs = found["text"] is not None and cached != stored
    facts = {**found, "cached": cached, "stored": stored, "differs": differs}
    rows = [(name, (cached or {}).get(name), stored[name]) for name in stored]
    verdict = (
        f"They differ. If they still do in a second: arrakis cache reset {account_id}"
        if differs
        else "They agree."
        if cached
        else "Nothing is cached; the next reader fills it."
    )
    compared = table(("part", "cached", "in the database"), rows)
    tell(facts, is_json=is_json, text="\n".join([found["key"], compared, verdict]))
    if differs:
        sys.exit(_BAD_NEWS)


@cache.command()
@click.argument("account_id", required=False)
@confirmed
@as_json
@on_host
def reset(
    settings: OperatorSettings, account_id: str | None, *, is_sure: bool, is_json: bool
) -> None:
    """Forget the cached balances of ACCOUNT_ID, or of all accounts (which asks first).

    Safe at any time and while everything runs: the database is asked again, and nothing is lost.

    \b
    Examples:
        arrakis cache reset --yes
        arrakis cache reset ACCOUNT
    """
    if account_id is None:
        confirm("Forget the cached balances of all accounts?", is_sure=is_sure)
    with progress("Forgetting") as so_far:
        count = balance_upkeep.reset(
            settings.redis_url, account_id, progress=lambda done: so_far(done, None)
        )
    whose = f" of {account_id}" if account_id else ""
    facts = {"forgotten": count, "accountId": account_id}
    tell(facts, is_json=is_json, text=f"{count} cached balances{whose} forgotten.")


def _read(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text or "")
        return {name: value[name] for name in _AMOUNTS}
    except (ValueError, KeyError, TypeError):
        return None
