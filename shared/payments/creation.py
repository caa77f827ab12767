"""Create a payment: claim (a row of ours) → call (the provider) → record (what it said).

The row comes first, and its ``order_id`` says whether the provider may have heard of it: it is set
before the call, and emptied again only if the provider has surely done nothing. A row without one
may be sent by the next repeat of its key; a row with one never is, whatever happened to the answer
(ADR 0012).
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy import bindparam, select, text, update
from sqlalchemy.exc import IntegrityError

from shared.clock import add_seconds
from shared.database import Database, Tx, insert_rows, patiently, update_rows
from shared.errors import ArrakisError, Conflict, Invalid, Unavailable
from shared.ids import new_id
from shared.ledger.queries import require_account
from shared.models.payments import CryptoPayment
from shared.money import coin_to_micro, parse_coin, usd_text
from shared.payments.packs import Pack
from shared.payments.polling import next_look
from shared.payments.providers.nowpayments import (
    CreatedPayment,
    NowPayments,
    OutcomeUnknown,
    ProviderAway,
)
from shared.payments.views import show_payment

log = structlog.get_logger()
_DEFAULT_EXPIRY_SECONDS = 7 * 86_400
_UNKNOWN_SECONDS = 30
FIRST_SEARCH_SECONDS = 120
_TABLE = CryptoPayment.__table__


def create_payment(
    database: Database,
    provider: NowPayments,
    *,
    account_id: str,
    amount_micro: int,
    pay_currency: str,
    ceiling_micro: int,
    idempotency_key: str | None = None,
    pack: Pack | None = None,
) -> tuple[dict[str, Any], bool]:
    """Create a payment into *account_id* and return it, and whether it is an earlier one.

    With *pack* its full price buys the pack's credits. Raises NotFound for an unknown account,
    Conflict for a key used with other content, Invalid if the provider refuses, and Unavailable in
    two cases. If the provider is away (ProviderAway), a payment with a key stays ``creating`` and
    the same request sends it later. If its answer was lost (OutcomeUnknown), the payment stays
    ``creating`` too, but is not sent again.
    """
    if amount_micro > ceiling_micro:  # what is paid later is credited whatever the ceiling then
        raise Invalid(
            f"The amount is above the ceiling of {ceiling_micro} micro-USD.",
            code="amount_above_ceiling",
            details={"ceilingMicro": str(ceiling_micro)},
        )
    claim = Claim(
        account_id=account_id,
        amount_micro=amount_micro,
        pay_currency=pay_currency,
        idempotency_key=idempotency_key,
        pack=pack,
    )
    payment_id, earlier = patiently(partial(_claim, database, claim))
    if earlier is not None:
        return earlier, True
    return _send(database, provider, claim, payment_id), False


def _send(
    database: Database, provider: NowPayments, claim: "Claim", payment_id: str
) -> dict[str, Any]:
    """Call the provider for a row that this caller alone may send, and record what it said."""
    try:
        created = provider.create_payment(
            order_id=payment_id,
            amount_micro=claim.amount_micro,
            pay_currency=claim.pay_currency,
            description=f"Credits for {claim.account_id}",
        )
        return _recorded(database, payment_id, created)
    except OutcomeUnknown as unknown:
        log.warning("payment_outcome_unknown", payment_id=payment_id, reason=unknown.message)
        unknown.details = {"paymentId": payment_id}
        unknown.retry_after_seconds = _UNKNOWN_SECONDS
        raise
    except ProviderAway as away:
        patiently(partial(_put_back, database, claim, payment_id, away))
        if claim.idempotency_key is not None:
            away.details = {"paymentId": payment_id}
        raise
    except Invalid as refusal:
        explained = _explain(provider, claim, refusal)
        patiently(partial(_refuse, database, payment_id, explained))
        raise explained from refusal


def _explain(provider: NowPayments, claim: "Claim", refusal: Invalid) -> Invalid:
    """Return *refusal*, with the provider's minimum if that is the reason.

    It is asked only now, so that no creation waits for one more call.
    """
    try:
        least = provider.minimum(claim.pay_currency).usd_amount
    except (Unavailable, Invalid):
        return refusal
    if least is None or claim.amount_micro >= coin_to_micro(least):
        return refusal
    return Invalid(
        f"The provider takes no less than {least:f} USD in {claim.pay_currency}.",
        code=refusal.code,
    )


@dataclass(frozen=True)
class Claim:
    """What a payment is asked for; its key, if any, must not be used for other content."""

    account_id: str
    amount_micro: int
    pay_currency: str
    idempotency_key: str | None
    pack: Pack | None = None

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        what = f"pack {self.pack.id}" if self.pack else self.amount_micro
        return json.dumps([what, self.pay_currency])


def _claim(database: Database, claim: Claim) -> tuple[str, dict[str, Any] | None]:
    """Return the id of a row for this caller to send, or of the earlier one as it is shown."""
    with database.transaction() as tx:
        require_account(tx, claim.account_id)
        if claim.idempotency_key is not None:
            earlier = tx.first(_BY_KEY, account_id=claim.account_id, key=claim.idempotency_key)
            if earlier is not None:
                _require_same(earlier, claim)
                # One of several callers at once changes the row, and that one sends it.
                if tx.run(_TAKE_TO_SEND, payment=earlier.id, now=tx.now):
                    return earlier.id, None
                return earlier.id, _replay(tx, earlier)
        payment_id = f"cp_{new_id(tx.now)}"
        row = {
            "id": payment_id,
            "provider": "nowpayments",
            "account_id": claim.account_id,
            "order_id": payment_id,
            "price_amount": parse_coin(usd_text(claim.amount_micro)),
            "price_currency": "usd",
            "pay_currency": claim.pay_currency,
            "pack_id": claim.pack.id if claim.pack else None,
            "pack_micro": claim.pack.credit_micro if claim.pack else None,
            "status": "creating",
            "next_poll_at": add_seconds(tx.now, FIRST_SEARCH_SECONDS),
            "idempotency_key": claim.idempotency_key,
            "request_fingerprint": claim.fingerprint,
            "created_at": tx.now,
            "updated_at": tx.now,
        }
        insert_rows(tx, _TABLE, [row])
        return payment_id, None


def _require_same(earlier: Any, claim: Claim) -> None:
    if earlier.request_fingerprint != claim.fingerprint:
        raise Conflict(
            "This idempotency key was used for a payment with other content.",
            code="idempotency_conflict",
        )


def _replay(tx: Tx, earlier: Any) -> dict[str, Any]:
    if earlier.status == "creating":
        raise OutcomeUnknown(
            "The provider's answer to this payment is not known yet.",
            details={"paymentId": earlier.id},
            retry_after_seconds=_UNKNOWN_SECONDS,
        )
    if earlier.provider_payment_id == _refused_id(earlier.id):
        raise Invalid(earlier.review_reason, code="payment_refused")
    return show_payment(tx, earlier.id)


def _recorded(database: Database, payment_id: str, created: CreatedPayment) -> dict[str, Any]:
    def once() -> dict[str, Any]:
        with database.transaction() as tx:
            _record(tx, payment_id, created)
            return show_payment(tx, payment_id)

    try:
        return patiently(once)
    except IntegrityError as error:
        raise OutcomeUnknown("The provider answered with the id of another payment.") from error


def _record(tx: Tx, payment_id: str, created: CreatedPayment) -> None:
    # A notice may have been faster than this answer: then the state is further on already.
    known = tx.first(_STATUS, id=payment_id)
    assert known is not None
    status = "waiting" if known.status == "creating" else known.status
    row = {
        "id": payment_id,
        "provider_payment_id": created.provider_payment_id,
        "status": status,
        "next_poll_at": next_look(status, created_at=known.created_at, now=tx.now),
        "pay_address": created.pay_address,
        "pay_amount": created.pay_amount,
        "pay_currency": created.pay_currency,
        "raw_payload": created.raw,
        "expires_at": created.expires_at or add_seconds(tx.now, _DEFAULT_EXPIRY_SECONDS),
        "updated_at": tx.now,
    }
    update_rows(tx, _TABLE, [row])


def _put_back(database: Database, claim: Claim, payment_id: str, away: ProviderAway) -> None:
    """Note that the provider surely has not heard of it: whoever has the key may send it again.

    Without a key nobody can, so then it has failed.
    """
    if claim.idempotency_key is None:
        _refuse(database, payment_id, away)
        return
    with database.transaction() as tx:
        tx.run(_PUT_BACK, payment=payment_id, now=tx.now)


def _refuse(database: Database, payment_id: str, refusal: ArrakisError) -> None:
    """Note that no address exists for this row, so no money can arrive."""
    with database.transaction() as tx:
        refused_id, reason = _refused_id(payment_id), refusal.message
        tx.run(_REFUSE, payment=payment_id, refused_id=refused_id, reason=reason, now=tx.now)


def _refused_id(payment_id: str) -> str:
    return f"refused-{payment_id}"


_BY_KEY = select(
    CryptoPayment.id,
    CryptoPayment.status,
    CryptoPayment.provider_payment_id,
    CryptoPayment.review_reason,
    CryptoPayment.request_fingerprint,
).where(
    CryptoPayment.account_id == text(":account_id"), CryptoPayment.idempotency_key == text(":key")
)
_STATUS = (
    select(CryptoPayment.status, CryptoPayment.created_at)
    .where(CryptoPayment.id == text(":id"))
    .with_for_update()
)
_UNANSWERED = update(CryptoPayment).where(
    CryptoPayment.id == bindparam("payment"),
    CryptoPayment.status == "creating",
    CryptoPayment.provider_payment_id.is_(None),
)
_TAKE_TO_SEND = _UNANSWERED.where(CryptoPayment.order_id.is_(None)).values(
    order_id=CryptoPayment.id, updated_at=bindparam("now")
)
_PUT_BACK = _UNANSWERED.values(order_id=None, updated_at=bindparam("now"))
_REFUSE = _UNANSWERED.values(
    provider_payment_id=bindparam("refused_id"),
    status="failed",
    review_reason=bindparam("reason"),
    next_poll_at=None,
    updated_at=bindparam("now"),
)
