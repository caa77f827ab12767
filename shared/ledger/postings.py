"""The postings that rules are made of: each moves credits and writes the entry that shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.compact import compact
from shared.errors import Conflict, Refused
from shared.ids import new_id
from shared.ledger.state import (
    AccountState,
    Allocation,
    Book,
    DebtState,
    LotState,
    ReservationState,
    redemption_key,
)
from shared.ledger.terms import Terms
from shared.models.ledger import GENERAL_POOL
from shared.money import bps_share


def take(lots: Sequence[LotState], amount_micro: int) -> list[tuple[LotState, int]]:
    """Plan to take *amount_micro* from *lots* in their order, as far as they reach. Moves nothing.

    Returns pairs of a lot and a positive part; the parts sum to at most *amount_micro*.
    """
    plan = []
    for lot in lots:
        if amount_micro == 0:
            break
        part = min(lot.available_micro, amount_micro)
        plan.append((lot, part))
        amount_micro -= part
    return plan


def hold(
    book: Book,
    reservation: ReservationState,
    amount_micro: int,
    *,
    key: str | None = None,
    description: str | None = None,
    details: str | None = None,
) -> list[tuple[LotState, int]]:
    """Take *amount_micro* from the lots for *reservation*; return what would come from which lot.

    Shadow moves nothing; soft leaves what no lot covers as overdraft. Raises Refused
    (``insufficient_credits``) in live mode if the account has less, debts counted.
    """
    account = book.accounts[reservation.account_id]
    pre = account.view(reservation.pool_id)
    plan = take(book.spendable(account.id, reservation.pool_id), amount_micro)
    covered = sum(part for _, part in plan)
    if reservation.billing_mode == "live" and min(covered, pre) < amount_micro:
        raise Refused(
            "The account has too few credits for this request.",
            code="insufficient_credits",
            details={"balance_micro": str(pre), "required_micro": str(amount_micro)},
        )
    is_shadow = reservation.billing_mode == "shadow"
    reservation.total_reserved_micro += amount_micro
    if not is_shadow:
        reservation.overdraft_micro += amount_micro - covered
        for lot, part in plan:
            book.move(lot, available=-part, reserved=part)
            _allocate(reservation, lot, part)
    add_entry(
        book,
        account,
        reservation.pool_id,
        "shadow_reserve" if is_shadow else "reserve",
        pre,
        shadow_micro=amount_micro if is_shadow else None,
        reservation_id=reservation.id,
        key=key,
        description=description,
        details=details,
    )
    return plan


def _allocate(reservation: ReservationState, lot: LotState, part_micro: int) -> None:
    for allocation in reservation.allocations:
        if allocation.lot is lot:
            allocation.reserved_micro += part_micro
            allocation.is_changed = True
            return
    reservation.allocations.append(Allocation(lot, part_micro))


def add_entry(
    book: Book,
    account: AccountState,
    pool_id: str,
    entry_type: str,
    pre_micro: int,
    *,
    shadow_micro: int | None = None,
    lot_id: str | None = None,
    reservation_id: str | None = None,
    key: str | None = None,
    description: str | None = None,
    details: Mapping[str, Any] | str | None = None,
) -> None:
    """Write the entry of what was moved since the view of *pool_id* was *pre_micro*.

    Its amount is the difference, so entries always sum to the balance (W22). A shadow entry
    carries what would have been (*shadow_micro*, positive) and leaves the balance alone.
    """
    post = account.view(pool_id)
    assert shadow_micro is None or post == pre_micro
    pool = account.pool(pool_id)
    book.entries.append(
        {
            "id": new_id(book.now),
            "account_id": account.id,
            "pool_id": pool_id,
            "lot_id": lot_id,
            "reservation_id": reservation_id,
            "entry_seq": pool.next_seq,
            "entry_type": entry_type,
            "amount_micro": post - pre_micro if shadow_micro is None else shadow_micro,
            "idempotency_key": key,
            "description": description,
            "metadata": details if isinstance(details, str | None) else compact(details),
            "pre_balance_micro": pre_micro,
            "post_balance_micro": post,
            "created_at": book.now,
        }
    )
    pool.next_seq += 1
    pool.is_changed = True


def is_sound(reservation: ReservationState) -> bool:
    """Tell whether the lots hold what *reservation* took; a repair by hand may have undone it.

    An unsound hold is left as it is, so that it stops no other work; ``ledger verify`` names it.
    """
    return all(a.reserved_micro <= a.lot.reserved_micro for a in reservation.allocations)


def give_back(book: Book, reservation: ReservationState, description: str | None) -> None:
    """Return every held credit of *reservation* to its lot, with a ``release`` entry."""
    account = book.accounts[reservation.account_id]
    held = sum(a.reserved_micro for a in reservation.allocations)
    if held == 0:  # of a shadow hold nothing is
        return
    if not is_sound(reservation):
        raise Conflict(
            "The lots of this reservation were changed by hand.", code="hold_inconsistent"
        )
    pre = account.view(reservation.pool_id)
    for allocation in reservation.allocations:
        book.move(
            allocation.lot, available=allocation.reserved_micro, reserved=-allocation.reserved_micro
        )
    add_entry(
        book,
        account,
        reservation.pool_id,
        "release",
        pre,
        reservation_id=reservation.id,
        description=description,
    )


def expire_lot(book: Book, lot: LotState) -> None:
    """Take what is available in *lot* if its time is over, with an ``expire`` entry (W14, W15)."""
    if lot.available_micro == 0 or not lot.is_due(book.now):
        return
    account = book.accounts[lot.account_id]
    pre = account.view(lot.pool_id)
    lot.expired_micro += lot.available_micro
    book.move(lot, available=-lot.available_micro, consumed=lot.available_micro)
    add_entry(
        book,
        account,
        lot.pool_id,
        "expire",
        pre,
        lot_id=lot.id,
        description="The lot expired.",
    )


def cost_rule(mode: str, *, reserved_micro: int, actual_micro: int) -> tuple[int, int, int]:
    """Return (charged, overrun, uncharged) for a hold and its actual cost (behaviour 5.4.4).

    Up to the hold the cost is charged in every mode. Above it: soft charges all of it; live
    charges the hold and reports the rest as uncharged (W4); shadow reports what would overrun.
    """
    if actual_micro <= reserved_micro:
        return actual_micro, 0, 0
    excess = actual_micro - reserved_micro
    if mode == "soft":
        return actual_micro, excess, 0
    if mode == "live":
        return reserved_micro, 0, excess
    return reserved_micro, excess, 0


def overrun_pct(*, reserved_micro: int, excess_micro: int) -> int:
    """Return by how many whole percent a cost went over its hold (behaviour 6.4)."""
    return excess_micro * 100 // reserved_micro


def claw_back(book: Book, lot: LotState) -> int:
    """Take what is available in a refunded *lot*; return how much. Writes no entry."""
    taken = lot.available_micro
    lot.clawed_back_micro += taken
    book.move(lot, available=-taken, consumed=taken)
    return taken


def close_lot(book: Book, lot: LotState) -> None:
    """Take what no longer belongs in *lot*: its time is over, or its payment went back.

    Of a refunded lot, what a hold gave back is clawed back and what a hold spent becomes a debt,
    with one more ``refund`` entry (W28).
    """
    if lot.refunded_at is None:
        expire_lot(book, lot)
        return
    account = book.accounts[lot.account_id]
    pre = account.view(lot.pool_id)
    spent = lot.spent_since_refund_micro
    lot.spent_since_refund_micro = 0
    claw_back(book, lot)
    if spent:
        add_debt(book, account, spent, source_lot_id=lot.id)
    if account.view(lot.pool_id) != pre:
        add_entry(
            book,
            account,
            lot.pool_id,
            "refund",
            pre,
            lot_id=lot.id,
            description="The hold on a refunded lot ended.",
        )


def charge(book: Book, reservation: ReservationState, amount_micro: int) -> int:
    """Consume *amount_micro* for a hold that was just given back; return what became debt.

    First what the hold had taken, in redemption order (W11), then other lots that the pool may
    use, and what no lot covers is owed (contract 4.2, 4.4).
    """
    remaining = amount_micro
    held = in_order(reservation)
    is_late = reservation.status == "expired"
    for allocation in [] if is_late else held:
        part = min(allocation.reserved_micro, remaining)
        _consume(book, allocation, part)
        remaining -= part
    by_lot = {allocation.lot.id: allocation for allocation in held}
    spendable = book.spendable(reservation.account_id, reservation.pool_id)
    for lot, part in take(spendable, remaining):
        allocation = by_lot.get(lot.id) or Allocation(lot, 0)
        if lot.id not in by_lot:
            reservation.allocations.append(allocation)
        _consume(book, allocation, part)
        remaining -= part
    account = book.accounts[reservation.account_id]
    if remaining:
        add_debt(book, account, remaining, source_reservation_id=reservation.id)
    return remaining


def add_debt(
    book: Book,
    account: AccountState,
    amount_micro: int,
    *,
    source_reservation_id: str | None = None,
    source_lot_id: str | None = None,
    source_payment_id: str | None = None,
) -> None:
    """Let the account owe *amount_micro* more, and remember for what."""
    book.owe(account.id, amount_micro)
    debt = DebtState(
        id=new_id(book.now),
        account_id=account.id,
        debt_micro=amount_micro,
        original_micro=amount_micro,
        created_at=book.now,
        source_reservation_id=source_reservation_id,
        source_lot_id=source_lot_id,
        source_payment_id=source_payment_id,
        is_new=True,
    )
    book.debts.append(debt)
    account.debts.append(debt)


def in_order(reservation: ReservationState) -> list[Allocation]:
    """Return what a hold has taken in redemption order, however it was loaded."""
    if len(reservation.allocations) == 1:
        return [*reservation.allocations]
    return sorted(reservation.allocations, key=lambda a: redemption_key(a.lot, reservation.pool_id))


def _consume(book: Book, allocation: Allocation, part_micro: int) -> None:
    if part_micro:
        book.move(allocation.lot, available=-part_micro, consumed=part_micro)
        allocation.consumed_micro += part_micro
        if allocation.lot.refunded_at is not None:
            allocation.lot.spent_since_refund_micro += part_micro
        allocation.is_changed = True


def pay_debts(book: Book, account: AccountState, lot: LotState) -> int:
    """Pay the account's open debts from the new *lot*, oldest first; return what was paid (W30)."""
    paid_total = 0
    for debt in account.debts:
        paid = min(debt.debt_micro, lot.available_micro) if debt.resolved_at is None else 0
        if paid == 0:
            continue
        book.move(lot, available=-paid, consumed=paid)
        book.owe(account.id, -paid)
        if paid == debt.debt_micro:
            debt.resolved_at = book.now
        else:
            debt.debt_micro -= paid
        debt.is_changed = True
        if debt not in book.debts:
            book.debts.append(debt)
        book.debt_payments.append(
            {"debt_id": debt.id, "lot_id": lot.id, "paid_micro": paid, "created_at": book.now}
        )
        paid_total += paid
    return paid_total


