"""The till as tests drive it: payments as creation makes them, notices as the receiver stores them.

Nothing runs by itself: a test says when the inbox is drained and when time passes.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select, text

from services.workers.work import Work
from shared.balance_upkeep import CachedBalances
from shared.database import Database, insert_rows
from shared.ledger.commands import Outcome
from shared.ledger.terms import TermsCache
from shared.models.operations import DeadLetter
from shared.models.payments import CryptoPayment, WebhookEvent
from shared.money import parse_coin
from shared.notifications.courier import Courier
from shared.notifications.keys import Keys
from shared.notifications.watching import AccountWatch
from shared.operations import mints
from shared.operations.audit import Actor
from shared.operations.mint_orders import MintOrder
from shared.payments import inbox, intake, views
from shared.payments.intake import Intake
from shared.payments.providers.nowpayments import NowPayments
from shared.payments.quotes import Cashier
from shared.reconciliation.desk import Desk
from tests.command import NO_REDIS
from tests.harness import make_id, unique
from tests.ledger import Ledger

M = 1_000_000


@dataclass(frozen=True)
class Payment:
    """A payment by our id, the provider's number, and whose it is."""

    id: str
    number: str
    account: str


def intake_of(database: Database, terms: TermsCache | None = None) -> Intake:
    """Return what the workers work with, with a provider that cannot be reached."""
    nobody = NowPayments(url="http://127.0.0.1:9/v1", api_key="")
    return Intake(database, terms or TermsCache(database), nobody)


def work_of(database: Database) -> Work:
    """Return the workers' tasks, with nobody to pay by, and no cache."""
    terms = TermsCache(database)
    nowhere = Cashier(database, terms, networks={}, facilitators={}, chains={})
    intake = intake_of(database, terms)
    courier = Courier(database, Keys("outgoing-" + "w" * 32), allow_private=True)
    desk = Desk(database, CachedBalances(NO_REDIS), intake.provider)
    return Work(intake, nowhere, courier, AccountWatch(database), desk)


