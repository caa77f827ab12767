"""Options that several commands have: times, and pages of a list."""

from datetime import UTC, datetime
from typing import Any

import click

from shared.clock import to_wire

_FIRST_YEAR, _LAST_YEAR = 1970, 9998  # beyond them a period before or after is no date any more


class Moment(click.ParamType[datetime]):
    """A time: ``2026-11-22``, ``2026-11-22 12:00:00``, or as the commands print it."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time in UTC, which is also what one without a zone is in."""
        if isinstance(value, datetime):
            return value
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
        if found is None or not _FIRST_YEAR <= found.year <= _LAST_YEAR:
            self.fail(f"{value!r} is no time; write 2026-11-22 or 2026-11-22T12:00:00.", param, ctx)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


MOMENT = Moment()
limited = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 100), help="How many."
)
paged = click.option("--cursor", help="Go on behind the page before.")


def wire_time(moment: datetime | None) -> str | None:
    """Return *moment* as the API reads it."""
    return to_wire(moment) if moment is not None else None
