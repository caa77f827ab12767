"""Who acts by command, and why: what every command that changes something asks for."""

import getpass

import click

from shared.operations.audit import Actor

_REASON_MAX_CHARACTERS = 1000


def operator() -> Actor:
    """Return who runs the command, as the audit log names them."""
    return Actor("operator", getpass.getuser())


def _reason(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.UsageError("--reason must say something.")
    if len(value) > _REASON_MAX_CHARACTERS:
        raise click.UsageError(f"--reason may have {_REASON_MAX_CHARACTERS} characters.")
    return value


with_reason = click.option(
    "--reason", required=True, callback=_reason, help="Why; it is kept in the audit log."
)
