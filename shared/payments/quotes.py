"""Quotes for x402: what an account may pay, on which networks, until when (contract 7).

A quote belongs to one account and is paid once; another account's looks like none.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, select, text

from shared.clock import add_seconds
from shared.database import Database, Tx, insert_rows
from shared.errors import Conflict, Invalid, Refused, Unavailable
from shared.ids import new_id
from shared.ledger.queries import require_account
from shared.ledger.terms import TermsCache
from shared.models.payments import CryptoPayment
from shared.models.types import UtcTime
from shared.models.x402 import Quote, Settlement
from shared.parameters import constant, member_of
from shared.payments.x402.chain import Chain
from shared.payments.x402.facilitator import Facilitator
from shared.payments.x402.networks import Network
from shared.payments.x402.terms import Terms, terms_on
from shared.payments.x402.wire import Payment

_CANDIDATES = 20
_KEPT_SECONDS = 86_400
_DESKS = 6
"""How many payments wait for facilitators and chains at once: of 16 threads of the API."""


@dataclass(frozen=True)
class Cashier:
    """What x402 is taken with: the networks by their CAIP-2 name, and who settles and sees."""

    database: Database
    terms: TermsCache
    networks: Mapping[str, Network]
    facilitators: Mapping[str, Facilitator]
    chains: Mapping[str, Chain]
    quote_seconds: int = 300
    desks: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_DESKS)
    )

    @contextmanager
    def desk(self) -> Iterator[None]:
        """Hold one of the few places where a payment may wait for others, all networks together.

        Nobody queues for one: who waits holds a thread, too, and the threads that are left are for
        reserves and finalizes. Raises Unavailable (``topups_busy``).
        """
        if not self.desks.acquire(blocking=False):
            raise Unavailable(
                "Many payments are being settled at the moment; send the same request again.",
                code="topups_busy",
                retry_after_seconds=5,
            )
        try:
            yield
        finally:
            self.desks.release()

    def require_networks(self) -> None:
        """Raise Unavailable (``x402_not_configured``) if there is no network to pay on."""
        if not self.networks:
            raise Unavailable(
                "Payments by x402 are not configured: X402_NETWORKS is empty.",
                code="x402_not_configured",
                retry_after_seconds=60,
            )


@dataclass(frozen=True)
class Offer:
    """A quote as it was made: its terms on each network."""

    id: str
    account_id: str
    amount_micro: int
    credit_micro: int
    pack_id: str | None
    expires_at: datetime
    terms: tuple[Terms, ...]

    def on(self, network: str) -> Terms | None:
        """Return the terms on *network*, None if they were not offered there."""
        return next((one for one in self.terms if one.network == network), None)


def make_quote(
    cashier: Cashier,
    *,
    account_id: str,
    amount_micro: int,
    credit_micro: int,
    resource: str,
    pack_id: str | None = None,
) -> Offer:
    """Offer *credit_micro* for *amount_micro*. Raises NotFound, Invalid above the ceiling."""
    cashier.require_networks()
    check_ceiling(amount_micro, cashier.terms.current().ceiling_micro)
    what = f"pack {pack_id}" if pack_id else "top-up"
    with cashier.database.transaction() as tx:
        require_account(tx, account_id)
        quote_id = f"quote_{new_id(tx.now)}"
        offered = tuple(
            terms_on(
                network,
                amount_micro=amount_micro,
                quote_id=quote_id,
                resource=resource,
                description=f"Arrakis credits: {what}",
            )
            for network in cashier.networks.values()
        )
        offer = Offer(
            id=quote_id,
            account_id=account_id,
            amount_micro=amount_micro,
            credit_micro=credit_micro,
            pack_id=pack_id,
            expires_at=add_seconds(tx.now, cashier.quote_seconds),
            terms=offered,
        )
        row = {
            "id": offer.id,
            "account_id": offer.account_id,
            "amount_micro": offer.amount_micro,
            "credit_micro": offer.credit_micro,
            "pack_id": offer.pack_id,
            "offers": json.dumps([asdict(one) for one in offered]),
            "expires_at": offer.expires_at,
            "created_at": tx.now,
        }
        insert_rows(tx, Quote.__table__, [row])
    return offer


def sweep(database: Database) -> int:
    """Delete some quotes that ran out long ago and that nobody tried to pay; return how many."""
    with database.transaction() as tx:
        old = tx.all(_OLD, at=add_seconds(tx.now, -_KEPT_SECONDS))
        return tx.run(_DELETE, ids=[row.id for row in old]) if old else 0


def check_ceiling(amount_micro: int, ceiling_micro: int) -> None:
    """Raise Invalid (``amount_above_ceiling``): what is paid is credited whatever the ceiling."""
    if amount_micro > ceiling_micro:
        raise Invalid(
            f"The amount is above the ceiling of {ceiling_micro} micro-USD.",
            code="amount_above_ceiling",
            details={"ceilingMicro": str(ceiling_micro)},
        )


def find_quote(tx: Tx, *, account_id: str, payment: Payment, quote_id: str | None) -> Offer:
    """Return the quote that *payment* pays: the one that it or the caller names, else the newest
    open one of the account with these terms (version 1 names none).

    Raises Refused (``quote_unknown``) if there is none, or it is another account's, and Conflict
    (``payment_replayed``) if the authorization is taken already.
    """
    used = tx.first(_USED, network=payment.network, payer=payment.payer, nonce=payment.nonce)
    if used is not None:
        is_own = used.account_id == account_id
        raise Conflict(
            "This authorization was used already.",
            code="payment_replayed",
            details={"paymentId": used.id, "status": used.status} if is_own else None,
        )
    named = payment.quote_id or quote_id
    if named is not None:
        row = tx.first(_BY_ID, id=named)
        if row is None or row.account_id != account_id:
            raise Refused("There is no such quote of yours.", code="quote_unknown")
        return read_quote(row)
    for row in tx.all(_OPEN, account_id=account_id, now=tx.now):
        offer = read_quote(row)
        terms = offer.on(payment.network)
        if terms is not None and terms.value == payment.value:
            return offer
    raise Refused("No open quote of yours has these terms.", code="quote_unknown")


def read_quote(row: Row[Any]) -> Offer:
    """Return the quote in *row*."""
    return Offer(
        id=row.id,
        account_id=row.account_id,
        amount_micro=row.amount_micro,
        credit_micro=row.credit_micro,
        pack_id=row.pack_id,
        expires_at=row.expires_at,
        terms=tuple(Terms(**one) for one in json.loads(row.offers)),
    )


_USED = (
    select(CryptoPayment.id, CryptoPayment.account_id, CryptoPayment.status)
    .join(Settlement, Settlement.payment_id == CryptoPayment.id)
    .where(
        Settlement.is_open,
        Settlement.network == text(":network"),
        Settlement.payer == text(":payer"),
        Settlement.nonce == text(":nonce"),
    )
)
_OLD = (
    select(Quote.id)
    .where(
        Quote.expires_at < bindparam("at", type_=UtcTime()),
        # Looked up for each quote: an anti-join would read all settlements.
        select(func.min(Settlement.id))
        .where(Settlement.quote_id == Quote.id)
        .scalar_subquery()
        .is_(None),
    )
    .order_by(Quote.expires_at)
    .limit(constant(500))
)
_DELETE = delete(Quote).where(member_of(Quote.id, "ids"))
_BY_ID = select(*Quote.__table__.c).where(Quote.id == text(":id"))
_TAKEN = select(Settlement.id).where(Settlement.quote_id == Quote.id, Settlement.is_open).exists()
_OPEN = (
    select(*Quote.__table__.c)
    .where(
        Quote.account_id == text(":account_id"),
        Quote.expires_at > bindparam("now", type_=UtcTime()),
        ~_TAKEN,
    )
    .order_by(Quote.created_at.desc(), Quote.id.desc())
    .limit(_CANDIDATES)
)
