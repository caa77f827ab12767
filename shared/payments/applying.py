"""What stored notices do to payments and their credits, decided for a whole batch.

Changes are noted on the payments; :mod:`shared.payments.recording` writes them. Payments, credits,
lots and the ends of the notices become true in one transaction or not at all (W33).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.database import Tx, insert_rows
from shared.errors import ArrakisError
from shared.ids import new_id
from shared.ledger.commands import Mint, Outcome, Refund
from shared.models.payments import CryptoPayment
from shared.money import CoinAmount
from shared.payments import crediting
from shared.payments.policy import Arrival, CreditPolicy, Worth, worth
from shared.payments.polling import next_look
from shared.payments.recording import Credit, Payment, Step, coin_of, load_payments, text_of
from shared.payments.states import MONEY_STATUSES, ON_THE_WAY, Move, decide

_TABLE = CryptoPayment.__table__


class RefundFailedError(Exception):
    """A clawback was refused: nothing of its notice may be written, it is tried again (W29)."""

    def __init__(self, event_id: str, refusal: ArrakisError) -> None:
        super().__init__(refusal.message)
        self.event_id = event_id


@dataclass(frozen=True)
class Consulted:
    """What the provider said when it was asked about a notice; ``notice`` replaces it."""

    notice: Mapping[str, Any] | None = None
    usd_rate: CoinAmount | None = None
    doubt: str | None = None


def plan(
    tx: Tx, events: Sequence[Any], policy: CreditPolicy, consulted: Mapping[str, Consulted]
) -> list[Step]:
    """Decide what each of *events* does; changes are noted on the payments, nothing is written."""
    notices = {
        event.id: (consulted.get(event.id) or _NOT_ASKED).notice or read_notice(event)
        for event in events
    }
    payments = load_payments(tx, events, notices)
    steps = []
    for event in events:
        notice, told = notices[event.id], consulted.get(event.id) or _NOT_ASKED
        if event.provider_payment_id is None:
            steps.append(Step(event, "ignored"))  # a withdrawal or custody notice (protocols 1.6)
            continue
        payment = payments.get(event.provider_payment_id) or payments.get(
            text_of(notice, "order_id")
        )
        parent_id = text_of(notice, "parent_payment_id")
        # The order is the parent's, and the parent's own number may not have reached us yet.
        if parent_id and (payment is None or payment["provider_payment_id"] in (None, parent_id)):
            parent = payments.get(parent_id) or payment
            payment = _repeated_deposit(tx, event, notice, parent)
            if payment is not None:
                payments[event.provider_payment_id] = payment
        if payment is None:
            letter = ("webhook", "No payment of ours has this id.")
            steps.append(Step(event, "unknown_payment", dead_letter=letter, needs_person=False))
        elif told.doubt is not None:
            payment.changes |= {"review_reason": told.doubt, "updated_at": tx.now}
            letter = ("webhook", told.doubt)
            steps.append(Step(event, Move.REVIEW.value, payment, dead_letter=letter))
        else:
            decided = _step(
                tx, event, payment, notice=notice, policy=policy, usd_rate=told.usd_rate
            )
            steps.append(decided)
    return steps


def read_notice(event: Any) -> Mapping[str, Any]:
    """Return what *event* told. Raises ValueError if it was spoilt in the database."""
    try:
        notice = json.loads(event.notice)
    except RecursionError as error:
        raise ValueError("the notice is nested too deeply") from error
    if not isinstance(notice, dict):
        raise ValueError("the notice is not an object")  # noqa: TRY004  callers catch one kind
    return notice


def _step(
    tx: Tx,
    event: Any,
    payment: Payment,
    *,
    notice: Mapping[str, Any],
    policy: CreditPolicy,
    usd_rate: CoinAmount | None,
) -> Step:
    """Decide what *event* does to *payment*, and note the changes on it."""
    if payment["provider_payment_id"] is None:  # the notice was faster than the provider's answer
        payment.changes["provider_payment_id"] = event.provider_payment_id
    elif payment["provider_payment_id"] != event.provider_payment_id:
        reason = "The order is ours, but under another payment id."
        return Step(event, Move.REVIEW.value, payment, dead_letter=("webhook", reason))
    status = text_of(notice, "payment_status") or event.status
    move = _move(event, payment, status, notice)
    if move is Move.REVIEW:
        reason = f"A notice of {status!r} reached a payment in {payment['status']!r}."
        payment.changes |= {"review_reason": reason, "updated_at": tx.now}
        return Step(event, move.value, payment, dead_letter=("webhook", reason))
    arrival = arrival_of(notice, status, payment, usd_rate) if status in MONEY_STATUSES else None
    needed = _still_to_credit(payment, arrival, policy) if arrival else None
    if move is not Move.APPLY and not (move is Move.DUPLICATE and isinstance(needed, Worth)):
        return Step(event, move.value, payment)
    _note_status(payment, status, event, notice, tx)
    step = Step(event, Move.APPLY.value, payment)
    if isinstance(needed, Worth):
        payment.changes["review_reason"] = None
        step.commands.append(_mint_of(tx, payment, needed))
    elif isinstance(needed, str):
        _review(step, payment, needed)
    elif arrival is not None:
        step.outcome = "already_credited"
    elif status == "refunded":
        step.commands += [_refund_of(payment, credit) for credit in payment.credits]
    return step


def _move(event: Any, payment: Payment, status: str, notice: Mapping[str, Any]) -> Move:
    """Decide by the states, and by what they cannot tell: which notices are older than they are."""
    move = decide(payment["status"], status)
    if move is Move.REVIEW and event.outcome is not None:
        return Move.STALE  # it was worked off once, and is replayed after what came later
    if move is Move.APPLY and _is_before_the_part(payment, status, notice):
        return Move.STALE
    return move


def _is_before_the_part(payment: Payment, status: str, notice: Mapping[str, Any]) -> bool:
    """Tell whether *notice* is of the way to what is partly paid now, not of the way to the rest.

    Only an amount tells the two apart: the rest brings more than has arrived already.
    """
    if payment["status"] != "partially_paid" or status not in ON_THE_WAY:
        return False
    return (coin_of(notice, "actually_paid") or 0) <= (payment["actually_paid"] or 0)


def _note_status(
    payment: Payment, status: str, event: Any, notice: Mapping[str, Any], tx: Tx
) -> None:
    payment.changes |= {
        "status": status,
        "actually_paid": coin_of(notice, "actually_paid"),
        "outcome_amount": coin_of(notice, "outcome_amount"),
        "outcome_currency": text_of(notice, "outcome_currency") or None,
        "raw_payload": event.notice,
        "updated_at": tx.now,
        "next_poll_at": next_look(status, created_at=payment["created_at"], now=tx.now),
    }
    if status == "finished":
        payment.changes |= {"finished_at": tx.now, "review_reason": None}


def arrival_of(
    notice: Mapping[str, Any], status: str, row: Any, usd_rate: CoinAmount | None = None
) -> Arrival:
    """Return what *notice* tells of money for the payment *row* (a mapping of its columns)."""
    is_own = row["parent_payment_id"] is None and row["price_currency"].lower() == "usd"
    return Arrival(
        status=status,
        is_own_price=is_own,
        price_amount=row["price_amount"],
        pack_micro=row["pack_micro"] if is_own else None,
        pay_amount=coin_of(notice, "pay_amount") or row["pay_amount"],
        actually_paid=coin_of(notice, "actually_paid"),
        outcome_amount=coin_of(notice, "outcome_amount"),
        outcome_currency=text_of(notice, "outcome_currency").lower() or None,
        usd_rate=usd_rate,
    )


def _still_to_credit(
    payment: Payment, arrival: Arrival, policy: CreditPolicy
) -> Worth | str | None:
    """Return what is still to be credited, None if nothing is, or why a person must decide."""
    if any(credit.basis == "admin" for credit in payment.credits):
        return None  # an operator has decided what this payment is worth (runbook 6)
    target = worth(arrival, policy)
    if target is None and arrival.status == "partially_paid":
        return "Less arrived than was asked for."
    if target is None:
        return "No rule says what it is worth."
    if payment["account_id"] is None:
        return "No account is known."
    missing = target.amount_micro - payment.credited_micro
    return Worth(missing, target.basis, target.rate) if missing > 0 else None


def _mint_of(tx: Tx, payment: Payment, needed: Worth) -> Mint:
    """Plan the next credit of *payment*: each has a source of its own, unique for ever."""
    number = payment["provider_payment_id"]
    source = crediting.source_id(payment["provider"], number)
    credit = Credit(new_id(tx.now), needed.amount_micro, needed.basis, needed.rate, is_new=True)
    command = Mint(
        account_id=payment["account_id"],
        lot_id=credit.lot_id,
        amount_micro=credit.amount_micro,
        source_type="deposit",
        source_id=f"{source}+{len(payment.credits)}" if payment.credits else source,
        description=f"NOWPayments payment {number}",
        is_received=True,
    )
    payment.credits.append(credit)
    return command


def _refund_of(payment: Payment, credit: Credit) -> Refund:
    return Refund(
        account_id=payment["account_id"],
        lot_id=credit.lot_id,
        payment_id=payment["id"],
        description=f"NOWPayments refunded payment {payment['provider_payment_id']}",
    )


def take_outcomes(step: Step, outcomes: Sequence[Outcome]) -> None:
    """Note what became of a step's commands; what is refused is kept for a person, never dropped.

    Raises RefundFailedError if a clawback was refused.
    """
    assert step.payment is not None
    for command, outcome in zip(step.commands, outcomes, strict=True):
        error = outcome.error
        if isinstance(command, Refund):
            if error is not None:
                raise RefundFailedError(step.event.id, error)
            step.clawbacks.append(outcome.unwrap())
            continue
        if error is not None:
            planned = next(c for c in step.payment.credits if c.lot_id == command.lot_id)
            step.payment.credits.remove(planned)
            if error.code == "already_credited":
                # An operator minted for this payment before its notice came (runbook 6).
                lot_id, micro = error.details["lotId"], int(error.details["amountMicro"])
                step.payment.credits.append(Credit(lot_id, micro, "admin", is_new=True))
                step.outcome = "already_credited"
            else:
                _review(step, step.payment, error.message)
                continue
        step.payment.changes |= {
            "lot_id": step.payment.credits[0].lot_id,
            "amount_usd_micro": step.payment.credited_micro,
        }


def _review(step: Step, payment: Payment, reason: str) -> None:
    """Leave to a person what *payment* is worth; a partial one may still finish by itself."""
    if payment["status"] == "finished":
        payment.changes["status"] = "manual_review"
    payment.changes["review_reason"] = reason
    step.outcome = Move.REVIEW.value
    step.dead_letter = ("deposit", reason)


def _repeated_deposit(
    tx: Tx, event: Any, notice: Mapping[str, Any], parent: Payment | None
) -> Payment | None:
    """Keep a second deposit to a payment's address as a payment of its own (protocols 1.6)."""
    if parent is None:
        return None
    row = dict.fromkeys((column.name for column in _TABLE.c), None) | {
        "id": f"cp_{new_id(tx.now)}",
        "provider": event.provider,
        "provider_payment_id": event.provider_payment_id,
        "parent_payment_id": text_of(notice, "parent_payment_id"),
        "account_id": parent["account_id"],
        "community_id": parent["community_id"],
        "price_amount": parent["price_amount"],
        "price_currency": parent["price_currency"],
        "pay_currency": text_of(notice, "pay_currency") or None,
        "pay_address": text_of(notice, "pay_address") or None,
        "status": "waiting",
        "next_poll_at": next_look("waiting", created_at=tx.now, now=tx.now),
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, _TABLE, [row])
    return Payment(row)


_NOT_ASKED = Consulted()
