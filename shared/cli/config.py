"""``arrakis config`` and ``arrakis mode``: the settings of the running system."""

import sys
from typing import Any, Literal

import click

from shared.cli.acting import confirm, confirmed, with_reason
from shared.cli.api import Api
from shared.cli.desk import Call, Host, get, post, with_desk
from shared.cli.output import as_json, table, tell
from shared.ledger.terms import Mode
from shared.models.ledger import MODES
from shared.operations import modes, rehearsal, settings

_BAD_NEWS = 1
_SHOWN_MAX = 24


@click.group()
def config() -> None:
    """Look at the settings in billing_config, and change them."""


@config.command("list")
@as_json
@with_desk
def list_settings(desk: Host | Api, *, is_json: bool) -> None:
    """List every setting; exit 1 if they make no sense together.

    \b
    Example:
        arrakis config list
    """
    found = desk.read(get("config"), settings.list_settings)
    rows = [
        (one["key"], _short(one["value"]), f"{one['meaning']} ({one['unit']}; {one['allowed']})")
        for one in found["settings"]
    ]
    lines = [table(("key", "value", "meaning"), rows)]
    if found["fault"]:
        lines.append(f"Running processes keep their last good values: {found['fault']}")
    tell(found, is_json=is_json, text="\n".join(lines))
    if found["fault"]:
        sys.exit(_BAD_NEWS)


@config.command("get")
@click.argument("key")
@as_json
@with_desk
def show_setting(desk: Host | Api, key: str, *, is_json: bool) -> None:
    """Show the setting KEY: its value alone, or all about it with --json.

    \b
    Example:
        arrakis config get reserve_ttl_seconds
    """
    found = desk.read(get("config", key), lambda tx: settings.show_setting(tx, key))
    tell(found, is_json=is_json, text=found["value"])


@config.command("set")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY VALUE [KEY VALUE]...")
@with_reason
@as_json
@with_desk
def set_settings(desk: Host | Api, pairs: tuple[str, ...], reason: str, *, is_json: bool) -> None:
    """Change settings together; running processes obey within five seconds.

    \b
    Examples:
        arrakis config set reserve_ttl_seconds 600 --reason "slow models"
        arrakis config set ceiling_micro 5000000 reserve_ttl_seconds 60 --reason "rehearsal"
    """
    keys, values = pairs[::2], pairs[1::2]
    if len(keys) != len(values) or len(set(keys)) != len(keys):
        raise click.UsageError("Give a VALUE for each KEY, and each KEY once.")
    wanted = dict(zip(keys, values, strict=True))
    found = desk.change(
        Call("PATCH", ("config",), body={"values": wanted, "reason": reason}, is_repeatable=False),
        lambda tx, actor: settings.change_settings(tx, actor, wanted, reason),
    ).facts
    lines = [f"{key}: {one['old']} -> {one['new']}" for key, one in found["changed"].items()]
    tell(found, is_json=is_json, text="\n".join(lines or ["Nothing to change."]))


@click.group()
def mode() -> None:
    """Shadow, soft or live: look at it, at what the next one asks for, and change it."""


@mode.command("show")
@as_json
@with_desk
def show_mode(desk: Host | Api, *, is_json: bool) -> None:
    """Show the billing mode.

    \b
    Example:
        arrakis mode show
    """
    found = desk.read(get("mode"), modes.show_mode)
    tell(found, is_json=is_json, text=f"{found['mode']}, since {found['since']}")


@mode.command("readiness")
@as_json
@with_desk
def show_readiness(desk: Host | Api, *, is_json: bool) -> None:
    """Show the runbook's checklist with what the data says; exit 1 if the next mode must wait.

    \b
    Example:
        arrakis mode readiness
    """
    found = desk.read(get("mode", "readiness"), modes.show_readiness)
    lines = [
        table(("met", "point", "is", "asked", "figures", "from"), map(_checked, found["items"]))
    ]
    waits = [name for name, is_ready in found["ready"].items() if not is_ready]
    lines.append(f"The mode is {found['mode']}. Not ready for: {', '.join(waits) or 'nothing'}.")
    tell(found, is_json=is_json, text="\n".join(lines))
    if waits:
        sys.exit(_BAD_NEWS)