class Till:
    """Payments and their notices on one ledger."""

    def __init__(
        self, ledger: Ledger, provider: NowPayments | None = None, *, is_verifying: bool = False
    ) -> None:
        self.ledger = ledger
        self.provider = provider
        self.is_verifying = is_verifying

    @property
    def intake(self) -> Intake:
        """What the inbox is drained with."""
        usual = intake_of(self.ledger.database, self.ledger.terms)
        return replace(
            usual, provider=self.provider or usual.provider, is_verifying=self.is_verifying
        )

    def payment(self, account: str | None = None, dollars: str = "25.00", **more: Any) -> Payment:
        """Insert a payment as creation does; without *account* a new one is made for it."""
        made = Payment(
            f"cp_{make_id()}",
            str(secrets.randbelow(10**12)),
            self.ledger.account() if account is None else account,
        )
        now = self.ledger.clock()
        row = {
            "id": made.id,
            "provider": "nowpayments",
            "provider_payment_id": made.number,
            "account_id": made.account,
            "order_id": made.id,
            "price_amount": parse_coin(dollars),
            "price_currency": "usd",
            "pay_currency": "btc",
            "status": "waiting",
            "created_at": now,
            "updated_at": now,
            **more,
        }
        with self.ledger.database.transaction() as tx:
            insert_rows(tx, CryptoPayment.__table__, [row])
        return made

    def tell(self, payment: Payment, *statuses: str, **fields: Any) -> None:
        """Store a notice of each of *statuses*, none of which may be a repeat."""
        for status in statuses:
            notice = {
                "payment_id": payment.number,
                "payment_status": status,
                "order_id": payment.id,
                "actually_paid": "0.001",
                **fields,
            }
            body = json.dumps(notice).encode()
            with self.ledger.database.transaction() as tx:
                assert inbox.store_notice(
                    tx, provider="nowpayments", notice=notice, raw_body=body
                ), "a repeat"

    def drain(self) -> int:
        """Work off one batch."""
        return intake.drain(self.intake)

    def replay(self, payment: Payment) -> None:
        """Work all notices of *payment* off once more, as an operator's replay does."""
        numbered = text("SELECT id FROM webhook_events WHERE provider_payment_id = :n ORDER BY id")
        with self.ledger.database.transaction() as tx:
            ids = [row.id for row in tx.all(numbered, n=payment.number)]
            assert intake.rearm(tx, ids) == len(ids)
        assert intake.drain(self.intake, only=ids) == len(ids)

    def told(self, payment: Payment, *statuses: str, **fields: Any) -> None:
        """Store a notice of each of *statuses* and work it off before the next."""
        for status in statuses:
            self.tell(payment, status, **fields)
            assert self.drain() == 1

    def paid(self, account: str | None = None, dollars: str = "25.00") -> Payment:
        """Let a payment be made, finished and credited."""
        made = self.payment(account, dollars)
        self.told(made, "finished")
        assert self.shown(made)["lotId"] is not None
        return made

    def shown(self, payment: Payment) -> dict[str, Any]:
        """Return the payment as callers see it."""
        with self.ledger.database.reading() as tx:
            return views.show_payment(tx, payment.id)

    def events(self, payment: Payment) -> list[Any]:
        """Return the notices of *payment*, oldest first, with what became of them."""
        with self.ledger.database.reading() as tx:
            return list(tx.all(_EVENTS.where(WebhookEvent.provider_payment_id == payment.number)))

    def event(self, payment: Payment) -> Any:
        """Return the one notice of *payment*."""
        [only] = self.events(payment)
        return only

    def letters(self) -> list[tuple[str, str, int]]:
        """Return the dead letters: operation, status, and how many retries failed."""
        return [(letter.operation_type, letter.status, letter.retry_count) for letter in self._dlq]

    @property
    def _dlq(self) -> list[Any]:
        with self.ledger.database.reading() as tx:
            return list(tx.all(_LETTERS))

    def letter(self) -> Any:
        """Return the one dead letter."""
        [only] = self._dlq
        return only

    def admin_mint(
        self,
        payment: Payment,
        amount_micro: int,
        *,
        account: str | None = None,
        key: str | None = None,
        source_type: str = "deposit",
        pool_id: str = "general",
    ) -> Outcome:
        """Mint for *payment* as the admin API does; a key as the header would carry."""
        order = MintOrder(
            account_id=account or payment.account,
            lot_id=make_id(),
            amount_micro=amount_micro,
            source_type=source_type,
            pool_id=pool_id,
            payment_id=payment.number,
            idempotency_key=key,
        )
        actor = Actor("admin", unique("admin"))
        return mints.mint(self.ledger.database, self.ledger.terms, actor, order)[0]

    def spoil(self, payment: Payment, notice: str = "{") -> None:
        """Make the stored notices of *payment* unreadable, or readable again."""
        self.ledger.sql(
            "UPDATE webhook_events SET notice = :notice WHERE provider_payment_id = :number",
            notice=notice,
            number=payment.number,
        )


@contextmanager
def locked(url: str, account: str) -> Iterator[None]:
    """Hold the lock of an account from another connection (PostgreSQL)."""
    other = Database(url)
    try:
        with other.transaction() as tx:
            tx.all(text("SELECT 1 FROM credit_accounts WHERE id = :id FOR UPDATE"), id=account)
            yield
    finally:
        other.dispose()


_EVENTS = select(
    WebhookEvent.state,
    WebhookEvent.outcome,
    WebhookEvent.attempts,
    WebhookEvent.due_at,
    WebhookEvent.lease_token,
    WebhookEvent.last_error,
).order_by(WebhookEvent.id)
_LETTERS = select(
    DeadLetter.operation_type,
    DeadLetter.status,
    DeadLetter.retry_count,
    DeadLetter.next_retry_at,
    DeadLetter.subject_id,
    DeadLetter.error_message,
).order_by(DeadLetter.id)
