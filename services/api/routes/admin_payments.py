"""The admin API of payments: list, explain, replay, refund (contract 5)."""

from flask import Response

from services.api.context import (
    actor,
    answer,
    parse_body,
    parse_query,
    services,
)
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.payments import PaymentsQuery, RefundRequest
from shared.operations import payments

routes = admin_blueprint("admin_payments")


@routes.get("")
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
def show_payment(payment_id: str) -> Response:
    """Show where a payment stands and why: its credits, notices and dead letters."""
    with services().database.reading() as tx:
        return answer(payments.explain_payment(tx, payment_id))


@routes.post("/<payment_id>/replay")
def replay(payment_id: str) -> Response:
    """Ask the provider again, and work the payment's notices off once more."""
    return answer(payments.replay(services().intake, actor(), payment_id))


@routes.post("/<payment_id>/refund")
def refund(payment_id: str) -> Response:
    """Take back the credits of a payment whose money went back to the payer."""
    reason = parse_body(RefundRequest).reason
    return answer(
        payments.refund(services().database, services().terms, actor(), payment_id, reason)
    )
