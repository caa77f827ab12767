"""What ties a request to what it did: its ids in every log line of it, in its answer and its audit.

Only ids that are known to name something of ours are logged: what a caller sends instead of an id
may be anything, a secret too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import structlog
from flask import Response, g, request

from shared.ledger.commands import Command, Outcome, Reserve
from shared.wsgi import offered_id

_IDS = {
    "reservationId": "reservation_id",
    "accountId": "account_id",
    "paymentId": "payment_id",
    "lotId": "lot_id",
    "campaignId": "campaign_id",
}
_NAMES_NOTHING = ("_not_found", "_expired", "foreign_account")


def begin(new_request_id: str) -> None:
    """Name this request as its caller does, or *new_request_id*; bind the names to its logs."""
    g.request_id = offered_id(request.headers.get("X-Request-Id")) or new_request_id
    g.correlation_id = offered_id(request.headers.get("X-Correlation-Id")) or g.request_id
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(
        service="api", request_id=g.request_id, correlation_id=g.correlation_id
    )


def tell(response: Response) -> None:
    """Return the names of this request to its caller."""
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Correlation-Id"] = g.correlation_id


def touch(answer: Mapping[str, Any]) -> None:
    """Note the ids of what this request touched, as *answer* names them."""
    found = {ours: answer[wire] for wire, ours in _IDS.items() if isinstance(answer.get(wire), str)}
    g.touched = {**touched(), **found}


def touch_many(results: list[dict[str, Any]]) -> None:
    """Note the ids of what a batch touched."""
    g.touched = {f"{ours}s": ids for wire, ours in _IDS.items() if (ids := [*_each(results, wire)])}


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


def touched() -> dict[str, Any]:
    """Return the ids of what this request has touched so far."""
    found: dict[str, Any] = g.get("touched", {})
    return found
