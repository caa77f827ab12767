"""The rules of lots: credits that come, go back to the payer, or are corrected by an operator."""

from typing import Any

from shared.errors import Conflict, Invalid, NotFound
from shared.ledger.checks import account_of, check_amount, check_new
from shared.ledger.commands import Adjust, Mint, Refund, Revoke
from shared.ledger.postings import (
    add_debt,
    add_entry,
    claw_back,
    expire_lot,
    pay_debts,
    take,
)
from shared.ledger.state import AccountState, Book, LotState
from shared.ledger.terms import Terms


def mint(book: Book, command: Mint, terms: Terms) -> dict[str, Any]:
    """Create a lot; open debts are paid from it, oldest first (behaviour 5.2, contract 4.3)."""
    account = account_of(book, command.account_id)
    if not command.is_received:
        check_amount(command.amount_micro, terms, field="amountMicro")
    _check_source(book, command)
    check_new(command.lot_id, book.lots)
    pre = account.view(command.pool_id)
    lot = _add_lot(book, account, command)
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


def _check_source(book: Book, command: Mint) -> None:
    """Raise Conflict (``already_credited``) if the source made a lot before."""
    if command.source_id is None:
        return
    earlier = book.sources.get((command.source_type, command.source_id))
    if earlier is not None:
        lot_id, amount_micro = earlier
        raise Conflict(
            f"{command.source_type} {command.source_id} was already credited.",
            code="already_credited",
            details={"lotId": lot_id, "amountMicro": str(amount_micro)},
        )


def _add_lot(book: Book, account: AccountState, command: Mint) -> LotState:
    lot = LotState(
        id=command.lot_id,
        account_id=account.id,
        pool_id=command.pool_id,
        source_type=command.source_type,
        source_id=command.source_id,
        original_micro=command.amount_micro,
        expires_at=command.expires_at,
        created_at=book.now,
        is_new=True,
    )
    book.add_lot(lot)
    book.move(lot, available=command.amount_micro)
    return lot


def refund(book: Book, command: Refund, _terms: Terms) -> dict[str, Any]:
    """Take back all that a lot gave (contract 6; W27, W28).

    What is available is clawed back; what was spent becomes a debt; what is held is taken when
    its hold ends, wherever it goes then. What expired was lost to the payer already.
    """
    account, lot = _owned_lot(book, command)
    pre = account.view(lot.pool_id)
    lot.refunded_at = book.now
    # What was clawed back before was taken by an operator's repair: the payer does not owe it.
    spent = lot.consumed_micro - lot.expired_micro - lot.clawed_back_micro
    clawed_back = claw_back(book, lot)
    if spent:
        add_debt(book, account, spent, source_lot_id=lot.id, source_payment_id=command.payment_id)
    add_entry(
        book,
        account,
        lot.pool_id,
        "refund",
        pre,
        lot_id=lot.id,
        description=command.description or "The payment was refunded.",
        details={"clawedBackMicro": str(clawed_back), "debtMicro": str(spent)},
    )
    return {
        "lotId": lot.id,
        "accountId": account.id,
        "clawedBackMicro": str(clawed_back),
        "debtMicro": str(spent),
        "heldMicro": str(lot.reserved_micro),
        "balance": account.balance(lot.pool_id),
    }


def revoke(book: Book, command: Revoke, _terms: Terms) -> dict[str, Any]:
    """Take back what is available in a lot, and let its time end now.

    So what a hold still has may be spent by it, and expires when the hold gives it back. What had
    expired before is not taken back.
    """
    account, lot = _owned_lot(book, command)
    pre = account.view(lot.pool_id)
    taken = claw_back(book, lot)
    if not lot.is_due(book.now):
        lot.expires_at = book.now
        lot.is_ended = True
    if taken:
        add_entry(
            book,
            account,
            lot.pool_id,
            "refund",
            pre,
            lot_id=lot.id,
            description=command.description or "The grant was revoked.",
            details={"clawedBackMicro": str(taken)},
        )
    return {
        "lotId": lot.id,
        "accountId": account.id,
        "revokedMicro": str(taken),
        "heldMicro": str(lot.reserved_micro),
        "balance": account.balance(lot.pool_id),
    }


def _owned_lot(book: Book, command: Refund | Revoke) -> tuple[AccountState, LotState]:
    account = account_of(book, command.account_id)
    lot = book.lots.get(command.lot_id)
    if lot is None or lot.account_id != account.id:
        raise NotFound("The account has no such lot.", code="lot_not_found")
    return account, lot


def adjust(book: Book, command: Adjust, terms: Terms) -> dict[str, Any]:
    """Correct an account by hand: a lot for more, from its lots and then as debt for less.

    Raises Invalid for zero, for an amount above the ceiling, and without a reason.
    """
    account = account_of(book, command.account_id)
    if not command.reason.strip():
        raise Invalid("An adjustment needs a reason.", code="reason_required")
    check_amount(abs(command.amount_micro), terms, field="amountMicro")
    pre = account.view(command.pool_id)
    lot_id, owed = None, 0
    if command.amount_micro > 0:
        check_new(command.adjustment_id, book.lots)
        lot_id = command.adjustment_id
        made = Mint(account.id, lot_id, command.amount_micro, "grant", pool_id=command.pool_id)
        pay_debts(book, account, _add_lot(book, account, made))
    else:
        wanted = -command.amount_micro
        for lot, part in take(book.spendable(account.id, command.pool_id), wanted):
            book.move(lot, available=-part, consumed=part)
            wanted -= part
        owed = wanted
        if owed:
            add_debt(book, account, owed)
    add_entry(
        book,
        account,
        command.pool_id,
        "adjust",
        pre,
        lot_id=lot_id,
        key=command.idempotency_key,
        description=command.reason,
        details={"debtMicro": str(owed)} if owed else None,
    )
    return {
        "adjustmentId": command.adjustment_id,
        "accountId": account.id,
        "amountMicro": str(command.amount_micro),
        "debtMicro": str(owed),
        "lotId": lot_id,
        "balance": account.balance(command.pool_id),
    }
