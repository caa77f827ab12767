"""What commands must name rightly before any rule is asked."""

from collections.abc import Container

from shared.errors import Conflict, Forbidden, Invalid, NotFound
from shared.ledger.state import AccountState, Book, ReservationState
from shared.ledger.terms import Terms


def account_of(book: Book, account_id: str) -> AccountState:
    """Return the account. Raises NotFound (``account_not_found``)."""
    account = book.accounts.get(account_id)
    if account is None:
        raise NotFound(f"There is no account {account_id}.", code="account_not_found")
    return account


def reservation_of(book: Book, reservation_id: str) -> ReservationState:
    """Return the hold. Raises NotFound (``reservation_not_found``)."""
    reservation = book.reservations.get(reservation_id)
    if reservation is None:
        raise NotFound("Reservation not found.", code="reservation_not_found")
    return reservation


def owned_reservation(book: Book, reservation_id: str, account_id: str | None) -> ReservationState:
    """Return the hold. Raises Forbidden (``account_mismatch``) for a foreign account's."""
    reservation = reservation_of(book, reservation_id)
    if account_id is not None and reservation.account_id != account_id:
        raise Forbidden("The reservation belongs to another account.", code="account_mismatch")
    return reservation


def check_new(new_id: str, known: Container[str]) -> None:
    """Raise Conflict (``id_in_use``) if a caller's id names something already."""
    if new_id in known:  # one from an earlier batch that is not loaded fails on its primary key
        raise Conflict("This id is already in use.", code="id_in_use")


def check_amount(amount_micro: int, terms: Terms, *, field: str, lowest: int = 1) -> None:
    """Raise Invalid unless *lowest* <= amount <= the ceiling in force (contract 4.8)."""
    if amount_micro < lowest:
        raise Invalid(f"{field} must be at least {lowest}.", code="invalid_amount")
    if amount_micro > terms.ceiling_micro:
        raise Invalid(
            f"{field} is above the ceiling of {terms.ceiling_micro} micro-USD.",
            code="amount_above_ceiling",
            details={"ceilingMicro": str(terms.ceiling_micro)},
        )
