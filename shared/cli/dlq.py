"""``arrakis dlq``: what failed and waits, and how to settle it."""

import sys
from typing import Any

import click

from shared.cli.acting import operator
from shared.cli.output import as_json, tell
from shared.cli.payments import open_intake
from shared.config import OperatorSettings
from shared.database import Database
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
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json
@click.pass_obj
def list_letters(
    settings: OperatorSettings, status: str | None, limit: int, *, is_json: bool
) -> None:
    """List dead letters, oldest first; exit 1 if a person is needed."""
    wanted = dead_letters.LetterFilter(status=status, limit=limit)
    with Database(settings.database_url).reading() as tx:
        found = dead_letters.list_letters(tx, wanted)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found["counts"].items()))
    lines = [_line(letter) for letter in found["deadLetters"]]
    tell(found, is_json=is_json, text="\n".join([*lines, counts or "The queue is empty."]))
    if found["counts"].get("manual_review"):
        sys.exit(_BAD_NEWS)


@dlq.command()
@click.argument("letter_id")
@as_json
@click.pass_obj
def show(settings: OperatorSettings, letter_id: str, *, is_json: bool) -> None:
    """Show the dead letter LETTER_ID."""
    with Database(settings.database_url).reading() as tx:
        found = dead_letters.show_letter(tx, letter_id)
    tell(found, is_json=is_json, text=_describe(found))


@dlq.command()
@click.argument("letter_id")
@click.option("--dry-run", is_flag=True, help="Show what it would do; do nothing.")
@as_json
@click.pass_obj
def retry(settings: OperatorSettings, letter_id: str, *, dry_run: bool, is_json: bool) -> None:
    """Try the work of LETTER_ID again, now.

    Safe to repeat: what it brought once it does not bring again. Look first:

        arrakis dlq retry LETTER_ID --dry-run
    """
    collaborators = open_intake(settings)
    if dry_run:
        found = dead_letters.rehearse(collaborators, letter_id)
        lines = [_rehearsed(event) for event in found["events"]]
        tell(found, is_json=is_json, text="\n".join([*lines, "Nothing was changed."]))
        return
    found = dead_letters.retry(collaborators, operator(), letter_id)
    tell(found, is_json=is_json, text=_describe(found))
    if found["operation"] == "notification":
        click.echo("The workers deliver it now: arrakis webhook deliveries ENDPOINT_ID", err=True)
    elif found["status"] != "completed":
        sys.exit(_BAD_NEWS)


@dlq.command()
@click.argument("letter_id")
@click.option("--reason", required=True, help="What you did, and why; it is audited.")
@click.option(
    "--as",
    "resolution",
    type=click.Choice(["completed", "failed"]),
    default="completed",
    show_default=True,
    help="Dealt with, or never to be.",
)
@as_json
@click.pass_obj
def resolve(
    settings: OperatorSettings,
    letter_id: str,
    reason: str,
    resolution: dead_letters.Resolution,
    *,
    is_json: bool,
) -> None:
    """Close LETTER_ID by a person's decision."""
    if not reason.strip():
        raise click.UsageError("--reason must say something.")
    found = dead_letters.resolve(
        Database(settings.database_url),
        operator(),
        letter_id,
        reason=reason,
        resolution=resolution,
    )
    tell(found, is_json=is_json, text=_describe(found))


def _line(letter: dict[str, Any]) -> str:
    due = f", next try {letter['nextRetryAt']}" if letter["nextRetryAt"] else ""
    return f"{letter['id']}  {letter['status']:13} {letter['operation']:8} {letter['error']}{due}"


def _describe(letter: dict[str, Any]) -> str:
    lines = [f"  {name:12} {value}" for name, value in letter.items() if value is not None]
    return "\n".join([letter["id"], *lines[1:]])


def _rehearsed(event: dict[str, Any]) -> str:
    effects = [
        f"\n    {one['operation']}: "
        + (f"refused, {one['message']}" if "refused" in one else f"balance {one['balance']}")
        for one in event["ledger"]
    ]
    reason = f" ({event['reason']})" if event["reason"] else ""
    return f"{event['eventId']} {event['status']}: {event['outcome']}{reason}{''.join(effects)}"
