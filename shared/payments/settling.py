"""Settle an x402 authorization: reserve it → verify → settle → credit (contract 7).

The row comes first and keeps what may have been sent, so no authorization is settled for two
quotes, none is credited twice, and an outcome that nobody told is looked up by a worker.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import structlog
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError

from shared import jobs
from shared.clock import add_seconds
from shared.database import Tx, insert_rows, patiently, update_rows
from shared.errors import Conflict, Refused
from shared.ids import new_id
from shared.ledger.book import post
from shared.ledger.commands import Mint
from shared.ledger.terms import Terms as LedgerTerms
from shared.models.payments import CryptoPayment
from shared.models.x402 import Settlement
from shared.money import coin_to_micro, parse_coin, usd_text
from shared.operations import dlq
from shared.payments import crediting
from shared.payments.providers.outcomes import OutcomeUnknown
from shared.payments.quotes import Cashier, Offer
from shared.payments.recording import Credit, Payment, save_payments
from shared.payments.views import describe, find_row
from shared.payments.x402.facilitator import (
    NONCE_USED,
    FacilitatorAway,
    Rejected,
    Settled,
    SettlementPending,
)
from shared.payments.x402.terms import Terms
from shared.payments.x402.verify import verify
from shared.payments.x402.wire import Payment as SignedPayment

log = structlog.get_logger()
_PAYMENTS, _SETTLEMENTS = CryptoPayment.__table__, Settlement.__table__
_LEASE_SECONDS = 120  # verify and settle together take 43 s at the most
_FIRST_LOOK_SECONDS = 5


@dataclass(frozen=True)
class Receipt:
    """What became of a payment: settled with its credit, or still pending on the chain."""

    status: Literal["settled", "pending"]
    payment: dict[str, Any]
    transaction: str


def settle(cashier: Cashier, offer: Offer, payment: SignedPayment) -> Receipt:
    """Take *payment* for *offer* and return what became of it.

    Raises Refused with the protocol's code if it pays nothing, Conflict (``payment_replayed``) if
    the authorization or the quote is taken, FacilitatorAway if surely nothing was done. When the
    outcome is not known the receipt is pending, and a worker looks it up.
    """
    terms = _check(cashier, offer, payment)
    held = patiently(partial(_reserve, cashier, offer, payment, terms))
    try:
        outcome = _send(cashier, held, payment, terms)
    except (Refused, FacilitatorAway) as refusal:
        patiently(partial(give_up, cashier, held, refusal.code))
        raise
    if isinstance(outcome, Settled):
        return patiently(partial(credit, cashier, held, outcome.transaction))
    return patiently(partial(_leave_to_workers, cashier, held, outcome.transaction))


def _send(
    cashier: Cashier, held: jobs.Claim, payment: SignedPayment, terms: Terms
) -> Settled | SettlementPending:
    """Have the facilitator verify and settle. Raises Refused or FacilitatorAway: nothing moved."""
    facilitator = cashier.facilitators[terms.network]
    verdict = facilitator.verify(payment, terms)
    if isinstance(verdict, Rejected):
        raise Refused("The facilitator refused the payment.", code=verdict.reason)
    patiently(partial(_begin, cashier, held))
    try:
        outcome = facilitator.settle(payment, terms)
    except OutcomeUnknown as unknown:
        log.warning("settlement_outcome_unknown", settlement_id=held.ids[0], reason=str(unknown))
        return SettlementPending(None)
    if not isinstance(outcome, Rejected):
        return outcome
    if outcome.reason == NONCE_USED:  # by a try of ours whose answer was lost, or by another
        return SettlementPending(None)
    raise Refused("The payment was not settled.", code=outcome.reason)


def _check(cashier: Cashier, offer: Offer, payment: SignedPayment) -> Terms:
    terms = offer.on(payment.network)
    now = cashier.database.clock()
    if terms is None or payment.network not in cashier.facilitators:
        raise Refused("The quote was not offered on this network.", code="network_mismatch")
    if now >= offer.expires_at:
        raise Refused("The quote has expired; ask for another.", code="quote_expired")
    verify(payment, terms, now=now)
    return terms


def _reserve(cashier: Cashier, offer: Offer, payment: SignedPayment, terms: Terms) -> jobs.Claim:
    try:
        with cashier.database.transaction() as tx:
            return _insert(tx, offer, payment, terms)
    except IntegrityError as error:  # both indexes are unique while the other payment is open
        raise Conflict(
            "This authorization or this quote was used already.", code="payment_replayed"
        ) from error


def _insert(tx: Tx, offer: Offer, payment: SignedPayment, terms: Terms) -> jobs.Claim:
    payment_id, settlement_id = f"cp_{new_id(tx.now)}", new_id(tx.now)
    token = settlement_id[-16:]
    row = {
        "id": payment_id,
        "provider": "x402",
        "account_id": offer.account_id,
        "order_id": payment_id,
        "price_amount": parse_coin(usd_text(offer.amount_micro)),
        "price_currency": "usd",
        "pay_amount": parse_coin(usd_text(offer.amount_micro)),
        "pay_currency": "usdc",
        "pay_address": terms.pay_to,
        "pack_id": offer.pack_id,
        "pack_micro": offer.credit_micro if offer.pack_id else None,
        "payer": payment.payer,
        "status": "creating",
        "expires_at": offer.expires_at,
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, _PAYMENTS, [row])
    job = {
        "id": settlement_id,
        "payment_id": payment_id,
        "quote_id": offer.id,
        "network": terms.network,
        "asset": terms.asset.lower(),
        "payer": payment.payer,
        "nonce": payment.nonce,
        "value": str(payment.value),
        "valid_before": payment.valid_before,
        "version": payment.version,
        "payload": payment.raw,
        "terms": json.dumps(asdict(terms)),
        "phase": "reserved",
        "lease_token": token,
        "lease_until": add_seconds(tx.now, _LEASE_SECONDS),
        "due_at": tx.now,
        "created_at": tx.now,
    }
    insert_rows(tx, _SETTLEMENTS, [job])
    return jobs.Claim(token, [settlement_id])


def _begin(cashier: Cashier, held: jobs.Claim) -> None:
    """Note, before it is done, that the authorization may be sent. Raises Conflict if too late."""
    with cashier.database.transaction() as tx:
        if not tx.run(_BEGIN, held_id=held.ids[0], held_token=held.token):
            raise Conflict("The payment took too long; pay again.", code="payment_abandoned")


def give_up(cashier: Cashier, held: jobs.Claim, reason: str) -> None:
    """End a settlement that surely moved nothing: its authorization and quote are free again."""
    with cashier.database.transaction() as tx:
        for row in jobs.held_rows(tx, Settlement, held, held.ids):
            refuse(tx, row, reason)


def refuse(tx: Tx, row: Any, reason: str) -> None:
    """Note that nothing was paid by the settlement *row*."""
    ended = jobs.finished(tx.now, phase="refused", is_open=False, last_error=reason)
    tx.run(update(Settlement).where(Settlement.id == row.id).values(**ended))
    failed = {
        "id": row.payment_id,
        "provider_payment_id": f"refused-{row.payment_id}",
        "status": "failed",
        "review_reason": reason,
        "updated_at": tx.now,
    }
    update_rows(tx, _PAYMENTS, [failed])


def _leave_to_workers(cashier: Cashier, held: jobs.Claim, transaction: str | None) -> Receipt:
    with cashier.database.transaction() as tx:
        [row] = jobs.held_rows(tx, Settlement, held, held.ids)
        known = {"transaction_hash": transaction}
        tx.run(update(Settlement).where(Settlement.id == row.id).values(**known))
        jobs.release(tx, Settlement, row.id, after_seconds=_FIRST_LOOK_SECONDS)
        return Receipt("pending", describe(tx, find_row(tx, row.payment_id)), transaction or "")


def credit(cashier: Cashier, held: jobs.Claim, transaction: str) -> Receipt:
    """Credit a settlement whose money has come in *transaction*; all in one transaction (W33).

    Raises Conflict (``payment_replayed``) if the transaction was credited as another payment.
    """
    terms = cashier.terms.current()
    with cashier.database.transaction() as tx:
        rows = jobs.held_rows(tx, Settlement, held, held.ids)
        if not rows:  # a worker has taken it over, and will find the same
            raise Conflict("The payment is being settled by a worker.", code="payment_replayed")
        [row] = rows
        payment = tx.first(_PAYMENT, id=row.payment_id)
        assert payment is not None
        other = tx.scalar(_BY_TRANSACTION, hash=transaction, id=payment.id)
        if other is None:
            _mint(tx, row, payment, transaction, terms)
        else:
            refuse(tx, row, f"The transaction was credited as payment {other}.")
        shown = describe(tx, find_row(tx, payment.id))
    if other is not None:
        raise Conflict(
            "The transaction was credited already.",
            code="payment_replayed",
            details={"paymentId": other},
        )
    return Receipt("settled", shown, transaction)


def _mint(tx: Tx, row: Any, found: Any, transaction: str, terms: LedgerTerms) -> None:
    payment = Payment(found._asdict())
    command = Mint(
        account_id=payment["account_id"],
        lot_id=new_id(tx.now),
        amount_micro=payment["pack_micro"] or coin_to_micro(payment["price_amount"]),
        source_type="deposit",
        source_id=crediting.source_id("x402", transaction),
        description=f"x402 payment {transaction}",
        is_received=True,
    )
    [outcome] = post(tx, [command], terms)
    payment.changes = {
        "provider_payment_id": transaction,
        "status": "finished",
        "actually_paid": payment["pay_amount"],
        "finished_at": tx.now,
        "updated_at": tx.now,
    }
    if outcome.error is None:
        basis = "pack" if payment["pack_id"] else "transfer"
        payment.credits.append(Credit(command.lot_id, command.amount_micro, basis, is_new=True))
        payment.changes |= {"lot_id": command.lot_id, "amount_usd_micro": command.amount_micro}
    else:
        reason = outcome.error.message
        payment.changes |= {"status": "manual_review", "review_reason": reason}
        facts = {"paymentId": payment["id"], "transaction": transaction}
        dlq.enter(
            tx, "deposit", subject_id=transaction, payload=facts, error=reason, needs_person=True
        )
    save_payments(tx, [payment])
    ended = jobs.finished(tx.now, phase="settled", transaction_hash=transaction)
    tx.run(update(Settlement).where(Settlement.id == row.id).values(**ended))


_BEGIN = (
    update(Settlement)
    .where(
        Settlement.id == text(":held_id"),
        Settlement.lease_token == text(":held_token"),
        Settlement.phase == "reserved",
        Settlement.state == "new",
    )
    .values(phase="settling")
)
_PAYMENT = select(*_PAYMENTS.c).where(CryptoPayment.id == text(":id")).with_for_update()
_BY_TRANSACTION = select(CryptoPayment.id).where(
    CryptoPayment.provider == "x402",
    CryptoPayment.provider_payment_id == text(":hash"),
    CryptoPayment.id != text(":id"),
)
