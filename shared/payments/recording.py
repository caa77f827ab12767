"""The payments of a batch: loaded under lock with their credits, and written back.

The notices, their payments, credits and dead letters are written in the caller's transaction.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import literal_column, select, union, update

from shared import jobs
from shared.database import Tx, Write, write
from shared.errors import Invalid
from shared.ids import new_id
from shared.ledger.commands import Mint, Refund
from shared.models.payments import CryptoPayment, PaymentCredit, Purchase, WebhookEvent
from shared.money import CoinAmount, parse_coin
from shared.operations import dlq
from shared.parameters import constant, member_of
from shared.payments.telling import is_told_of_deposits, tell_deposit, tell_refund

_TEXT_MAX = 255
_TABLE = CryptoPayment.__table__
_PACK_BASES = ("pack", "overpaid")
# What notices are decided by; a row has as much again, of which the last notice is the most.
_COLUMNS = (
    "id",
    "provider",
    "provider_payment_id",
    "parent_payment_id",
    "order_id",
    "account_id",
    "community_id",
    "price_amount",
    "price_currency",
    "pay_amount",
    "pack_id",
    "pack_micro",
    "status",
    "actually_paid",
    "created_at",
)


@dataclass
class Credit:
    """A lot that a payment was given, or is about to be given in this batch."""

    lot_id: str
    amount_micro: int
    basis: str
    rate: CoinAmount | None = None
    is_new: bool = False


@dataclass
class Payment:
    """A payment's row as this batch changes it, with its credits, oldest first."""

    row: dict[str, Any]
    credits: list[Credit] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, column: str) -> Any:
        return self.changes.get(column, self.row[column])

    @property
    def credited_micro(self) -> int:
        """What the payment was given in all."""
        return sum(credit.amount_micro for credit in self.credits)


@dataclass
class Step:
    """What one notice leads to."""

    event: Any
    outcome: str
    payment: Payment | None = None
    commands: list[Mint | Refund] = field(default_factory=list)
    clawbacks: list[Mapping[str, Any]] = field(default_factory=list)
    dead_letter: tuple[str, str] | None = None
    needs_person: bool = True


def load_payments(
    tx: Tx, events: Sequence[Any], notices: Mapping[str, Mapping[str, Any]]
) -> dict[str, Payment]:
    """Return the payments that *events* may be about, locked, by the provider's id and by order."""
    named = {event.provider_payment_id for event in events if event.provider_payment_id}
    orders = set()
    for notice in notices.values():
        named.add(text_of(notice, "parent_payment_id"))
        orders.add(text_of(notice, "order_id"))
    sought = tx.all(_SOUGHT, numbers=sorted(named - {""}), orders=sorted(orders - {""}))
    rows = tx.all(_PAYMENTS, ids=[row.id for row in sought]) if sought else []
    credited: dict[str, list[Credit]] = defaultdict(list)
    for row in tx.all(_CREDITS, ids=[row.id for row in rows]) if rows else []:
        credited[row.payment_id].append(Credit(row.lot_id, row.amount_micro, row.basis, row.rate))
    found: dict[str, Payment] = {}
    for row in rows:
        payment = Payment(row._asdict(), credited[row.id])
        if row.provider_payment_id is not None:
            found[row.provider_payment_id] = payment
        if row.order_id is not None:
            found.setdefault(row.order_id, payment)
    return found


def save(tx: Tx, steps: Sequence[Step]) -> None:
    """Write the payments, their credits and dead letters, and end the notices."""
    changed = {id(s.payment): s.payment for s in steps if s.payment and s.payment.changes}
    ended, credited = list[Step](), set[str]()
    for step in steps:
        if step.dead_letter is not None:
            operation, reason = step.dead_letter
            if operation == "webhook":
                park(tx, step.event, reason, needs_person=step.needs_person)
                continue
            enter_dlq(tx, step.event, operation, reason, needs_person=True)
            credited.discard(step.event.provider_payment_id)
        ended.append(step)
        for answer in step.clawbacks:
            assert step.payment is not None
            tell_refund(tx, payment_id=step.payment.row["id"], answer=answer)
        if step.payment is not None and step.payment.changes.get("lot_id") is not None:
            credited.add(step.event.provider_payment_id)
    for operation in ("webhook", "refund"):
        dlq.complete_all(tx, operation, [step.event.id for step in ended])
    dlq.complete_all(tx, "deposit", sorted(credited))
    done = [{"id": s.event.id, **jobs.finished(tx.now, outcome=s.outcome)} for s in ended]
    finished = Write("update", WebhookEvent.__table__, done, ("id",))
    save_payments(tx, list(changed.values()), beside=[finished])


