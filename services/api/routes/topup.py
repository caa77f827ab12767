"""Top-ups by x402 (contract 7): without a payment the terms (402), with one the credits (201)."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

from services.api import limits
from services.api.context import answer, caller, count, guard, parse_body, services
from services.api.schemas.answers.payments import PaymentTerms, TopUp
from services.api.schemas.topups import TopUpRequest
from shared.clock import to_wire
from shared.errors import Refused
from shared.openapi.operations import documented
from shared.payments.packs import Pack, find_pack
from shared.payments.policy import load_policy
from shared.payments.quotes import Offer, find_quote, make_quote
from shared.payments.settling import Receipt, settle
from shared.payments.transfers import TransferClaim, claim_transfer
from shared.payments.x402.terms import REQUIRED_HEADER, required_body, required_header
from shared.payments.x402.wire import Payment, payment_in, response_header
from shared.wsgi import served

routes = Blueprint("topup", __name__)
_PAYMENTS = {
    "PAYMENT-SIGNATURE": "A payment by x402 version 2, base64.",
    "X-PAYMENT": "A payment by x402 version 1, base64.",
}
_RECEIPTS = {
    REQUIRED_HEADER: "With 402: the terms for version 2, base64.",
    "PAYMENT-RESPONSE": "With 201: the receipt for version 2, base64; for 1 X-PAYMENT-RESPONSE.",
}
_ERRORS = (
    "amount_above_ceiling",
    "amount_not_payable",
    "amount_too_low",
    "chain_unavailable",
    "claim_not_signed",
    "config_invalid",
    "facilitator_unavailable",
    "invalid_payment_header",
    "invalid_transaction_hash",
    "no_transfer",
    "payment_abandoned",
    "payment_replayed",
    "topups_busy",
    "transaction_failed",
    "transaction_not_found",
    "unknown_pack",
    "unsupported_network",
    "x402_not_configured",
    "account_not_found",
)
routes.before_request(guard("member", limits.MEMBER))


@routes.post("/topup")
@documented(
    {201: TopUp, 202: TopUp, 402: PaymentTerms},
    body=TopUpRequest,
    takes=_PAYMENTS,
    sends=_RECEIPTS,
    errors=_ERRORS,
)
def top_up() -> Response:
    """Buy credits by x402: ask for terms, pay them, or claim a transfer that was made before."""
    count(limits.TOPUP, "topup", caller().subject)
    body = parse_body(TopUpRequest)
    services().cashier.require_networks()
    payment = payment_in(
        payment_signature=request.headers.get("PAYMENT-SIGNATURE"),
        x_payment=request.headers.get("X-PAYMENT"),
    )
    if payment is not None:
        return _take(payment, body)
    if body.tx_hash is not None:
        return _claim(body)
    return _ask(_quote(body), "payment_required", "Pay one of these terms to be credited.")


def _take(payment: Payment, body: TopUpRequest) -> Response:
    """Settle *payment*; what it does not pay is asked for again, with the protocol's reason."""
    cashier, offer = services().cashier, None
    try:
        with cashier.database.reading() as tx:
            offer = find_quote(
                tx, account_id=caller().subject, payment=payment, quote_id=body.quote_id
            )
        receipt = settle(cashier, offer, payment)
    except Refused as refusal:
        is_gone = offer is None or refusal.code == "quote_expired"
        return _ask(_quote(body) if is_gone or offer is None else offer, refusal.code, str(refusal))
    if receipt.status == "pending":
        return _answer(receipt, {})
    name, value = response_header(payment, transaction=receipt.transaction)
    return _answer(receipt, {name: value})


def _claim(body: TopUpRequest) -> Response:
    pack = _pack(body)
    assert body.tx_hash is not None
    assert body.chain_id is not None
    assert body.sender is not None
    claim = TransferClaim(
        account_id=caller().subject,
        transaction=body.tx_hash,
        chain_id=body.chain_id,
        sender=body.sender,
        signature=body.signature,
        amount_micro=pack.price_micro if pack else body.amount_usd or 0,
        pack=pack,
    )
    return _answer(claim_transfer(services().cashier, claim), {})


def _quote(body: TopUpRequest) -> Offer:
    pack = _pack(body)
    amount_micro = pack.price_micro if pack else body.amount_usd or 0
    return make_quote(
        services().cashier,
        account_id=caller().subject,
        amount_micro=amount_micro,
        credit_micro=pack.credit_micro if pack else amount_micro,
        resource=request.base_url,
        pack_id=pack.id if pack else None,
    )


def _pack(body: TopUpRequest) -> Pack | None:
    if body.pack_id is None:
        return None
    with services().database.reading() as tx:
        return find_pack(load_policy(tx).packs, body.pack_id)


def _ask(offer: Offer, code: str, message: str) -> Response:
    """Answer 402 with the terms of *offer*: in the header for version 2, in the body for 1."""
    body = {
        **required_body(offer.terms, error=code),
        "code": code,
        "message": message,
        "quoteId": offer.id,
        "amountMicro": str(offer.amount_micro),
        "creditMicro": str(offer.credit_micro),
        "packId": offer.pack_id,
        "expiresAt": to_wire(offer.expires_at),
        "requestId": served().request_id,
    }
    asked = answer(body, 402)
    asked.headers[REQUIRED_HEADER] = required_header(offer.terms, error=code)
    return asked


def _answer(receipt: Receipt, headers: Mapping[str, str]) -> Response:
    is_settled = receipt.status == "settled"
    body: dict[str, Any] = {
        **receipt.payment,
        "settlement": "settled" if is_settled else "settlement_pending",
        "transaction": receipt.transaction or None,
        "amountUsdMicro": receipt.payment["creditedMicro"],
    }
    answered = answer(body, 201 if is_settled else 202)
    answered.headers.update(headers)
    return answered
