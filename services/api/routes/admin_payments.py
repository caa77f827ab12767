"""The admin API of payments: list, explain, replay, refund (contract 5)."""

from urllib.parse import quote

from flask import Response

from services.api.context import (
    actor,
    answer,
    parse_body,
    parse_query,
    services,
)
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.payments import (
    ExplainedPayment,
    Payments,
    RefundedPayment,
    ReplayedPayment,
    ReplayStarted,
)
from services.api.schemas.payments import PaymentsQuery, RefundRequest
from services.api.waiting import do_or_leave
from shared.openapi.operations import documented
from shared.operations import payments
from shared.wsgi import served

_PATH = "/admin/billing/payments"
routes = admin_blueprint("admin_payments")


@routes.get("")
@documented({200: Payments}, query=PaymentsQuery)
def list_payments() -> Response:
    """List payments, newest first."""
    query = parse_query(PaymentsQuery)
    wanted = payments.PaymentFilter(
        status=query.status,
        account_id=query.account_id,
        provider=query.provider,
        limit=query.limit,
        after=query.cursor,
    )
    with services().database.reading() as tx:
        return answer(payments.list_payments(tx, wanted))


@routes.get("/<payment_id>")
@documented({200: ExplainedPayment}, errors=("payment_not_found",))
def show_payment(payment_id: str) -> Response:
    """Show where a payment stands and why: its credits, notices and dead letters."""
    with services().database.reading() as tx:
        return answer(payments.explain_payment(tx, payment_id))


@routes.post("/<payment_id>/replay")
@documented(
    {200: ReplayedPayment, 202: ReplayStarted},
    takes={"Prefer": "wait=N: wait up to N seconds, 30 at most, for the replay to be done."},
    sends={"Location": "Where the payment can be looked at."},
    errors=(
        "config_invalid",
        "nothing_to_replay",
        "overloaded",
        "payment_not_found",
        "payments_not_configured",
        "provider_refused",
        "provider_unavailable",
    ),
)
def replay(payment_id: str) -> Response:
    """Ask the provider again, and work the payment's notices off once more.

    200 with the payment, or 202 if it takes longer than a second or the time of ``Prefer: wait=N``:
    it goes on then, by a worker if this process ends, and is safe to ask for again.
    """
    intake, admin = services().intake, actor()
    done = do_or_leave(
        lambda: payments.begin_replay(intake.database, admin, payment_id),
        lambda begun: payments.go_on(intake, admin, begun),
    )
    if done is not None:
        return answer(done)
    path = f"{_PATH}/{quote(payment_id, safe='')}"
    started = {
        "paymentId": payment_id,
        "status": "running",
        "lookUp": path,
        "correlationId": served().correlation_id,
    }
    told = answer(started, 202)
    told.headers["Location"] = path
    return told


@routes.post("/<payment_id>/refund")
@documented(
    {200: RefundedPayment},
    body=RefundRequest,
    errors=("config_invalid", "nothing_to_refund", "payment_not_found"),
)
def refund(payment_id: str) -> Response:
    """Take back the credits of a payment whose money went back to the payer."""
    reason = parse_body(RefundRequest).reason
    return answer(
        payments.refund(services().database, services().terms, actor(), payment_id, reason)
    )
