"""``arrakis dlq``: what failed and waits, and how to settle it."""

import sys
from dataclasses import replace
from typing import Any

import click

from shared.cli.acting import confirm, confirmed, with_reason
from shared.cli.api import Api
from shared.cli.desk import Host, get, post, with_desk
from shared.cli.options import limited, paged
from shared.cli.output import as_json, fields, more, table, tell
from shared.operations import dead_letters

_BAD_NEWS = 1


@click.group()
def dlq() -> None:
    """Look at the dead-letter queue, retry and resolve."""


@dlq.command("list")
@click.option(
    "--status",
    type=click.Choice(["pending", "processing", "completed", "failed", "manual_review"]),
    help="Only these.",
)
@limited
@paged
@as_json
@with_desk
def list_letters(
    desk: Host | Api, status: str | None, limit: int, cursor: str | None, *, is_json: bool
) -> None:
    """List dead letters, oldest first; exit 1 if a person is needed.

    \b
    Example:
        arrakis dlq list --status manual_review
    """
    wanted = dead_letters.LetterFilter(status=status, limit=limit, after=cursor)
    found = desk.read(
        get("dlq", query={"status": status, "limit": limit, "cursor": cursor}),
        lambda tx: dead_letters.list_letters(tx, wanted),
    )
    rows = [
        (one["id"], one["status"], one["operation"], one["nextRetryAt"], one["error"])
        for one in found["deadLetters"]
    ]
    lines = [table(("letter", "status", "about", "next try", "error"), rows)] if rows else []
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found["counts"].items()))
    lines += [*more(found), counts or "The queue is empty."]
    tell(found, is_json=is_json, text="\n".join(lines))
    if found["counts"].get("manual_review"):
        sys.exit(_BAD_NEWS)


@dlq.command()
@click.argument("letter_id")
@as_json
@with_desk
def show(desk: Host | Api, letter_id: str, *, is_json: bool) -> None:
    """Show the dead letter LETTER_ID.

    \b
    Example:
        arrakis dlq show LETTER
    """
    found = desk.read(get("dlq", letter_id), lambda tx: dead_letters.show_letter(tx, letter_id))
    tell(found, is_json=is_json, text=_describe(found))


@dlq.command()
@click.argument("letter_id")
@click.option("--dry-run", is_flag=True, help="Show what it would do; do nothing.")
@as_json
@with_desk
def retry(desk: Host | Api, letter_id: str, *, dry_run: bool, is_json: bool) -> None:
    """Try the work of LETTER_ID again, now; exit 1 if that does not settle it.

    Safe to repeat: what it brought once it does not bring again. Look first with --dry-run.

    \b
    Examples:
        arrakis dlq retry LETTER --dry-run
        arrakis dlq retry LETTER
    """
    call = post("dlq", letter_id, "retry")
    if dry_run:
        found = desk.work(
            replace(call, query={"dryRun": "true"}),
            lambda host: dead_letters.rehearse(host.intake, letter_id),
        ).facts
        lines = [_rehearsed(event) for event in found["events"]]
        tell(found, is_json=is_json, text="\n".join([*lines, "Nothing was changed."]))
        return
    found = desk.work(
        replace(call, is_repeatable=False),  # after a success there is nothing to retry
        lambda host: dead_letters.retry(host.intake, host.actor, letter_id),
    ).facts
    tell(found, is_json=is_json, text=_describe(found))
    if found["status"] != "completed":
        sys.exit(_BAD_NEWS)


@dlq.command()
@click.argument("letter_id")
@with_reason
@click.option(
    "--as",
    "resolution",
    type=click.Choice(["completed", "failed"]),
    default="completed",
    show_default=True,
    help="Dealt with, or never to be.",
)
@confirmed
@as_json
@with_desk
def resolve(
    desk: Host | Api,
    letter_id: str,
    reason: str,
    resolution: dead_letters.Resolution,
    *,
    is_sure: bool,
    is_json: bool,
) -> None:
    """Close LETTER_ID by a person's decision.

    \b
    Example:
        arrakis dlq resolve LETTER --reason "credited by hand" --yes
    """
    confirm(f"Close {letter_id} as {resolution}?", is_sure=is_sure)
    call = post("dlq", letter_id, "resolve", body={"reason": reason, "resolution": resolution})
    found = desk.work(
        replace(call, is_repeatable=False),  # what is resolved is not resolved again
        lambda host: dead_letters.resolve(
            host.database, host.actor, letter_id, reason=reason, resolution=resolution
        ),
    ).facts
    tell(found, is_json=is_json, text=_describe(found))


def _describe(letter: dict[str, Any]) -> str:
    return f"{letter['id']}\n{fields({n: value for n, value in letter.items() if n != 'id'})}"


def _rehearsed(event: dict[str, Any]) -> str:
    effects = [
        f"\n    {one['operation']}: "
        + (f"refused, {one['message']}" if "refused" in one else f"balance {one['balance']}")
        for one in event["ledger"]
    ]
    reason = f" ({event['reason']})" if event["reason"] else ""
    return f"{event['eventId']} {event['status']}: {event['outcome']}{reason}{''.join(effects)}"
