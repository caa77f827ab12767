"""The rules of the ledger: pure, without I/O, clock or SQL. One function decides one command.

A refusal changes nothing. What time alone has done (holds and lots that ran out) is settled
first, by :func:`pass_time`, so no answer depends on when a sweep last ran.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from shared.clock import add_seconds
from shared.compact import compact
from shared.errors import ArrakisError, Conflict, Invalid, NotFound
from shared.ledger.checks import (
    account_of,
    check_amount,
    check_new,
    owned_reservation,
    reservation_of,
)
from shared.ledger.commands import (
    Adjust,
    Command,
    ExpireHold,
    ExpireLot,
    Extend,
    Finalize,
    Mint,
    Outcome,
    Refund,
    Release,
    Reserve,
    Revoke,
)
from shared.ledger.lot_rules import adjust, mint, refund, revoke
from shared.ledger.postings import (
    add_entry,
    add_revenue,
    charge,
    close_lot,
    cost_rule,
    give_back,
    hold,
    in_order,
    is_sound,
)
from shared.ledger.state import (
    AccountState,
    Book,
    KnownAnswer,
    ReservationState,
    describe_finalize,
    describe_hold,
)
from shared.ledger.terms import Terms


def apply(book: Book, command: Command, terms: Terms) -> Outcome:
    """Decide *command* on *book* and change the book accordingly; never raises for a refusal."""
    try:
        return _DECISIONS[type(command)](book, command, terms)
    except ArrakisError as refusal:
        return Outcome(error=refusal)


def pass_time(book: Book, reservations: Iterable[ReservationState]) -> None:
    """End the holds and lots on *book* whose time is over (contract 4.4, 4.5; W13, W14)."""
    for reservation in reservations:
        is_due = reservation.status == "pending" and reservation.expires_at <= book.now
        if is_due and is_sound(reservation):
            give_back(book, reservation, "The hold expired.")
            reservation.status = "expired"
            reservation.is_changed = True
    due = [lot for lot in book.lots.values() if lot.is_due(book.now) or lot.refunded_at]
    for lot in sorted(due, key=lambda lot: lot.id):
        close_lot(book, lot)


def reserve(book: Book, command: Reserve, terms: Terms) -> dict[str, Any]:
    """Hold credits in redemption order (behaviour 5.3; modes: contract 4.2).

    Raises Refused (``insufficient_credits``) in live mode if the lots hold less, and the
    command's own refusal if its amount could not be estimated.
    """
    account = account_of(book, command.account_id)
    if command.refusal is not None:
        raise command.refusal
    check_amount(command.amount_micro, terms, field="estimatedCostMicro")
    check_new(command.reservation_id, book.reservations)
    reservation = ReservationState(
        id=command.reservation_id,
        account_id=account.id,
        pool_id=command.pool_id,
        total_reserved_micro=0,
        overdraft_micro=0,
        status="pending",
        billing_mode=terms.mode,
        expires_at=add_seconds(book.now, command.ttl_seconds or terms.reserve_ttl_seconds),
        created_at=book.now,
        idempotency_key=command.idempotency_key,
        is_new=True,
    )
    plan = hold(
        book,
        reservation,
        command.amount_micro,
        key=command.idempotency_key,
        description=command.description,
        details=command.details,
    )
    book.reservations[reservation.id] = reservation
    return describe_hold(account, reservation, plan)


def extend(book: Book, command: Extend, terms: Terms) -> dict[str, Any]:
    """Hold more on a pending hold, in the mode that it was made in (contract 4, POST /extend).

    Raises Conflict (``reservation_not_pending``) once it has ended, Refused as a reserve does.
    """
    reservation = owned_reservation(book, command.reservation_id, command.account_id)
    if reservation.status != "pending":
        raise Conflict(f"The reservation is {reservation.status}.", code="reservation_not_pending")
    check_amount(command.additional_micro, terms, field="additionalMicro")
    check_amount(
        reservation.total_reserved_micro + command.additional_micro, terms, field="reservedMicro"
    )
    plan = hold(book, reservation, command.additional_micro, key=command.idempotency_key)
    if command.ttl_seconds is not None:
        reservation.expires_at = max(
            reservation.expires_at, add_seconds(book.now, command.ttl_seconds)
        )
    reservation.is_changed = True
    if reservation.billing_mode != "shadow":
        plan = [(a.lot, a.reserved_micro) for a in in_order(reservation)]
    return describe_hold(book.accounts[reservation.account_id], reservation, plan)


def finalize(book: Book, command: Finalize, terms: Terms) -> Outcome:
    """Settle a hold at its actual cost (behaviour 5.4; contract 4.1, 4.2, 4.4, 4.5).

    The same cost again gets the same answer; another cost is a Conflict. Raises Forbidden for
    a foreign account, NotFound after the grace for late finalizes, Invalid for a released hold.
    """
    reservation = owned_reservation(book, command.reservation_id, command.account_id)
    account = book.accounts[reservation.account_id]
    _check_key(book, command, account)
    if reservation.status == "finalized":
        if reservation.requested_cost_micro != command.actual_cost_micro:
            raise Conflict(
                "The reservation was finalized with another cost.",
                code="idempotency_conflict",
                details={"finalizedCostMicro": str(reservation.requested_cost_micro)},
            )
        answer = describe_finalize(reservation)
        _remember_key(book, command, account, answer)
        return Outcome(answer, is_replay=True)
    if reservation.status == "released":
        raise Invalid("The reservation was released.", code="reservation_released")
    check_amount(command.actual_cost_micro, terms, field="actualCostMicro", lowest=0)
    is_late = reservation.status == "expired"
    grace_ends = add_seconds(reservation.expires_at, terms.late_finalize_grace_seconds)
    if is_late and book.now >= grace_ends:
        raise NotFound(
            "The reservation expired too long ago to be settled.", code="reservation_expired"
        )
    if not is_late:
        give_back(book, reservation, None)
    _settle(book, reservation, command, is_late=is_late)
    add_revenue(book, reservation, terms)
    for allocation in in_order(reservation):
        close_lot(book, allocation.lot)  # a hold pins its lots; now what is left of them goes
    answer = describe_finalize(reservation)
    _remember_key(book, command, account, answer)
    return Outcome(answer)


def release(book: Book, command: Release, _terms: Terms) -> Outcome:
    """Give a hold back; again the same on repeat (contract 4). Raises Conflict once finalized."""
    reservation = owned_reservation(book, command.reservation_id, command.account_id)
    if reservation.status == "finalized":
        raise Conflict("The reservation was finalized.", code="reservation_finalized")
    is_replay = reservation.status == "released"
    if reservation.status == "pending":
        give_back(book, reservation, command.reason)
        for allocation in in_order(reservation):
            close_lot(book, allocation.lot)
    if not is_replay:  # an expired hold has given back already, and now cannot be settled late
        reservation.status = "released"
        reservation.finalized_at = book.now
        reservation.is_changed = True
    answer = {
        "reservationId": reservation.id,
        "releasedMicro": str(reservation.total_reserved_micro),
    }
    return Outcome(answer, is_replay=is_replay)


def _once(
    decide: Callable[[Book, Any, Terms], dict[str, Any]],
) -> Callable[[Book, Any, Terms], Outcome]:
    """Decide a command unless its key was answered before: then compare and repeat the answer."""

    def decide_once(book: Book, command: Any, terms: Terms) -> Outcome:
        if isinstance(command, Extend):
            held = owned_reservation(book, command.reservation_id, command.account_id)
            account_id = held.account_id
        else:
            account_id = account_of(book, command.account_id).id
        known = book.answers.get((account_id, command.operation, command.key))
        if known is not None:
            _compare(known.fingerprint, command.fingerprint)
            return Outcome(known.answer, is_replay=True)
        answer = decide(book, command, terms)
        _remember(book, account_id, command, command.key, answer)
        return Outcome(answer)

    return decide_once


def _remember(book: Book, account_id: str, command: Any, key: str, answer: dict[str, Any]) -> None:
    fingerprint = command.fingerprint
    book.answers[(account_id, command.operation, key)] = KnownAnswer(fingerprint, answer)
    book.new_answers.append(
        {
            "idempotency_key": key,
            "account_id": account_id,
            "operation": command.operation,
            "fingerprint": fingerprint,
            "answer": compact(answer),
            "created_at": book.now,
        }
    )


def _compare(earlier: str, now: str) -> None:
    if earlier != now:
        raise Conflict(
            "This idempotency key was used for a request with other content.",
            code="idempotency_conflict",
        )


def _remember_key(
    book: Book, command: Finalize, account: AccountState, answer: dict[str, Any]
) -> None:
    """Bind the caller's key to this content, also when it came with a repeat only."""
    key = command.idempotency_key
    if key is not None and (account.id, command.operation, key) not in book.answers:
        _remember(book, account.id, command, key, answer)


