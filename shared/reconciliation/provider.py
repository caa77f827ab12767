"""NOWPayments, its stored notices and our books, compared payment by payment, in chunks.

First what the provider lists and we may not know, page by page; that needs a login. Then each of
our payments that changed lately is read at the provider. Our row is read first, so what is on its
way is seen ahead of us and never taken for a credit without payment.
"""

from collections import defaultdict
from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, or_, select, tuple_

from shared.clock import from_stored, to_stored
from shared.database import Tx
from shared.errors import Unavailable
from shared.models.payments import CryptoPayment, PaymentCredit, WebhookEvent
from shared.models.types import UtcTime
from shared.parameters import member_of
from shared.payments.policy import load_policy
from shared.payments.providers.nowpayments import PaymentReading
from shared.payments.providers.nowpayments_shapes import is_identifier
from shared.payments.states import MONEY_STATUSES
from shared.reconciliation.desk import Desk
from shared.reconciliation.findings import Finding, Report
from shared.reconciliation.verdicts import HEALING, Booked, Case, Told, judge

_PAGE, _PAGES_MAX = 100, 100
_READS_AT_ONCE, _READS_MAX = 10, 2_000
_NO_LISTING = "provider_listing_not_configured"


def check_provider(desk: Desk, report: Report, place: Any) -> Any:
    """Compare a page of the provider's listing, or some of our payments.

    A provider that is away or not configured is told as "not checked": that is no failure, and no
    success either.
    """
    if not desk.asks_provider:
        report.not_checked = "It was not asked for."
        return None
    if not desk.provider.has_key:  # also where there is no payment to ask about
        report.not_checked = "NOWPAYMENTS_API_KEY is not set."
        return None
    try:
        if place is None or "page" in place:
            return _check_page(desk, report, place)
        return _check_ours(desk, report, place)
    except Unavailable as error:
        if error.code.startswith("database_"):
            raise
        report.not_checked = error.message
        report.is_away = True
        return None


def _check_page(desk: Desk, report: Report, place: Any) -> Any:
    """Look for payments that the provider lists and nobody here knows."""
    with desk.database.reading() as tx:
        now = from_stored(place["now"]) if place else tx.now
    since, number = now - timedelta(days=desk.provider_days), place["page"] if place else 0
    ours = {"now": to_stored(now), "since": to_stored(since), "id": ""}
    try:
        page = desk.provider.list_payments(date_from=since, date_to=now, limit=_PAGE, page=number)
    except Unavailable as error:
        if error.code != _NO_LISTING:
            raise
        report.counts["listingsNotConfigured"] = 1
        return ours
    with desk.database.reading() as tx:
        for reading in _unknown(tx, page.payments):
            if now - (reading.created_at or since) >= HEALING:
                report.add(_unknown_to_us(reading))
    report.counts["paymentsListed"] += len(page.payments)
    is_last = number + 1 >= min(page.pages_count, _PAGES_MAX)
    return ours if is_last else {"now": to_stored(now), "page": number + 1}


def _unknown(tx: Tx, listed: tuple[PaymentReading, ...]) -> list[PaymentReading]:
    numbers = [one.payment_id for one in listed]
    orders = [one.order_id for one in listed if one.order_id]
    known = tx.all(_KNOWN, numbers=numbers, orders=orders)
    ids = {row.provider_payment_id for row in known}
    waiting = {row.order_id for row in known if row.provider_payment_id is None}
    return [one for one in listed if one.payment_id not in ids and one.order_id not in waiting]


def _unknown_to_us(reading: PaymentReading) -> Finding:
    number, is_money = reading.payment_id, reading.payment_status in MONEY_STATUSES
    return Finding(
        "unknown_to_us",
        "error" if is_money else "info",
        number,
        f"The provider has a payment {number} ({reading.payment_status}) that is not known here.",
        f"If it is ours: arrakis payments replay {number}; if that finds no account, arrakis mint"
        f" ACCOUNT AMOUNT --source-type deposit --payment-id {number}",
        {
            "providerPaymentId": number,
            "orderId": reading.order_id,
            "parentPaymentId": reading.parent_payment_id,
            "providerStatus": reading.payment_status,
        },
    )


def _check_ours(desk: Desk, report: Report, place: dict[str, str]) -> dict[str, str] | None:
    """Read some of our payments at the provider, those that changed first first."""
    with desk.database.reading() as tx:
        policy = load_policy(tx)
        rows = tx.all(_OURS, since=from_stored(place["since"]), after=place["id"])
        cases = _cases(tx, rows)
        now = tx.now
    for case in cases:
        number = case.row["provider_payment_id"]
        if not is_identifier(number):
            continue  # it was never made there
        if report.counts["paymentsCompared"] >= _READS_MAX:
            report.not_checked = f"Only the first {_READS_MAX} payments were compared."
            return None
        found = judge(case, desk.provider.read_payment(number), policy, now)
        report.counts["paymentsCompared"] += 1
        if found is not None:
            report.add(found)
    if len(rows) < _READS_AT_ONCE:
        return None
    return place | {"since": to_stored(rows[-1].updated_at), "id": rows[-1].id}


def _cases(tx: Tx, rows: Any) -> list[Case]:
    notices: dict[str, list[Told]] = defaultdict(list)
    booked: dict[str, list[Booked]] = defaultdict(list)
    numbers = [row.provider_payment_id for row in rows if row.provider_payment_id]
    for row in tx.all(_NOTICES, numbers=numbers):
        notices[row.provider_payment_id].append(Told(row.source, row.status, row.state))
    for row in tx.all(_CREDITS, ids=[row.id for row in rows]):
        booked[row.payment_id].append(Booked(row.amount_micro, row.basis, row.rate))
    return [Case(row._asdict(), notices[row.provider_payment_id], booked[row.id]) for row in rows]


_IS_NOWPAYMENTS = CryptoPayment.provider == "nowpayments"
_KNOWN = select(CryptoPayment.provider_payment_id, CryptoPayment.order_id).where(
    _IS_NOWPAYMENTS,
    or_(
        member_of(CryptoPayment.provider_payment_id, "numbers"),
        member_of(CryptoPayment.order_id, "orders"),
    ),
)
_SINCE = bindparam("since", type_=UtcTime())
_OURS = (
    select(*CryptoPayment.__table__.c)
    .where(
        _IS_NOWPAYMENTS,
        CryptoPayment.provider_payment_id.is_not(None),
        tuple_(CryptoPayment.updated_at, CryptoPayment.id) > tuple_(_SINCE, bindparam("after")),
    )
    .order_by(CryptoPayment.updated_at, CryptoPayment.id)
    .limit(_READS_AT_ONCE)
)
_NOTICES = (
    select(
        WebhookEvent.provider_payment_id,
        WebhookEvent.source,
        WebhookEvent.status,
        WebhookEvent.state,
    )
    .where(
        WebhookEvent.provider == "nowpayments",
        member_of(WebhookEvent.provider_payment_id, "numbers"),
    )
    .order_by(WebhookEvent.id)
)
_CREDITS = (
    select(
        PaymentCredit.payment_id,
        PaymentCredit.amount_micro,
        PaymentCredit.basis,
        PaymentCredit.rate,
    )
    .where(member_of(PaymentCredit.payment_id, "ids"))
    .order_by(PaymentCredit.created_at, PaymentCredit.lot_id)
)
