"""The service-to-service API: what loa-finn calls around every inference (contract 4)."""

from flask import Blueprint, Response, request

from services.api import limits
from services.api.context import (
    BATCH_MAX_BYTES,
    answer,
    answer_outcome,
    guard,
    idempotency_key,
    parse_body,
    require_version,
    services,
)
from services.api.correlation import touch_many, touch_refused
from services.api.health import health_report
from services.api.operations import (
    answer_balance,
    answer_history,
    count_outcome,
    estimate_cost,
    run_batch,
    to_finalize,
    to_release,
    to_reserve,
)
from services.api.schemas.answers.health import Health
from services.api.schemas.answers.ledger import (
    AccountBalance,
    BatchResults,
    Estimate,
    History,
    Hold,
    Released,
    Reservation,
    Settlement,
)
from services.api.schemas.answers.payments import Payment
from services.api.schemas.payments import CREATION_ERRORS, ServicePaymentRequest
from services.api.schemas.requests import (
    BalanceQuery,
    BatchRequest,
    EstimateRequest,
    ExtendRequest,
    FinalizeRequest,
    HistoryQuery,
    ReleaseRequest,
    ReserveRequest,
)
from shared.ids import new_id
from shared.ledger import queries
from shared.ledger.commands import Command, Extend
from shared.openapi.operations import documented
from shared.payments import creation, views

routes = Blueprint("internal", __name__)
_check = guard("s2s", limits.S2S)


@routes.before_request
def _let_in() -> None:
    if request.endpoint and not request.endpoint.endswith(".health"):
        _check()


@routes.get("/health")
@documented({200: Health, 503: Health}, is_open=True)
def health() -> Response:
    """Tell whether this process can do its work, and what it can do."""
    report, is_ready = health_report(services())
    return answer(report, 200 if is_ready else 503)


@routes.post("/reserve")
@documented(
    {200: Hold},
    body=ReserveRequest,
    is_keyed=True,
    errors=(
        "account_not_found",
        "amount_above_ceiling",
        "config_invalid",
        "id_in_use",
        "insufficient_credits",
        "invalid_amount",
        "overloaded",
        "unknown_model",
    ),
)
def reserve() -> Response:
    """Hold credits before a model runs."""
    return _execute(to_reserve(services(), parse_body(ReserveRequest), idempotency_key()))


@routes.post("/extend")
@documented(
    {200: Hold},
    body=ExtendRequest,
    is_keyed=True,
    errors=(
        "account_mismatch",
        "config_invalid",
        "overloaded",
        "reservation_not_found",
        "amount_above_ceiling",
        "insufficient_credits",
        "invalid_amount",
        "reservation_not_pending",
    ),
)
def extend() -> Response:
    """Hold more on a pending hold."""
    body = parse_body(ExtendRequest)
    return _execute(
        Extend(
            reservation_id=body.reservation_id,
            additional_micro=body.additional_micro,
            extension_id=new_id(services().database.clock()),
            ttl_seconds=body.ttl_seconds,
            account_id=body.account_id,
            idempotency_key=idempotency_key(),
        )
    )


@routes.post("/finalize")
@documented(
    {200: Settlement},
    body=FinalizeRequest,
    is_keyed=True,
    errors=(
        "account_mismatch",
        "config_invalid",
        "overloaded",
        "reservation_not_found",
        "amount_above_ceiling",
        "reservation_expired",
        "reservation_released",
    ),
)
def finalize() -> Response:
    """Settle a hold at its actual cost."""
    return _execute(to_finalize(services(), parse_body(FinalizeRequest), idempotency_key()))


@routes.post("/release")
@documented(
    {200: Released},
    body=ReleaseRequest,
    is_keyed=True,
    errors=(
        "account_mismatch",
        "config_invalid",
        "overloaded",
        "reservation_not_found",
        "reservation_finalized",
    ),
)
def release() -> Response:
    """Give a hold back."""
    return _execute(to_release(services(), parse_body(ReleaseRequest), idempotency_key()))


def _execute(command: Command) -> Response:
    outcome = services().executor.execute(command)
    count_outcome(services(), command.operation, outcome)
    touch_refused(command, outcome)
    return answer_outcome(outcome)


@routes.post("/batch")
@documented({200: BatchResults}, body=BatchRequest, errors=("config_invalid", "overloaded"))
def batch() -> Response:
    """Carry out up to 500 operations, each with its own result."""
    body = parse_body(BatchRequest, limit_bytes=BATCH_MAX_BYTES)
    results = run_batch(services(), body.operations)
    touch_many(results)
    return answer({"results": results})


@routes.post("/estimate")
@documented({200: Estimate}, body=EstimateRequest, errors=("config_invalid", "unknown_model"))
def estimate() -> Response:
    """Say what a request to a model may cost at the most."""
    body = parse_body(EstimateRequest)
    terms = services().terms.current()
    return answer(
        {
            "model": body.model,
            "estimatedCostMicro": str(estimate_cost(services(), body)),
            "safetyMultiplier": str(float(terms.safety_multiplier)),
        }
    )


@routes.get("/reservations/<reservation_id>")
@documented({200: Reservation}, is_versioned=True, errors=("reservation_not_found",))
def show_reservation(reservation_id: str) -> Response:
    """Show a hold, its lots and its settlement."""
    require_version()
    with services().database.reading() as tx:
        return answer(queries.show_reservation(tx, reservation_id))


@routes.get("/accounts/<account_id>/balance")
@documented({200: AccountBalance}, query=BalanceQuery, errors=("account_not_found",))
def balance(account_id: str) -> Response:
    """Show an account's balance."""
    return answer_balance(account_id)


@routes.get("/accounts/<account_id>/history")
@documented({200: History}, query=HistoryQuery, errors=("account_not_found", "invalid_cursor"))
def history(account_id: str) -> Response:
    """Show an account's entries, newest first."""
    return answer_history(account_id)


@routes.post("/payments")
@documented({201: Payment}, body=ServicePaymentRequest, is_keyed=True, errors=CREATION_ERRORS)
def create_payment() -> Response:
    """Create a crypto payment for a user of a chat bot."""
    body = parse_body(ServicePaymentRequest)
    created, is_replay = creation.create_payment(
        services().database,
        services().intake.provider,
        account_id=body.account_id,
        amount_micro=body.amount_usd,
        pay_currency=body.pay_currency.lower(),
        ceiling_micro=services().terms.current().ceiling_micro,
        idempotency_key=idempotency_key(),
    )
    return answer(created, 201, is_replay=is_replay)


@routes.get("/payments/<payment_id>")
@documented({200: Payment}, is_versioned=True, errors=("payment_not_found",))
def show_payment(payment_id: str) -> Response:
    """Show a payment as we know it."""
    require_version()
    with services().database.reading() as tx:
        return answer(views.show_payment(tx, payment_id))
