"""An account as ``arrakis account show`` prints it: a table for each thing that is open."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.money import format_usd

_AMOUNTS = ("available", "reserved", "debt")
_TABLES: Sequence[tuple[str, Sequence[str]]] = (
    ("pools", ("poolId", "availableMicro", "reservedMicro", "debtMicro")),
    (
        "lots",
        ("lotId", "poolId", "sourceType", "availableMicro", "reservedMicro", "originalMicro",
         "expiresAt"),
    ),
    ("holds", ("reservationId", "poolId", "billingMode", "reservedMicro", "expiresAt")),
    ("debts", ("debtId", "openMicro", "originalMicro", "createdAt")),
    ("entries", ("createdAt", "entryType", "poolId", "amountMicro", "postBalanceMicro")),
)  # fmt: skip


def account_lines(found: Mapping[str, Any]) -> list[str]:
    """Return the account's balance, then a table of each thing that it has, in micro-USD."""
    entity = f"{found['entityType']} {found['entityId']}"
    lines = [f"{found['accountId']} ({entity}, {found['createdAt']})"]
    for name in _AMOUNTS:
        amount = found["balance"][f"{name}Micro"]
        lines.append(f"  {name:10} {amount} ({format_usd(int(amount))})")
    for title, columns in _TABLES:
        if found[title]:
            lines += ["", title, *_table(columns, found[title])]
    return lines


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a head and a line for each row, amounts to the right."""
    heads = [name.removesuffix("Micro") for name in columns]
    cells = [heads, *([str(row[name] or "-") for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join(
            cell.rjust(width) if name.endswith("Micro") else cell.ljust(width)
            for name, cell, width in zip(columns, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]  # fmt: skip