def _check_key(book: Book, command: Finalize, account: AccountState) -> None:
    if command.idempotency_key is not None:
        known = book.answers.get((account.id, command.operation, command.idempotency_key))
        if known is not None:
            _compare(known.fingerprint, command.fingerprint)


def _settle(book: Book, reservation: ReservationState, command: Finalize, *, is_late: bool) -> None:
    """Charge what the mode allows, write the entry, and keep the result on the reservation."""
    account = book.accounts[reservation.account_id]
    is_shadow = reservation.billing_mode == "shadow"
    charged, overrun, uncharged = cost_rule(
        reservation.billing_mode,
        reserved_micro=reservation.total_reserved_micro,
        actual_micro=command.actual_cost_micro,
    )
    pre = account.view(reservation.pool_id)
    if not is_shadow:
        reservation.debt_micro = charge(book, reservation, charged)
    reservation.status = "finalized"
    reservation.finalized_at = book.now
    reservation.is_changed = True
    reservation.is_late = is_late
    reservation.requested_cost_micro = command.actual_cost_micro
    reservation.finalized_micro = charged
    reservation.overrun_micro = overrun
    reservation.uncharged_micro = uncharged
    reservation.released_micro = max(0, reservation.total_reserved_micro - charged)
    facts = {
        "overrunMicro": overrun,
        "unchargedMicro": uncharged,
        "debtMicro": reservation.debt_micro,
    }
    add_entry(
        book,
        account,
        reservation.pool_id,
        "shadow_finalize" if is_shadow else "finalize",
        pre,
        shadow_micro=charged if is_shadow else None,
        reservation_id=reservation.id,
        key=command.idempotency_key,
        details=_facts(command.details, facts),
    )


def _facts(told: str | None, facts: dict[str, int]) -> dict[str, Any] | None:
    """Join what the caller told with our figures; ours win."""
    ours = {name: str(value) for name, value in facts.items() if value}
    return {**(json.loads(told) if told else {}), **ours} or None


def _expired_hold(book: Book, command: ExpireHold, _terms: Terms) -> Outcome:
    """Report a hold after :func:`pass_time` has ended it if it was due."""
    status = reservation_of(book, command.reservation_id).status
    return Outcome({"reservationId": command.reservation_id, "status": status})


def _expired_lot(_book: Book, command: ExpireLot, _terms: Terms) -> Outcome:
    """Report a lot after :func:`pass_time` has taken what was left if it was due."""
    return Outcome({"lotId": command.lot_id})


_DECISIONS: dict[type[Command], Callable[[Book, Any, Terms], Outcome]] = {
    Mint: _once(mint),
    Reserve: _once(reserve),
    Extend: _once(extend),
    Refund: _once(refund),
    Revoke: _once(revoke),
    Adjust: _once(adjust),
    Finalize: finalize,
    Release: release,
    ExpireHold: _expired_hold,
    ExpireLot: _expired_lot,
}
