"""The service-to-service API: what loa-finn calls around every inference (contract 4)."""

from flask import Blueprint, Response, request

from services.api import limits
from services.api.context import (
    answer,
    answer_outcome,
    guard,
    idempotency_key,
    parse_body,
    parse_query,
    require_version,
    services,
)
from services.api.health import health_report
from services.api.schemas.requests import (
    BalanceQuery,
    FinalizeRequest,
    HistoryQuery,
    ReleaseRequest,
    ReserveRequest,
    ServicePaymentRequest,
)
from shared.ids import new_id
from shared.ledger import accounts, queries
from shared.ledger.commands import Finalize, Release, Reserve
from shared.observability import OVERRUNS, UNCHARGED
from shared.payments import creation

routes = Blueprint("internal", __name__)
_check = guard("s2s", limits.S2S)


@routes.before_request
def _let_in() -> None:
    if request.endpoint and not request.endpoint.endswith(".health"):
        _check()


@routes.get("/health")
def health() -> Response:
    """Tell whether this process can do its work, and what it can do."""
    report, is_ready = health_report(services())
    return answer(report, 200 if is_ready else 503)


@routes.post("/reserve")
def reserve() -> Response:
    """Hold credits before a model runs."""
    body = parse_body(ReserveRequest)
    outcome = services().executor.execute(
        Reserve(
            account_id=body.account_id or _account_of(body),
            reservation_id=new_id(services().database.clock()),
            amount_micro=body.estimated_cost_micro,
            pool_id=body.pool_id,
            ttl_seconds=body.ttl_seconds,
            idempotency_key=idempotency_key(body.request_id),
            description=body.description,
            details=body.metadata,
        )
    )
    return answer_outcome("reserve", outcome)


def _account_of(body: ReserveRequest) -> str:
    assert body.entity_type is not None
    assert body.entity_id is not None
    with services().database.reading() as tx:
        return accounts.account_of(tx, entity_type=body.entity_type, entity_id=body.entity_id)


@routes.post("/finalize")
def finalize() -> Response:
    """Settle a hold at its actual cost."""
    body = parse_body(FinalizeRequest)
    outcome = services().executor.execute(
        Finalize(
            reservation_id=body.reservation_id,
            actual_cost_micro=body.actual_cost_micro,
            account_id=body.account_id,
            idempotency_key=idempotency_key(),
        )
    )
    if outcome.answer is not None and not outcome.is_replay:
        uncharged = int(outcome.answer["unchargedMicro"])
        UNCHARGED.inc(uncharged)
        if uncharged or int(outcome.answer["overrunMicro"]):
            OVERRUNS.labels(outcome.answer["billingMode"]).inc()
    return answer_outcome("finalize", outcome)


@routes.post("/release")
def release() -> Response:
    """Give a hold back."""
    body = parse_body(ReleaseRequest)
    outcome = services().executor.execute(
        Release(body.reservation_id, account_id=body.account_id, reason=body.reason)
    )
    return answer_outcome("release", outcome)


@routes.get("/reservations/<reservation_id>")
def show_reservation(reservation_id: str) -> Response:
    """Show a hold, its lots and its settlement."""
    require_version()
    with services().database.reading() as tx:
        return answer(queries.show_reservation(tx, reservation_id))


@routes.get("/accounts/<account_id>/balance")
def balance(account_id: str) -> Response:
    """Show an account's balance."""
    query = parse_query(BalanceQuery)
    with services().database.reading() as tx:
        return answer(queries.balance(tx, account_id, query.pool_id))


@routes.get("/accounts/<account_id>/history")
def history(account_id: str) -> Response:
    """Show an account's entries, newest first."""
    query = parse_query(HistoryQuery)
    with services().database.reading() as tx:
        return answer(queries.history(tx, account_id, **query.model_dump()))


@routes.post("/payments")
def create_payment() -> Response:
    """Create a crypto payment for a user of a chat bot."""
    body = parse_body(ServicePaymentRequest)
    created, is_replay = creation.create_payment(
        services().database,
        services().provider,
        account_id=body.account_id,
        amount_micro=body.amount_usd,
        pay_currency=body.pay_currency.lower(),
        idempotency_key=idempotency_key(),
    )
    return answer(created, 201, is_replay=is_replay)


@routes.get("/payments/<payment_id>")
def show_payment(payment_id: str) -> Response:
    """Show a payment as we know it."""
    require_version()
    with services().database.reading() as tx:
        return answer(creation.show_payment(tx, payment_id))
