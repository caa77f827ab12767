"""How much a payment and its notices take: part of `python -m bench.capacity`.

Payments are rows as creation leaves them; bodies and answers are the simulator's, which are as long
as the provider's; notices go through the inbox and the intake, status by status.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from bench.ledger import Book
from bench.measuring import give_up
from deploy.simulator.shapes import Payment, created_shape, notice_shape
from deploy.simulator.wire import print_json
from shared.config import ProviderSettings
from shared.database import insert_rows
from shared.ids import new_id
from shared.ledger.terms import TermsCache
from shared.models.payments import CryptoPayment
from shared.money import CoinAmount
from shared.payments import intake
from shared.payments.inbox import store_notice
from shared.wiring import make_intake

STATUSES = ("waiting", "confirming", "confirmed", "sending", "finished")
_PRICE, _BATCH = 25, 100


def carry_out(book: Book, payments: int) -> None:
    """Make *payments* of $25 for the accounts of *book*, and credit them by their notices."""
    made = [
        _make(book, range(start, min(start + _BATCH, payments)))
        for start in range(0, payments, _BATCH)
    ]
    settings = ProviderSettings(database_url=book.url, payments_verify_before_credit=False)
    work = make_intake(settings, book.database, TermsCache(book.database))
    for status in STATUSES:
        for batch in made:
            _tell(book, batch, status)
            while intake.drain(work):
                pass
    with book.database.reading() as tx:
        credited = tx.scalar(text("SELECT COUNT(*) FROM payment_credits"))
    if credited != payments:
        give_up(f"{credited} of {payments} payments are credited")


def _make(book: Book, numbers: Sequence[int]) -> list[Payment]:
    with book.database.transaction() as tx:
        made = []
        for number in numbers:
            id_ = f"cp_{new_id(tx.now)}"
            made.append(
                Payment(
                    id=5_000_000_000 + number,
                    parent_id=None,
                    order_id=id_,
                    order_description="Arrakis credits",
                    purchase_id=str(6_000_000_000 + number),
                    price_amount=Decimal(_PRICE),
                    price_currency="usd",
                    pay_usd=Decimal(_PRICE),
                    pay_amount=Decimal("25.04317800"),
                    pay_currency="usdcbase",
                    pay_address=f"0x{number:040x}",
                    callback_url="https://billing.example.com/api/billing/webhooks/nowpayments",
                    is_fixed_rate=False,
                    is_fee_paid_by_user=False,
                    created_at=tx.now,
                    updated_at=tx.now,
                )
            )
        accounts = [book.accounts[number % len(book.accounts)] for number in numbers]
        rows = [_row(one, account) for one, account in zip(made, accounts, strict=True)]
        insert_rows(tx, CryptoPayment.__table__, rows)
    return made


def _row(payment: Payment, account: str) -> dict[str, Any]:
    return {
        "id": payment.order_id,
        "provider": "nowpayments",
        "provider_payment_id": str(payment.id),
        "order_id": payment.order_id,
        "account_id": account,
        "price_amount": CoinAmount(payment.price_amount),
        "price_currency": "usd",
        "pay_amount": CoinAmount(payment.pay_amount),
        "pay_currency": payment.pay_currency,
        "pay_address": payment.pay_address,
        "raw_payload": print_json(created_shape(payment)),
        "status": "waiting",
        "idempotency_key": new_id(payment.created_at),
        "request_fingerprint": "0" * 64,
        "expires_at": payment.created_at + timedelta(days=7),
        "next_poll_at": payment.created_at + timedelta(minutes=15),
        "created_at": payment.created_at,
        "updated_at": payment.created_at,
    }


def _tell(book: Book, payments: Sequence[Payment], status: str) -> None:
    with book.database.transaction() as tx:
        for payment in payments:
            payment.status, payment.updated_at = status, tx.now
            if status != "waiting":
                payment.actually_paid = payment.pay_amount
            body = print_json(notice_shape(payment), sort_keys=True)
            notice = json.loads(body, parse_int=str, parse_float=str)
            store_notice(tx, provider="nowpayments", notice=notice, raw_body=body.encode())
