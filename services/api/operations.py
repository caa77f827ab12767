"""From requests to commands: what the single routes and the batch have in common."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import structlog
from flask import Response
from pydantic import ValidationError

from services.api.context import Services, answer, parse_query, services
from services.api.errors import MalformedBody, describe, describe_validation
from services.api.schemas.requests import (
    BalanceQuery,
    BatchedOperation,
    FinalizeRequest,
    HistoryQuery,
    ReleaseRequest,
    ReserveRequest,
)
from shared.errors import ArrakisError, Invalid
from shared.ids import new_id
from shared.ledger import accounts, queries
from shared.ledger.commands import Command, Finalize, Outcome, Release, Reserve
from shared.ledger.estimates import estimate
from shared.ledger.postings import overrun_pct
from shared.observability import OUTCOMES, OVERRUN_ALERTS, OVERRUNS, UNCHARGED

log = structlog.get_logger()


def to_reserve(services: Services, body: ReserveRequest, key: str | None) -> Reserve:
    """Return the command for *body*. Raises NotFound for an entity without account.

    A model without price refuses the command only where it is decided: a repeat gets its answer.
    """
    amount, basis, refusal = body.estimated_cost_micro, None, None
    if amount is None:
        basis = f"{body.model} {body.input_tokens} {body.max_output_tokens}"
        try:
            amount = estimate_cost(services, body)
        except Invalid as error:
            amount, refusal = 0, error
    return Reserve(
        account_id=body.account_id or _account_of(services, body),
        reservation_id=new_id(services.database.clock()),
        amount_micro=amount,
        pool_id=body.pool_id,
        ttl_seconds=body.ttl_seconds,
        idempotency_key=key or body.request_id,
        description=body.description,
        details=body.metadata,
        basis=basis,
        refusal=refusal,
    )


def estimate_cost(services: Services, body: Any) -> int:
    """Return the estimate for *body*'s model and tokens, at least one micro-USD.

    Raises Invalid (``unknown_model``) if the model has no price.
    """
    terms = services.terms.current()
    cost = estimate(
        terms.model_prices,
        terms.safety_multiplier,
        model=body.model,
        input_tokens=body.input_tokens,
        max_output_tokens=body.max_output_tokens,
    )
    return max(1, cost)


def _account_of(services: Services, body: ReserveRequest) -> str:
    assert body.entity_type is not None
    assert body.entity_id is not None
    with services.database.reading() as tx:
        return accounts.account_of(tx, entity_type=body.entity_type, entity_id=body.entity_id)


def to_finalize(_services: Services, body: FinalizeRequest, key: str | None) -> Finalize:
    """Return the command for *body*."""
    return Finalize(
        reservation_id=body.reservation_id,
        actual_cost_micro=body.actual_cost_micro,
        account_id=body.account_id,
        idempotency_key=key,
        details=body.metadata,
    )


def to_release(_services: Services, body: ReleaseRequest, _key: str | None) -> Release:
    """Return the command for *body*."""
    return Release(body.reservation_id, account_id=body.account_id, reason=body.reason)


_BATCHED: dict[str, tuple[Any, Callable[[Services, Any, str | None], Command]]] = {
    "reserve": (ReserveRequest, to_reserve),
    "finalize": (FinalizeRequest, to_finalize),
    "release": (ReleaseRequest, to_release),
}


def run_batch(services: Services, operations: list[Any]) -> list[dict[str, Any]]:
    """Carry out *operations* in order, in one transaction; return ``{status, body}`` for each.

    One that is refused or malformed answers for itself and stops no other.
    """
    results: list[dict[str, Any]] = [{} for _ in operations]
    commands: list[Command] = []
    places: list[int] = []
    for place, operation in enumerate(operations):
        try:
            commands.append(_parse(services, operation))
            places.append(place)
        except ArrakisError as error:
            status, body = describe(error)
            results[place] = {"status": status, "body": body}
        except ValidationError as error:
            results[place] = {"status": 400, "body": describe_validation(error)}
    outcomes = services.executor.execute_all(commands) if commands else []
    for place, command, outcome in zip(places, commands, outcomes, strict=True):
        count_outcome(services, command.operation, outcome)
        if outcome.error is not None:
            status, body = describe(outcome.error)
            results[place] = {"status": status, "body": body}
        else:
            results[place] = {"status": 200, "body": outcome.answer}
    return results


def _parse(services: Services, operation: Any) -> Command:
    if not isinstance(operation, dict):
        raise MalformedBody("An operation is an object.")
    named = BatchedOperation.model_validate(operation)
    if not isinstance(named.op, str) or named.op not in _BATCHED:
        raise Invalid(f"op must be one of {', '.join(_BATCHED)}.", code="unknown_operation")
    schema, to_command = _BATCHED[named.op]
    return to_command(services, schema.model_validate(operation), named.idempotency_key)


def answer_balance(account_id: str) -> Response:
    """Answer with the balance of the pool that the query names, for whoever may see the account."""
    pool_id = parse_query(BalanceQuery).pool_id
    return answer(_read_balance(services(), account_id, pool_id))


def answer_history(account_id: str) -> Response:
    """Answer with a page of the account's entries, for whoever may see the account."""
    query = parse_query(HistoryQuery)
    with services().database.reading() as tx:
        return answer(queries.history(tx, account_id, **query.model_dump()))


def _read_balance(services: Services, account_id: str, pool_id: str) -> dict[str, str]:
    """Return a balance: from the cache, or from the database, which then fills the cache."""
    cached = services.balances.read(account_id, pool_id)
    if cached is not None:
        return queries.balance_body(account_id, pool_id, cached)
    with services.database.reading() as tx:
        known = queries.current_balance(tx, account_id, pool_id)
    services.balances.write([known])
    return queries.balance_body(account_id, pool_id, vars(known))


def count_outcome(services: Services, operation: str, outcome: Outcome) -> None:
    """Count what became of a command, and what a finalize cost above its hold (W4)."""
    code = outcome.error.code if outcome.error else "replayed" if outcome.is_replay else "ok"
    _outcomes(operation, code).inc()
    if operation == "finalize" and outcome.answer is not None and not outcome.is_replay:
        _count_overrun(services, outcome.answer)


_outcomes = lru_cache(maxsize=256)(OUTCOMES.labels)  # a look-up takes longer than counting


def _count_overrun(services: Services, settled: Mapping[str, Any]) -> None:
    charged, overrun, uncharged = (
        int(settled[name]) for name in ("finalizedMicro", "overrunMicro", "unchargedMicro")
    )
    UNCHARGED.inc(uncharged)
    if not overrun and not uncharged:
        return
    mode = settled["billingMode"]
    OVERRUNS.labels(mode).inc()
    excess = overrun + uncharged
    reserved = charged - overrun if mode == "soft" else charged
    percent = overrun_pct(reserved_micro=reserved, excess_micro=excess)
    if percent > services.terms.current().overrun_alert_threshold_pct:
        OVERRUN_ALERTS.labels(mode).inc()
        log.warning(
            "billing.overrun.alert",
            reservation_id=settled["reservationId"],
            account_id=settled["accountId"],
            billing_mode=mode,
            excess_micro=excess,
            percent=percent,
        )
