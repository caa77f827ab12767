"""What ties a request to what it did: its ids in every log line of it, in its answer and its audit.

Only ids that are known to name something of ours are logged: what a caller sends instead of an id
may be anything, a secret too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from shared.ledger.commands import Command, Outcome, Reserve
from shared.wsgi import served

_IDS = {
    "reservationId": "reservation_id",
    "accountId": "account_id",
    "paymentId": "payment_id",
    "lotId": "lot_id",
    "campaignId": "campaign_id",
}
_NAMES_NOTHING = ("_not_found", "_expired", "foreign_account")


def touch(answer: Mapping[str, Any]) -> None:
    """Note the ids of what this request touched, as *answer* names them."""
    touched = served().touched
    for wire, ours in _IDS.items():
        if isinstance(named := answer.get(wire), str):
            touched[ours] = named


def touch_many(results: list[dict[str, Any]]) -> None:
    """Note the ids of what a batch touched."""
    found = {f"{ours}s": ids for wire, ours in _IDS.items() if (ids := [*_each(results, wire)])}
    served().touched.update(found)


def _each(results: list[dict[str, Any]], wire: str) -> Iterator[str]:
    return iter(dict.fromkeys(one["body"][wire] for one in results if one["body"].get(wire)))


def touch_refused(command: Command, outcome: Outcome) -> None:
    """Note what a refused *command* was about, unless it was about nothing of ours."""
    if outcome.error is None or outcome.error.code.endswith(_NAMES_NOTHING):
        return
    if isinstance(command, Reserve):  # its reservation was not made
        touch({"accountId": command.account_id})
    else:
        touch({"reservationId": getattr(command, "reservation_id", None)})
