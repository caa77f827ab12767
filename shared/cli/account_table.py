"""An account as ``arrakis account show`` prints it: a table for each thing that is open."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.cli.output import table
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
            heads = [name.removesuffix("Micro") for name in columns]
            rows = [[row[name] for name in columns] for row in found[title]]
            lines += ["", title, table(heads, rows)]
    return lines