def save_payments(tx: Tx, payments: Sequence[Payment], *, beside: Sequence[Write] = ()) -> None:
    """Write what changed on *payments*, their new credits, and the packs that these bought.

    All at once, and what is to be written *beside* it.
    """
    alike: dict[tuple[str, ...], list[Payment]] = defaultdict(list)
    for payment in payments:
        alike[tuple(sorted(payment.changes))].append(payment)
    updates = []
    for names, some in alike.items():
        rows = [{"id": p.row["id"], **{name: p.changes[name] for name in names}} for p in some]
        updates.append(Write("update", _TABLE, rows, ("id",)))
    made = [
        (payment, credit) for payment in payments for credit in payment.credits if credit.is_new
    ]
    write(tx, [*updates, _credits(tx, made), _purchases(tx, made), *beside])
    is_told = bool(made) and is_told_of_deposits(tx)
    for payment, credit in made:
        if is_told and credit.basis != "admin":  # that is told of when the admin minted it
            tell_deposit(
                tx,
                account_id=payment["account_id"],
                lot_id=credit.lot_id,
                amount_micro=credit.amount_micro,
                source=payment["provider"],
                payment_id=payment.row["id"],
            )


def _credits(tx: Tx, made: Sequence[tuple[Payment, Credit]]) -> Write:
    rows = [
        {
            "lot_id": credit.lot_id,
            "payment_id": payment.row["id"],
            "amount_micro": credit.amount_micro,
            "basis": credit.basis,
            "rate": credit.rate,
            "created_at": tx.now,
        }
        for payment, credit in made
    ]
    return Write("insert", PaymentCredit.__table__, rows)


def _purchases(tx: Tx, made: Sequence[tuple[Payment, Credit]]) -> Write:
    rows = [
        {
            "id": f"pur_{new_id(tx.now)}",
            "account_id": payment["account_id"],
            "pack_id": payment["pack_id"],
            "payment_reference": payment["provider_payment_id"],
            "idempotency_key": f"{payment['provider']}:{payment['provider_payment_id']}",
            "lot_id": credit.lot_id,
            "amount_micro": payment["pack_micro"],
            "created_at": tx.now,
        }
        for payment, credit in made
        if payment["pack_id"] and credit.basis in _PACK_BASES and _is_first_of_pack(payment, credit)
    ]
    return Write("insert", Purchase.__table__, rows)


def _is_first_of_pack(payment: Payment, credit: Credit) -> bool:
    return next(c for c in payment.credits if c.basis in _PACK_BASES) is credit


def park(
    tx: Tx, event: Any, reason: str, *, needs_person: bool, operation: str = "webhook"
) -> None:
    """Put *event* aside and into the dead-letter queue, from where it comes back or is reviewed."""
    enter_dlq(tx, event, operation, reason, needs_person=needs_person)
    values = {"state": "parked", "lease_until": None, "lease_token": None, "last_error": reason}
    tx.run(update(WebhookEvent).where(WebhookEvent.id == event.id).values(**values))


def enter_dlq(tx: Tx, event: Any, operation: str, reason: str, *, needs_person: bool) -> None:
    """Put *event* (or, for a deposit, its payment) into the dead-letter queue."""
    dlq.enter(
        tx,
        operation,
        subject_id=event.provider_payment_id if operation == "deposit" else event.id,
        payload={"eventId": event.id, "providerPaymentId": event.provider_payment_id},
        error=reason,
        needs_person=needs_person,
    )


def text_of(notice: Mapping[str, Any], name: str) -> str:
    """Return a text of *notice* that can be stored and shown, or the empty one."""
    value = notice.get(name)
    is_storable = isinstance(value, str) and value.isprintable() and len(value) <= _TEXT_MAX
    return str(value) if is_storable else ""


def coin_of(notice: Mapping[str, Any], name: str) -> CoinAmount | None:
    """Return an amount of *notice*, None if it is none."""
    try:
        return parse_coin(notice.get(name))
    except Invalid:
        return None


# One condition with OR would walk all payments where PostgreSQL has no statistics, or has old ones.
# The sum keeps it from seeking orders by their provider, of which there are two.
_SOUGHT = union(
    select(CryptoPayment.id).where(
        CryptoPayment.provider == constant("nowpayments"),
        member_of(CryptoPayment.provider_payment_id, "numbers"),
    ),
    select(CryptoPayment.id).where(
        CryptoPayment.provider + literal_column("''") == constant("nowpayments"),
        member_of(CryptoPayment.order_id, "orders"),
    ),
)
_PAYMENTS = (
    select(*(_TABLE.c[name] for name in _COLUMNS))
    .where(member_of(CryptoPayment.id, "ids"))
    .order_by(CryptoPayment.id)
    .with_for_update()
)
_CREDITS = (
    select(
        PaymentCredit.payment_id,
        PaymentCredit.lot_id,
        PaymentCredit.amount_micro,
        PaymentCredit.basis,
        PaymentCredit.rate,
    )
    .where(member_of(PaymentCredit.payment_id, "ids"))
    .order_by(PaymentCredit.created_at, PaymentCredit.lot_id)
)
