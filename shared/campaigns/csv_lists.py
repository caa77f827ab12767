"""Lists of wallets as CSV: the names of the columns first, then a line for each wallet."""

import csv
import io
import json
from typing import Any

from shared.campaigns.lists import LIST_MAX, Wish
from shared.errors import Invalid
from shared.money import parse_amount

_NAMED_COLUMNS = {"accountId", "amountMicro"}
_CELL_MAX, _ID_MAX, _COLUMNS_MAX = 200, 128, 20


def read_csv(body: bytes) -> list[Wish]:
    """Return the wallets of a CSV list in UTF-8; ``accountId`` is one of its columns.

    ``amountMicro`` is the amount; every other column is an input of the formula. Empty cells count
    as absent. Raises Invalid (``invalid_csv``, ``list_too_long``) naming the line.
    """
    try:
        text = body.decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        _check_names(list(rows.fieldnames or []))
        wishes = []
        for row in rows:
            wishes.append(_read_row(row, rows.line_num))
            if len(wishes) > LIST_MAX:
                raise Invalid(f"The list exceeds maximum {LIST_MAX}.", code="list_too_long")
    except (UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(f"The list is not CSV in UTF-8: {error}") from error
    if not wishes:
        raise _unreadable("The list names no wallet.")
    return wishes


def _check_names(names: list[str]) -> None:
    if "accountId" not in names:
        raise _unreadable("The first line must name the columns, accountId among them.")
    if len(set(names)) != len(names) or len(names) > _COLUMNS_MAX:
        raise _unreadable(f"Columns need names of their own; {_COLUMNS_MAX} at most.")


def _read_row(row: dict[Any, Any], line: int) -> Wish:
    if None in row or None in row.values():
        raise _unreadable(f"Line {line} has more or fewer cells than the first one.")
    cells = {name: value.strip() for name, value in row.items() if value.strip()}
    if any(len(value) > _CELL_MAX or "\x00" in value for value in cells.values()):
        raise _unreadable(f"Line {line} has a cell that is too long or cannot be stored.")
    account_id = cells.get("accountId", "")
    if not 1 <= len(account_id) <= _ID_MAX:
        raise _unreadable(f"Line {line} has no accountId of 1 to {_ID_MAX} characters.")
    inputs = {name: cells[name] for name in sorted(cells.keys() - _NAMED_COLUMNS)}
    return Wish(
        account_id,
        _amount(cells["amountMicro"], line) if "amountMicro" in cells else None,
        json.dumps(inputs, ensure_ascii=False, separators=(",", ":")) if inputs else None,
    )


def _amount(text: str, line: int) -> int:
    try:
        amount = parse_amount(text)
    except Invalid as error:
        raise _unreadable(f"Line {line}, amountMicro: {error.message}") from error
    if amount == 0:
        raise _unreadable(f"Line {line}: an amount must be greater than zero.")
    return amount


def _unreadable(message: str) -> Invalid:
    return Invalid(message, code="invalid_csv")
