"""``arrakis doctor``: is this environment fit to run the system, and if not, what to do."""

import sys

import click

from shared.cli.checkup import examine
from shared.cli.desk import on_host
from shared.cli.output import as_json, table, tell
from shared.config import DoctorSettings

_BAD_NEWS, _AWAY = 1, 3


@click.command()
@as_json
@on_host
def doctor(settings: DoctorSettings, *, is_json: bool) -> None:
    """Check settings, database, clock, Redis, provider, networks and disk, a line each.

    Changes nothing. Exit 3 if something is away, else 1 if something is wrong, else 0.

    \b
    Example:
        arrakis doctor
    """
    findings = list(examine(settings))
    rows = [(one.verdict, one.check, one.told, one.advice) for one in findings]
    text = table(("verdict", "check", "found", "what to do"), rows)
    tell({"findings": [vars(one) for one in findings]}, is_json=is_json, text=text)
    verdicts = {one.verdict for one in findings}
    if "away" in verdicts:
        sys.exit(_AWAY)
    if "wrong" in verdicts:
        sys.exit(_BAD_NEWS)