@mode.command("set")
@click.argument("wanted", metavar="MODE", type=click.Choice(MODES))
@with_reason
@click.option("--force", "is_forced", is_flag=True, help="Go up without the evidence.")
@confirmed
@as_json
@with_desk
def set_mode(
    desk: Host | Api,
    wanted: Mode,
    reason: str,
    *,
    is_forced: bool,
    is_sure: bool,
    is_json: bool,
) -> None:
    """Set the billing mode to MODE; running processes obey within five seconds.

    Going up (shadow, soft, live) asks for the evidence of `arrakis mode readiness`; going down is
    always allowed, and asks nobody.

    \b
    Examples:
        arrakis mode set soft --reason "seven clean days" --yes
        arrakis mode set shadow --reason "incident 7"
    """
    mode_now = desk.read(get("mode"), modes.show_mode)["mode"]
    if is_forced or MODES.index(wanted) > MODES.index(mode_now):
        by_force = ", whatever the evidence says" if is_forced else ""
        confirm(f"Go from {mode_now} to {wanted}{by_force}?", is_sure=is_sure)
    found = desk.change(
        post("mode", body={"mode": wanted, "reason": reason, "force": is_forced}),
        lambda tx, actor: modes.set_mode(tx, actor, wanted, reason=reason, is_forced=is_forced),
    ).facts
    words = "is" if found["isChanged"] else "was already"
    tell(found, is_json=is_json, text=f"The mode {words} {found['mode']}.")


@mode.command("rehearse")
@click.option(
    "--mode", "wanted", type=click.Choice([*MODES, "all"]), default="all", show_default=True
)
@as_json
@with_desk
def rehearse(desk: Host | Api, wanted: Mode | Literal["all"], *, is_json: bool) -> None:
    """Try 402, clawback and dead letters on the sandbox account; exit 1 if a check failed.

    Safe at any time, whatever mode is in force: nobody else's credits are touched, and what it
    made is gone or neutral afterwards. It is evidence for `arrakis mode readiness` for 30 days.

    \b
    Example:
        arrakis mode rehearse --mode live
    """
    chosen = rehearsal.ALL_MODES if wanted == "all" else (wanted,)
    found = desk.work(
        post("mode", "rehearse", body={"mode": wanted}),
        lambda host: rehearsal.rehearse(host.database, host.terms, host.actor, chosen),
    ).facts
    rows = [
        (
            "passed" if one["passed"] else "FAILED",
            one["mode"],
            one["check"],
            one.get("because", ""),
        )
        for one in found["checks"]
    ]
    text = table(("result", "mode", "check", "because"), rows)
    tell(found, is_json=is_json, text=text)
    if not found["passed"]:
        sys.exit(_BAD_NEWS)


def _short(value: str) -> str:
    """Return a value on one line; `config get` shows a long one whole."""
    line = " ".join(value.split())
    return line if len(line) <= _SHOWN_MAX else f"{line[: _SHOWN_MAX - 3]}..."


def _checked(item: dict[str, Any]) -> tuple[str, ...]:
    figures = ", ".join(f"{name} {value}" for name, value in item["figures"].items())
    sources = "; ".join(_source(one) for one in item["evidence"]) or "nothing recorded"
    point = f"{item['id']}: {item['asks']}"
    return item["met"], point, item["value"] or "unknown", item["threshold"], figures, sources


def _source(evidence: dict[str, Any]) -> str:
    if evidence["from"] == "rehearsal":
        return f"the rehearsal of {evidence['at']} by {evidence['by']}"
    return f"{evidence['count']} {evidence['from']}"
