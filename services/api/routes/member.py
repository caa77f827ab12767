"""The member API: people looking at their own account (contract 5)."""

from flask import Blueprint, Response

from services.api import limits
from services.api.context import (
    answer,
    caller,
    guard,
    idempotency_key,
    parse_body,
    parse_query,
    services,
)
from services.api.operations import answer_balance, answer_history
from services.api.schemas.answers.ledger import AccountBalance, History, Lots
from services.api.schemas.answers.payments import Payment
from services.api.schemas.payments import CREATION_ERRORS, PackRequest, PaymentRequest
from services.api.schemas.requests import BalanceQuery, HistoryQuery
from shared.ledger import queries
from shared.openapi.operations import documented
from shared.payments import creation, views
from shared.payments.packs import find_pack
from shared.payments.policy import load_policy

routes = Blueprint("member", __name__)
routes.before_request(guard("member", limits.MEMBER))


@routes.get("/balance")
@documented({200: AccountBalance}, query=BalanceQuery, errors=("account_not_found",))
def balance() -> Response:
    """Show the member's balance."""
    return answer_balance(caller().subject)


@routes.get("/lots")
@documented({200: Lots}, query=BalanceQuery, errors=("account_not_found",))
def lots() -> Response:
    """Show the lots that hold something, in the order in which they will be spent."""
    query = parse_query(BalanceQuery)
    with services().database.reading() as tx:
        return answer(queries.open_lots(tx, caller().subject, query.pool_id))


@routes.get("/history")
@documented({200: History}, query=HistoryQuery, errors=("account_not_found", "invalid_cursor"))
def history() -> Response:
    """Show the member's entries, newest first."""
    return answer_history(caller().subject)


@routes.post("/payments")
@documented({201: Payment}, body=PaymentRequest, is_keyed=True, errors=CREATION_ERRORS)
def create_payment() -> Response:
    """Create a crypto payment into the member's account."""
    body = parse_body(PaymentRequest)
    created, is_replay = creation.create_payment(
        services().database,
        services().intake.provider,
        account_id=caller().subject,
        amount_micro=body.amount_usd,
        pay_currency=body.pay_currency.lower(),
        ceiling_micro=services().terms.current().ceiling_micro,
        idempotency_key=idempotency_key(),
    )
    return answer(created, 201, is_replay=is_replay)


@routes.post("/packs/<pack_id>/purchase")
@documented(
    {201: Payment}, body=PackRequest, is_keyed=True, errors=(*CREATION_ERRORS, "unknown_pack")
)
def buy_pack(pack_id: str) -> Response:
    """Create a crypto payment that buys a credit pack."""
    body = parse_body(PackRequest)
    with services().database.reading() as tx:
        pack = find_pack(load_policy(tx).packs, pack_id)
    created, is_replay = creation.create_payment(
        services().database,
        services().intake.provider,
        account_id=caller().subject,
        amount_micro=pack.price_micro,
        pay_currency=body.pay_currency.lower(),
        ceiling_micro=services().terms.current().ceiling_micro,
        idempotency_key=idempotency_key(),
        pack=pack,
    )
    return answer(created, 201, is_replay=is_replay)


@routes.get("/payments/<payment_id>")
@documented({200: Payment}, errors=("payment_not_found",))
def show_payment(payment_id: str) -> Response:
    """Show one of the member's payments; another's looks like none."""
    with services().database.reading() as tx:
        return answer(views.show_payment(tx, payment_id, account_id=caller().subject))