def split_revenue(charged_micro: int, terms: Terms) -> tuple[int, int, int]:
    """Return the shares (commons, community, foundation) of a charge; they sum to it.

    Floors for the first two, the foundation takes the rest (behaviour 8.2, contract 4.7).
    """
    commons = bps_share(charged_micro, terms.commons_rate_bps)
    community = bps_share(charged_micro, terms.community_rate_bps)
    return commons, community, charged_micro - commons - community


def add_revenue(book: Book, reservation: ReservationState, terms: Terms) -> None:
    """Write the three revenue entries of a charge, without touching the system accounts' rows.

    Workers roll them up into balances later; ``is_revenue_posted`` says what is still to do.
    """
    if reservation.billing_mode == "shadow" or reservation.finalized_micro == 0:
        return
    shares = split_revenue(reservation.finalized_micro, terms)
    reservation.commons_micro, reservation.community_micro, reservation.foundation_micro = shares
    reservation.is_revenue_posted = False
    receivers = (
        (terms.commons_account_id, "commons_contribution"),
        (terms.community_account_id, "revenue_share"),
        (terms.foundation_account_id, "revenue_share"),
    )
    for (account_id, entry_type), share in zip(receivers, shares, strict=True):
        if share:
            book.entries.append(
                {
                    "id": new_id(book.now),
                    "account_id": account_id,
                    "pool_id": GENERAL_POOL,
                    "lot_id": None,
                    "reservation_id": reservation.id,
                    "entry_seq": None,
                    "entry_type": entry_type,
                    "amount_micro": share,
                    "idempotency_key": None,
                    "description": None,
                    "metadata": None,
                    "pre_balance_micro": None,
                    "post_balance_micro": None,
                    "created_at": book.now,
                }
            )
