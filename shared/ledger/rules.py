"""The rules of the ledger: pure, without I/O, clock or SQL. One function decides one command.

A refusal changes nothing. What time alone has done (holds and lots that ran out) is settled
first, by :func:`pass_time`, so no answer depends on when a sweep last ran.
"""

import json
from collections.abc import Callable, Container, Iterable
from typing import Any

from shared.clock import add_seconds, to_wire
from shared.errors import ArrakisError, Conflict, Forbidden, Invalid, NotFound, Refused
from shared.ledger.commands import (
    Command,
    ExpireHold,
    ExpireLot,
    Finalize,
    Mint,
    Outcome,
    Release,
    Reserve,
)
from shared.ledger.postings import (
    add_entry,
    add_revenue,
    charge,
    cost_rule,
    expire_lot,
    give_back,
    pay_debts,
    take,
)
from shared.ledger.state import (
    AccountState,
    Allocation,
    Book,
    KnownAnswer,
    LotState,
    ReservationState,
    describe_finalize,
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
        if reservation.status == "pending" and reservation.expires_at <= book.now:
            give_back(book, reservation, "The hold expired.")
            reservation.status = "expired"
            reservation.is_changed = True
    for lot in list(book.lots.values()):
        expire_lot(book, lot)


def mint(book: Book, command: Mint, terms: Terms) -> dict[str, Any]:
    """Create a lot; open debts are paid from it, oldest first (behaviour 5.2, contract 4.3)."""
    account = _account(book, command.account_id)
    _check_amount(command.amount_micro, terms, field="amountMicro")
    if command.source_id is not None:
        earlier = book.sources.get((command.source_type, command.source_id))
        if earlier is not None:
            raise Conflict(
                f"{command.source_type} {command.source_id} was already credited.",
                code="already_credited",
                details={"lotId": earlier},
            )
    _check_new(command.lot_id, book.lots)
    pre = account.view(command.pool_id)
    lot = LotState(
        id=command.lot_id,
        account_id=account.id,
        pool_id=command.pool_id,
        source_type=command.source_type,
        source_id=command.source_id,
        original_micro=command.amount_micro,
        available_micro=0,
        reserved_micro=0,
        consumed_micro=0,
        expired_micro=0,
        expires_at=command.expires_at,
        created_at=book.now,
        is_new=True,
    )
    book.add_lot(lot)
    book.move(lot, available=command.amount_micro)
    paid = 0 if lot.is_due(book.now) else pay_debts(book, account, lot)
    is_grant = command.source_type == "grant"
    add_entry(
        book,
        account,
        command.pool_id,
        "grant" if is_grant else "deposit",
        pre,
        lot_id=lot.id,
        key=command.key,
        description=command.description or f"{command.source_type} lot",
        details={"debtPaidMicro": str(paid)} if paid else None,
    )
    if command.source_type == "deposit":
        book.deposit_keys.append({"key": command.key, "account": account.id, "lot": lot.id})
    expire_lot(book, lot)
    return {
        "lotId": lot.id,
        "accountId": account.id,
        "poolId": command.pool_id,
        "amountMicro": str(command.amount_micro),
        "debtPaidMicro": str(paid),
        "balance": account.balance(command.pool_id),
    }


def reserve(book: Book, command: Reserve, terms: Terms) -> dict[str, Any]:
    """Hold credits in redemption order (behaviour 5.3; modes: contract 4.2).

    Raises Refused (``insufficient_credits``) in live mode if the lots hold less.
    """
    account = _account(book, command.account_id)
    _check_amount(command.amount_micro, terms, field="estimatedCostMicro")
    _check_new(command.reservation_id, book.reservations)
    plan = take(book.spendable(account.id, command.pool_id), command.amount_micro)
    covered = sum(amount for _, amount in plan)
    # Debts are owed before anything is spent, so what may be held is never more than the view.
    may_hold = max(0, min(covered, account.view(command.pool_id)))
    if terms.mode == "live" and may_hold < command.amount_micro:
        raise Refused(
            "The account has too few credits for this request.",
            code="insufficient_credits",
            details={
                "balance_micro": str(account.view(command.pool_id)),
                "required_micro": str(command.amount_micro),
            },
        )
    reservation = ReservationState(
        id=command.reservation_id,
        account_id=account.id,
        pool_id=command.pool_id,
        total_reserved_micro=command.amount_micro,
        overdraft_micro=0 if terms.mode == "shadow" else command.amount_micro - covered,
        status="pending",
        billing_mode=terms.mode,
        expires_at=add_seconds(book.now, command.ttl_seconds or terms.reserve_ttl_seconds),
        created_at=book.now,
        idempotency_key=command.idempotency_key,
        is_new=True,
    )
    pre = account.view(command.pool_id)
    if terms.mode != "shadow":
        for lot, amount in plan:
            book.move(lot, available=-amount, reserved=amount)
            reservation.allocations.append(Allocation(lot, amount))
    book.reservations[reservation.id] = reservation
    add_entry(
        book,
        account,
        command.pool_id,
        "shadow_reserve" if terms.mode == "shadow" else "reserve",
        pre,
        shadow_micro=command.amount_micro if terms.mode == "shadow" else None,
        reservation_id=reservation.id,
        key=command.idempotency_key,
        description=command.description,
        details=command.details,
    )
    return {
        "reservationId": reservation.id,
        "accountId": account.id,
        "poolId": command.pool_id,
        "reservedMicro": str(command.amount_micro),
        "status": "pending",
        "billingMode": terms.mode,
        "expiresAt": to_wire(reservation.expires_at),
        "balance": account.balance(command.pool_id),
        "allocations": [{"lotId": lot.id, "reservedMicro": str(part)} for lot, part in plan],
    }


def finalize(book: Book, command: Finalize, terms: Terms) -> Outcome:
    """Settle a hold at its actual cost (behaviour 5.4; contract 4.1, 4.2, 4.4, 4.5).

    The same cost again gets the same answer; another cost is a Conflict. Raises Forbidden for
    a foreign account, NotFound after the grace for late finalizes, Invalid for a released hold.
    """
    reservation = _owned(book, command.reservation_id, command.account_id)
    account = book.accounts[reservation.account_id]
    _check_key(book, command, account)
    if reservation.status == "finalized":
        if reservation.requested_cost_micro != command.actual_cost_micro:
            raise Conflict(
                "The reservation was finalized with another cost.",
                code="idempotency_conflict",
                details={"finalizedCostMicro": str(reservation.requested_cost_micro)},
            )
        return Outcome(describe_finalize(reservation), is_replay=True)
    if reservation.status == "released":
        raise Invalid("The reservation was released.", code="reservation_released")
    _check_amount(command.actual_cost_micro, terms, field="actualCostMicro", lowest=0)
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
    for allocation in reservation.allocations:
        expire_lot(book, allocation.lot)  # a hold pins its lots; now what is left of them goes
    answer = describe_finalize(reservation)
    if command.idempotency_key is not None:
        _remember(book, account.id, command, command.idempotency_key, answer)
    return Outcome(answer)


def release(book: Book, command: Release, _terms: Terms) -> Outcome:
    """Give a hold back; again the same on repeat (contract 4). Raises Conflict once finalized."""
    reservation = _owned(book, command.reservation_id, command.account_id)
    if reservation.status == "finalized":
        raise Conflict("The reservation was finalized.", code="reservation_finalized")
    is_replay = reservation.status != "pending"
    if not is_replay:
        give_back(book, reservation, command.reason)
        reservation.status = "released"
        reservation.finalized_at = book.now
        reservation.is_changed = True
        for allocation in reservation.allocations:
            expire_lot(book, allocation.lot)
    answer = {
        "reservationId": reservation.id,
        "releasedMicro": str(reservation.total_reserved_micro),
    }
    return Outcome(answer, is_replay=is_replay)


def _once(
    book: Book,
    command: Any,
    terms: Terms,
    decide: Callable[[Book, Any, Terms], dict[str, Any]],
) -> Outcome:
    """Decide *command* unless its key was answered before: then compare and repeat the answer."""
    account = _account(book, command.account_id)
    known = book.answers.get((account.id, command.operation, command.key))
    if known is not None:
        _compare(known.fingerprint, command.fingerprint)
        return Outcome(known.answer, is_replay=True)
    answer = decide(book, command, terms)
    _remember(book, account.id, command, command.key, answer)
    return Outcome(answer)


def _remember(book: Book, account_id: str, command: Any, key: str, answer: dict[str, Any]) -> None:
    book.answers[(account_id, command.operation, key)] = KnownAnswer(command.fingerprint, answer)
    book.new_answers.append(
        {
            "idempotency_key": key,
            "account_id": account_id,
            "operation": command.operation,
            "fingerprint": command.fingerprint,
            "answer": json.dumps(answer, ensure_ascii=False, separators=(",", ":")),
            "created_at": book.now,
        }
    )


def _compare(earlier: str, now: str) -> None:
    if earlier != now:
        raise Conflict(
            "This idempotency key was used for a request with other content.",
            code="idempotency_conflict",
        )


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
        details={name: str(value) for name, value in facts.items() if value} or None,
    )


