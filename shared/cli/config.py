"""``arrakis config`` and ``arrakis mode``: the settings of the running system."""

import sys
from typing import Any, Literal

import click

from shared.balance_cache import BalanceCache
from shared.cli.acting import operator, with_reason
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.database import Database
from shared.ledger.terms import Mode, TermsCache
from shared.models.ledger import MODES
from shared.operations import modes, rehearsal
from shared.operations import settings as desk

_BAD_NEWS = 1


@click.group()
def config() -> None:
    """Look at the settings in billing_config, and change them."""


@config.command("list")
@as_json
@click.pass_obj
def list_settings(settings: OperatorSettings, *, is_json: bool) -> None:
    """List every setting; exit 1 if they make no sense together.

    \b
    Example:
        arrakis config list
    """
    with Database(settings.database_url).reading() as tx:
        found = desk.list_settings(tx)
    lines = [_line(one) for one in found["settings"]]
    if found["fault"]:
        lines.append(f"Running processes keep their last good values: {found['fault']}")
    tell(found, is_json=is_json, text="\n".join(lines))
    if found["fault"]:
        sys.exit(_BAD_NEWS)


@config.command()
@click.argument("key")
@as_json
@click.pass_obj
def get(settings: OperatorSettings, key: str, *, is_json: bool) -> None:
    """Show the setting KEY: its value alone, or all about it with --json.

    \b
    Example:
        arrakis config get reserve_ttl_seconds
    """
    with Database(settings.database_url).reading() as tx:
        found = desk.show_setting(tx, key)
    tell(found, is_json=is_json, text=found["value"])


@config.command("set")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY VALUE [KEY VALUE]...")
@with_reason
@as_json
@click.pass_obj
def set_settings(
    settings: OperatorSettings, pairs: tuple[str, ...], reason: str, *, is_json: bool
) -> None:
    """Change settings together; running processes obey within five seconds.

    \b
    Examples:
        arrakis config set reserve_ttl_seconds 600 --reason "slow models"
        arrakis config set commons_rate_bps 600 foundation_rate_bps 2400 --reason "vote 12"
    """
    keys, values = pairs[::2], pairs[1::2]
    if len(keys) != len(values) or len(set(keys)) != len(keys):
        raise click.UsageError("Give a VALUE for each KEY, and each KEY once.")
    with Database(settings.database_url).transaction() as tx:
        outcome = desk.change_settings(tx, operator(), dict(zip(keys, values, strict=True)), reason)
    found = outcome.unwrap()
    lines = [f"{key}: {one['old']} -> {one['new']}" for key, one in found["changed"].items()]
    tell(found, is_json=is_json, text="\n".join(lines or ["Nothing to change."]))


@click.group()
def mode() -> None:
    """Shadow, soft or live: look at it, at what the next one asks for, and change it."""


@mode.command("show")
@as_json
@click.pass_obj
def show_mode(settings: OperatorSettings, *, is_json: bool) -> None:
    """Show the billing mode."""
    with Database(settings.database_url).reading() as tx:
        found = modes.show_mode(tx)
    tell(found, is_json=is_json, text=f"{found['mode']}, since {found['since']}")


@mode.command("readiness")
@as_json
@click.pass_obj
def show_readiness(settings: OperatorSettings, *, is_json: bool) -> None:
    """Show the runbook's checklist with what the data says; exit 1 if the next mode must wait."""
    with Database(settings.database_url).reading() as tx:
        found = modes.show_readiness(tx)
    lines = [_checked(item) for item in found["items"]]
    waits = [name for name, is_ready in found["ready"].items() if not is_ready]
    lines.append(f"The mode is {found['mode']}. Not ready for: {', '.join(waits) or 'nothing'}.")
    tell(found, is_json=is_json, text="\n".join(lines))
    if waits:
        sys.exit(_BAD_NEWS)


@mode.command("set")
@click.argument("wanted", metavar="MODE", type=click.Choice(MODES))
@with_reason
@click.option("--force", "is_forced", is_flag=True, help="Go up without the evidence.")
@as_json
@click.pass_obj
def set_mode(
    settings: OperatorSettings, wanted: Mode, reason: str, *, is_forced: bool, is_json: bool
) -> None:
    """Set the billing mode to MODE; running processes obey within five seconds.

    Going up (shadow, soft, live) asks for the evidence of `arrakis mode readiness`; going down is
    always allowed.

    \b
    Examples:
        arrakis mode set soft --reason "seven clean days"
        arrakis mode set shadow --reason "incident 7"
    """
    with Database(settings.database_url).transaction() as tx:
        outcome = modes.set_mode(tx, operator(), wanted, reason=reason, is_forced=is_forced)
    found = outcome.unwrap()
    words = "is" if found["isChanged"] else "was already"
    tell(found, is_json=is_json, text=f"The mode {words} {found['mode']}.")


@mode.command("rehearse")
@click.option(
    "--mode", "wanted", type=click.Choice([*MODES, "all"]), default="all", show_default=True
)
@as_json
@click.pass_obj
def rehearse(settings: OperatorSettings, wanted: Mode | Literal["all"], *, is_json: bool) -> None:
    """Try 402, clawback and dead letters on the sandbox account; exit 1 if a check failed.

    Safe at any time, whatever mode is in force: nobody else's credits are touched, and what it
    made is gone or neutral afterwards. It is evidence for `arrakis mode readiness` for 30 days.

    \b
    Example:
        arrakis mode rehearse --mode live
    """
    database = Database(settings.database_url, after_commit=[BalanceCache(settings.redis_url)])
    terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
    chosen = rehearsal.ALL_MODES if wanted == "all" else (wanted,)
    found = rehearsal.rehearse(database, terms, operator(), chosen)
    lines = [
        f"{'passed' if one['passed'] else 'FAILED':6}  {one['mode']:6}  {one['check']:6}"
        f"  {one.get('because', '')}".rstrip()
        for one in found["checks"]
    ]
    tell(found, is_json=is_json, text="\n".join(lines))
    if not found["passed"]:
        sys.exit(_BAD_NEWS)


def _line(one: dict[str, Any]) -> str:
    value = " ".join(one["value"].split())
    shown = value if len(value) <= 60 else f"{value[:57]}..."  # noqa: PLR2004  a column's width
    return f"{one['key']:28} {shown:24}  {one['meaning']} ({one['unit']}; {one['allowed']})"


def _checked(item: dict[str, Any]) -> str:
    figures = ", ".join(f"{name} {value}" for name, value in item["figures"].items())
    value = item["value"] or "unknown"
    sources = "; ".join(_source(one) for one in item["evidence"]) or "nothing recorded"
    return (
        f"{item['met']:8} {item['id']:24} {value} (asked: {item['threshold']})  {item['asks']}"
        f" [{figures}; from {sources}]"
    )


def _source(evidence: dict[str, Any]) -> str:
    if evidence["from"] == "rehearsal":
        return f"the rehearsal of {evidence['at']} by {evidence['by']}"
    return f"{evidence['count']} {evidence['from']}"
