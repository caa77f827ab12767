"""``arrakis doctor``: is this environment fit to run the system, and if not, what to do."""

import sys

import click

from shared.cli.checkup import examine
from shared.cli.output import as_json, tell
from shared.config import DoctorSettings, load_settings

_BAD_NEWS, _AWAY = 1, 3
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red", "away": "magenta"}


@click.command()
@as_json
def doctor(*, is_json: bool) -> None:
    """Check settings, database, clock, Redis, provider, networks and disk, a line each.

    Changes nothing. Exit 3 if something is away, else 1 if something is wrong, else 0.

    \b
    Example:
        arrakis doctor
    """
    findings = list(examine(load_settings(DoctorSettings)))
    lines = [
        f"{click.style(f'{one.verdict:8}', fg=_COLOURS[one.verdict])}{one.check}: {one.told}"
        + (f". {one.advice}" if one.advice else "")
        for one in findings
    ]
    # click.echo takes the colours away again unless it writes to a terminal.
    tell({"findings": [vars(one) for one in findings]}, is_json=is_json, text="\n".join(lines))
    verdicts = {one.verdict for one in findings}
    if "away" in verdicts:
        sys.exit(_AWAY)
    if "wrong" in verdicts:
        sys.exit(_BAD_NEWS)