def _account(book: Book, account_id: str) -> AccountState:
    account = book.accounts.get(account_id)
    if account is None:
        raise NotFound(f"There is no account {account_id}.", code="account_not_found")
    return account


def _reservation(book: Book, reservation_id: str) -> ReservationState:
    reservation = book.reservations.get(reservation_id)
    if reservation is None:
        raise NotFound("Reservation not found.", code="reservation_not_found")
    return reservation


def _owned(book: Book, reservation_id: str, account_id: str | None) -> ReservationState:
    reservation = _reservation(book, reservation_id)
    if account_id is not None and reservation.account_id != account_id:
        raise Forbidden("The reservation belongs to another account.", code="account_mismatch")
    return reservation


def _check_new(new_id: str, known: Container[str]) -> None:
    if new_id in known:  # one from an earlier batch that is not loaded fails on its primary key
        raise Conflict("This id is already in use.", code="id_in_use")


def _check_amount(amount_micro: int, terms: Terms, *, field: str, lowest: int = 1) -> None:
    if amount_micro < lowest:
        raise Invalid(f"{field} must be at least {lowest}.", code="invalid_amount")
    if amount_micro > terms.ceiling_micro:
        raise Invalid(
            f"{field} is above the ceiling of {terms.ceiling_micro} micro-USD.",
            code="amount_above_ceiling",
            details={"ceilingMicro": str(terms.ceiling_micro)},
        )


def _expired_hold(book: Book, command: ExpireHold, _terms: Terms) -> Outcome:
    """Report a hold after :func:`pass_time` has ended it if it was due."""
    status = _reservation(book, command.reservation_id).status
    return Outcome({"reservationId": command.reservation_id, "status": status})


def _expired_lot(_book: Book, command: ExpireLot, _terms: Terms) -> Outcome:
    """Report a lot after :func:`pass_time` has taken what was left if it was due."""
    return Outcome({"lotId": command.lot_id})


_DECISIONS: dict[type[Command], Callable[[Book, Any, Terms], Outcome]] = {
    Mint: lambda book, command, terms: _once(book, command, terms, mint),
    Reserve: lambda book, command, terms: _once(book, command, terms, reserve),
    Finalize: finalize,
    Release: release,
    ExpireHold: _expired_hold,
    ExpireLot: _expired_lot,
}
