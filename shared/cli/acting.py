"""Who acts by command, and why: what every command that changes something asks for."""

import os
import pwd
import sys

import click

from shared.operations.audit import Actor

_REASON_MAX_CHARACTERS = 1000


def operator() -> Actor:
    """Return who runs the command, as the audit log names them: the user of this host.

    The system is asked, not the environment, where anybody could name another (four eyes).
    """
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # in a container a user may have a number only
        name = f"uid-{user}"
    return Actor("operator", name)


def confirm(question: str, *, is_sure: bool) -> None:
    """Ask before something that is hard to take back, unless ``--yes`` was given.

    Where nobody can answer, ``--yes`` is demanded (exit 2); a no ends the command with exit 1.
    """
    if is_sure:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{question} Nobody can be asked here: add --yes.")
    click.confirm(question, abort=True, err=True)


def _reason(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.UsageError("--reason must say something.")
    if len(value) > _REASON_MAX_CHARACTERS:
        raise click.UsageError(f"--reason may have {_REASON_MAX_CHARACTERS} characters.")
    return value


with_reason = click.option(
    "--reason", required=True, callback=_reason, help="Why; it is kept in the audit log."
)
confirmed = click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
