"""The payment state machine: pure and total, every pair of state and notice has one outcome.

Machine A of behaviour 4, and late deposits: an address may be paid after it expired.
"""

from enum import Enum

ON_THE_WAY = frozenset({"confirming", "confirmed", "sending"})

_ENDS = {"partially_paid", "finished", "failed", "refunded"}

ALLOWED: dict[str, frozenset[str]] = {
    "creating": frozenset({"waiting", *ON_THE_WAY, *_ENDS, "expired"}),
    "waiting": frozenset({*ON_THE_WAY, *_ENDS, "expired"}),
    "confirming": frozenset({"confirmed", "sending", *_ENDS}),
    "confirmed": frozenset({"sending", *_ENDS}),
    "sending": frozenset(_ENDS),
    "partially_paid": frozenset({*ON_THE_WAY, "finished", "failed", "refunded", "expired"}),
    "finished": frozenset({"refunded"}),
    "expired": frozenset({"partially_paid", "finished", "refunded"}),
    "failed": frozenset({"refunded"}),
    "refunded": frozenset(),
    "manual_review": frozenset({"partially_paid", "finished", "refunded"}),
}
# With these money has come, so they may bring a credit.
MONEY_STATUSES = frozenset({"partially_paid", "finished"})
STATUS_WORDS = frozenset(
    {"waiting", "partially_paid", "finished", "failed", "refunded", "expired", *ON_THE_WAY}
)


class Move(Enum):
    """What to do with a notice."""

    APPLY = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REVIEW = "manual_review"


def decide(current: str, incoming: str) -> Move:
    """Return what a notice of *incoming* means for a payment in *current*.

    Money that arrives where no rule expects it (after failed or refunded), and words that we do
    not know, are for a person to look at; anything else that does not lead forward is stale.
    """
    if incoming not in STATUS_WORDS:
        return Move.REVIEW
    if incoming == current:
        return Move.DUPLICATE
    if incoming in ALLOWED[current]:
        return Move.APPLY
    if incoming in MONEY_STATUSES and current in ("failed", "refunded"):
        return Move.REVIEW
    return Move.STALE
