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
_LEASE_SECONDS = 90  # verify and settle together take 43 s at the most
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
    the authorization or the quote is taken, FacilitatorAway if surely nothing was done, Unavailable
    (``topups_busy``) if too many wait. When the outcome is not known the receipt is pending, and a
    worker looks it up.
    """
    terms = _check(cashier, offer, payment)
    with cashier.desk():
        held = patiently(partial(_reserve, cashier, offer, payment, terms))
        try:
            outcome = _send(cashier, held, payment, terms)
        except (Refused, FacilitatorAway) as refusal:
            patiently(partial(give_up, cashier, held, refusal.code))
            raise
    if isinstance(outcome, Settled):
        return patiently(partial(credit, cashier, held, outcome.transaction))
    return patiently(partial(leave_to_workers, cashier, held, outcome.transaction))


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
    dlq.complete(tx, "deposit", subject_id=row.payment_id)


def leave_to_workers(cashier: Cashier, held: jobs.Claim, transaction: str | None) -> Receipt:
    """Let a worker find out what became of a settlement, some seconds from now."""
    with cashier.database.transaction() as tx:
        for row in jobs.held_rows(tx, Settlement, held, held.ids):
            known = {"transaction_hash": transaction}
            tx.run(update(Settlement).where(Settlement.id == row.id).values(**known))
            jobs.release(tx, Settlement, row.id, after_seconds=_FIRST_LOOK_SECONDS)
        return _receipt(tx, held.ids[0])


def _receipt(tx: Tx, settlement_id: str) -> Receipt:
    """Return what is known by now of a settlement that somebody else may have gone on with."""
    row = tx.first(_BY_ID, id=settlement_id)
    assert row is not None
    status: Literal["settled", "pending"] = "settled" if row.phase == "settled" else "pending"
    shown = describe(tx, find_row(tx, row.payment_id))
    return Receipt(status, shown, row.transaction_hash or "")


def credit(cashier: Cashier, held: jobs.Claim, transaction: str) -> Receipt:
    """Credit a settlement whose money has come in *transaction*; all in one transaction (W33).

    Raises Conflict (``payment_replayed``) if the payer's transfer in it was credited as another
    payment. Whoever holds the settlement no longer is told how far it has come.
    """
    terms = cashier.terms.current()
    with cashier.database.transaction() as tx:
        rows = jobs.held_rows(tx, Settlement, held, held.ids)
        if not rows:  # it was done by a try whose answer was lost, or a worker has taken it over
            _note_if_given_up(tx, held.ids[0], transaction)
            return _receipt(tx, held.ids[0])
        [row] = rows
        payment = tx.first(_PAYMENT, id=row.payment_id)
        assert payment is not None
        name, other = payment.provider_payment_id, None
        if row.phase != "confirming":  # a claim was named when it was recorded
            name, other = crediting.name_of_transfer(tx, transaction=transaction, payer=row.payer)
        if other is None:
            _mint(tx, row, payment, terms, transaction=transaction, name=name)
            return _receipt(tx, row.id)
        reason = f"The transaction was credited as payment {other.id}."
        if tx.scalar(_IS_CLAIM, id=other.id):
            refuse(tx, row, reason)
        else:  # two authorizations in one transaction: both may have been paid
            ask_a_person(tx, row, reason)
    raise Conflict(
        "The transaction was credited already.",
        code="payment_replayed",
        details={"paymentId": other.id} if other.account_id == payment.account_id else None,
    )


def _note_if_given_up(tx: Tx, settlement_id: str, transaction: str) -> None:
    """Tell a person of money that came in *transaction* after its settlement was given up."""
    row = tx.first(_BY_ID, id=settlement_id)
    assert row is not None
    _, known = crediting.name_of_transfer(tx, transaction=transaction, payer=row.payer)
    if row.phase == "refused" and known is None:
        facts = {"paymentId": row.payment_id, "transaction": transaction, "payer": row.payer}
        reason = "The settlement was given up, and then said to have come."
        dlq.enter(
            tx, "deposit", subject_id=row.payment_id, payload=facts, error=reason, needs_person=True
        )


def ask_a_person(tx: Tx, row: Any, reason: str) -> None:
    """Leave the settlement *row* to a person: no rule can tell what it is worth."""
    facts = {"paymentId": row.payment_id, "network": row.network, "payer": row.payer}
    dlq.enter(
        tx, "deposit", subject_id=row.payment_id, payload=facts, error=reason, needs_person=True
    )
    parked = {"state": "parked", "lease_until": None, "lease_token": None, "last_error": reason}
    tx.run(update(Settlement).where(Settlement.id == row.id).values(**parked))
    payment = find_row(tx, row.payment_id)
    known = {
        "id": payment.id,
        "provider_payment_id": payment.provider_payment_id or f"unknown-{payment.id}",
        "status": "manual_review",
        "review_reason": reason,
        "updated_at": tx.now,
    }
    update_rows(tx, _PAYMENTS, [known])


def _mint(tx: Tx, row: Any, found: Any, terms: LedgerTerms, *, transaction: str, name: str) -> None:
    payment = Payment(found._asdict())
    command = Mint(
        account_id=payment["account_id"],
        lot_id=new_id(tx.now),
        amount_micro=payment["pack_micro"] or coin_to_micro(payment["price_amount"]),
        source_type="deposit",
        source_id=crediting.source_id("x402", name),
        description=f"x402 payment {transaction}",
        is_received=True,
    )
    [outcome] = post(tx, [command], terms)
    payment.changes = {
        "provider_payment_id": name,
        "status": "finished",
        "actually_paid": payment["pay_amount"],
        "finished_at": tx.now,
        "updated_at": tx.now,
    }
    if outcome.error is None:
        basis = "pack" if payment["pack_id"] else "transfer"
        payment.credits.append(Credit(command.lot_id, command.amount_micro, basis, is_new=True))
        payment.changes |= {"lot_id": command.lot_id, "amount_usd_micro": command.amount_micro}
        payment.changes |= {"review_reason": None}
        dlq.complete(tx, "deposit", subject_id=payment["id"])
    else:
        reason = outcome.error.message
        payment.changes |= {"status": "manual_review", "review_reason": reason}
        facts = {"paymentId": payment["id"], "transaction": transaction}
        dlq.enter(
            tx, "deposit", subject_id=payment["id"], payload=facts, error=reason, needs_person=True
        )
    save_payments(tx, [payment])
    ended = jobs.finished(tx.now, phase="settled", transaction_hash=transaction)
    tx.run(update(Settlement).where(Settlement.id == row.id).values(**ended))


_BEGIN = (
    update(Settlement)
    .where(
        Settlement.id == text(":held_id"),
        Settlement.lease_token == text(":held_token"),
        # Settling by a try of ours whose commit was not answered: the token is still our own.
        Settlement.phase.in_(("reserved", "settling")),
        Settlement.state == "new",
    )
    .values(phase="settling")
)
_PAYMENT = select(*_PAYMENTS.c).where(CryptoPayment.id == text(":id")).with_for_update()
_BY_ID = select(*_SETTLEMENTS.c).where(Settlement.id == text(":id"))
_IS_CLAIM = select(Settlement.quote_id.is_(None)).where(Settlement.payment_id == text(":id"))
