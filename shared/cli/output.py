"""How the commands tell what they found: for people at a terminal, for pipes, as JSON for scripts.

A table is drawn, and coloured, on a terminal only (NO_COLOR is honoured); in a pipe it is plain
aligned text that never depends on a window. Progress goes to standard error, on a terminal only.
"""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
import structlog
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from shared.money import format_usd

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON for scripts.")
Tell = Callable[[int, int | None], None]

_GOOD, _WAITING, _BAD = "green", "yellow", "red"
_COLOURS = {
    **dict.fromkeys(("ok", "yes", "completed", "finished", "active", "granted"), _GOOD),
    **dict.fromkeys(("warning", "unknown", "pending", "processing", "paused", "draft"), _WAITING),
    **dict.fromkeys(("wrong", "away", "no", "failed", "manual_review", "stopped"), _BAD),
}
_SOLID_MAX = 40  # an id, a time or an amount: such a cell is not broken if there is any room
_SOFT_MIN = 12  # what a column of sentences needs beside them


def keep_logs_apart() -> None:
    """Send what the library warns of to standard error, so that standard output is the answer."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def tell(facts: Mapping[str, Any], *, is_json: bool, text: str) -> None:
    """Print *text* for people, or *facts* for scripts."""
    click.echo(json.dumps(facts, ensure_ascii=False) if is_json else text)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return *rows* under *headings*: drawn on a terminal, else aligned; nothing is left out."""
    cells = [[_cell(value) for value in row] for row in rows]
    columns = list(zip(headings, *cells, strict=True))
    are_numbers = [
        all(_is_number(cell) for cell in column[1:]) and bool(cells) for column in columns
    ]
    if sys.stdout.isatty():
        return _draw(columns, are_numbers)
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, are_numbers, strict=True)
        ).rstrip()
        for line in ([*headings], *cells)
    )


def fields(facts: Mapping[str, object]) -> str:
    """Return *facts* a line each, name and value; what is None is left out."""
    known = {name: _cell(value) for name, value in facts.items() if value is not None}
    width = max(map(len, known), default=0)
    return "\n".join(f"  {name:{width}}  {value}" for name, value in known.items())


def money(amount_micro: str) -> str:
    """Return an amount for people: in micro-USD, and in dollars."""
    return f"{amount_micro} ({format_usd(int(amount_micro))})"


def more(found: Mapping[str, Any]) -> list[str]:
    """Return the line that says how to see the next page, if there is one."""
    return [f"More: --cursor {found['nextCursor']}"] if found.get("nextCursor") else []


@contextmanager
def progress(label: str) -> Iterator[Tell]:
    """Yield what is told how far the work is: done, and of how many (None: not known)."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*shown, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _cell(value: object) -> str:
    """Return *value* as one line that cannot command a terminal."""
    if value is None:
        return "-"
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else " " for c in str(value))


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.removeprefix("-").isdecimal()


def _draw(columns: Sequence[Sequence[str]], are_numbers: Sequence[bool]) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False)
    widths = [max(map(len, column)) for column in columns]
    are_solid = [
        width <= _SOLID_MAX and not any(" " in cell for cell in column[1:])
        for column, width in zip(columns, widths, strict=True)
    ]
    needed = sum(
        width + 2 if is_solid else min(width, _SOFT_MIN) + 2
        for width, is_solid in zip(widths, are_solid, strict=True)
    )
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column, is_number, is_solid in zip(columns, are_numbers, are_solid, strict=True):
        drawn.add_column(
            Text(column[0]),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_solid and needed <= console.width,
        )
    for row in zip(*(column[1:] for column in columns), strict=True):
        drawn.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
