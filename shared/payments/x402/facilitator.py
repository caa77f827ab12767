"""The facilitator: the service that verifies payments and settles them (protocols 2.2).

Not the package's own HTTPFacilitatorClientSync: it loses a verdict that comes with status 400,
follows redirects, cannot tell "surely not done" from "perhaps done", and puts the facilitator's
text into its errors. Here the calls are the house's own (bounded, counted, logged, cut off while
the other side is down); the shapes of the answers are the package's.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from x402.schemas import SettleResponse, VerifyResponse

from shared.payments.providers.calls import Call, Caller, Limits
from shared.payments.providers.exchange import Answer
from shared.payments.providers.outcomes import OutcomeUnknown, ProviderAway
from shared.payments.x402.networks import caip2_of
from shared.payments.x402.terms import Terms, requirement
from shared.payments.x402.values import address, strict_json, uint256, word
from shared.payments.x402.wire import Payment

log = structlog.get_logger()
M = TypeVar("M", VerifyResponse, SettleResponse)

USUAL_LIMITS = Limits(connect_seconds=3.0, answer_seconds=30.0, calls_at_once=8)
VERIFY_SECONDS = 10.0
NONCE_USED = "invalid_exact_evm_nonce_already_used"

_AWAY_SECONDS = 10
_OK = 200
_NOT_THE_CUSTOMERS = {401, 403, 404, 429}
# Verdicts that are none: the facilitator failed, and the payment may be good.
_OWN_FAULTS = {"unexpected_verify_error"}
# A settlement that failed after it was perhaps sent. ``transaction_failed`` is what the package
# also answers when its node timed out while it sent, or when it could not note what it sent.
_UNDECIDED = {
    "settlement_pending",
    "transaction_failed",
    "invalid_transaction_state",
    "unexpected_settle_error",
}
# Protocols 2.4. Callers see these codes and no other text of the facilitator's.
_CODES = {
    "insufficient_funds",
    "invalid_scheme",
    "unsupported_scheme",
    "invalid_network",
    "network_mismatch",
    "invalid_x402_version",
    "invalid_payload",
    "invalid_payment_requirements",
    "missing_eip712_domain",
    "asset_not_deployed_contract",
    "eip6492_factory_not_allowed",
}
_EVM_CODE = re.compile(r"invalid_exact_evm_[a-z0-9_]{1,64}")
_UNNAMED = "payment_rejected"


class FacilitatorAway(ProviderAway):
    """The facilitator has surely settled nothing and may do it later."""

    code = "facilitator_unavailable"


@dataclass(frozen=True)
class Accepted:
    """The facilitator would settle the payment of *payer* now. No money has moved."""

    payer: str


@dataclass(frozen=True)
class Rejected:
    """The payment is not good; *reason* is the protocol's code, fit for the payer to see.

    A settlement rejected as NONCE_USED has used the authorization up before, and only the chain
    knows for whom: an earlier try of ours whose answer was lost looks exactly so.
    """

    reason: str


@dataclass(frozen=True)
class Settled:
    """The money has moved: *value* of the token's units, in *transaction* on CAIP-2 *network*."""

    transaction: str
    network: str
    payer: str
    value: int


@dataclass(frozen=True)
class SettlementPending:
    """The settlement was, or may have been, sent to the chain, which decides what becomes of it."""

    transaction: str | None


class Facilitator:
    """A client of one facilitator; safe to share between threads.

    Its calls are counted under *name*; *clock* is for its breaker.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "x402",
        limits: Limits = USUAL_LIMITS,
        verify_seconds: float = VERIFY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._caller = Caller(provider=name, url=url, limits=limits, clock=clock)
        self._verify_seconds = verify_seconds
        self._settle_seconds = limits.answer_seconds

    def verify(self, payment: Payment, terms: Terms) -> Accepted | Rejected:
        """Ask whether *payment* would settle *terms* now.

        Raises FacilitatorAway for everything but a verdict: to ask changes nothing.
        """
        try:
            answer = self._post("verify", payment, terms, self._verify_seconds)
        except OutcomeUnknown as error:
            raise _away() from error
        outcome = _read_verified(answer, payment)
        _tell("verify", outcome, terms)
        return outcome

    def settle(self, payment: Payment, terms: Terms) -> Settled | SettlementPending | Rejected:
        """Have *payment* moved on the chain, once.

        Raises FacilitatorAway if the facilitator has surely done nothing, OutcomeUnknown if it may
        have: then, and when the settlement is pending, ask the chain (never success, never 402).
        """
        answer = self._post("settle", payment, terms, self._settle_seconds)
        if answer.status in _NOT_THE_CUSTOMERS:
            raise _away()
        outcome = _read_settled(answer, payment)
        _tell("settle", outcome, terms)
        return outcome

    def _post(self, name: str, payment: Payment, terms: Terms, seconds: float) -> Answer:
        body = {
            "x402Version": payment.version,
            "paymentPayload": json.loads(payment.raw),
            "paymentRequirements": requirement(terms, version=payment.version),
        }
        call = Call(
            name,
            f"/{name}",
            "POST",
            {"Content-Type": "application/json"},
            body=json.dumps(body).encode(),
        )
        try:
            return self._caller.once(call, seconds=seconds)
        except ProviderAway as error:
            raise FacilitatorAway(
                "The payment facilitator cannot be reached; nothing was paid.",
                retry_after_seconds=error.retry_after_seconds,
            ) from error


def _read_verified(answer: Answer, payment: Payment) -> Accepted | Rejected:
    # Some facilitators send a verdict with 400, which the package's client loses.
    is_verdict = answer.status == _OK or answer.status // 100 == 4  # noqa: PLR2004
    if not is_verdict or answer.status in _NOT_THE_CUSTOMERS:
        raise _away()
    try:
        verdict = _read(VerifyResponse, answer)
        if verdict.is_valid:
            _check(answer.status == _OK)
            _check(verdict.payer is None or address(verdict.payer) == payment.payer)
            return Accepted(payment.payer)
    except ValueError as error:
        raise _away() from error
    if verdict.invalid_reason in _OWN_FAULTS:
        raise _away()
    return Rejected(_code_of("verify", verdict.invalid_reason))


def _read_settled(answer: Answer, payment: Payment) -> Settled | SettlementPending | Rejected:
    if answer.status != _OK and answer.status // 100 != 4:  # noqa: PLR2004
        raise OutcomeUnknown(f"The facilitator answered {answer.status}.")
    try:
        response = _read(SettleResponse, answer)
        transaction = word(response.transaction) if response.transaction else None
        if response.success:
            _check(answer.status == _OK)
            return _settled(response, transaction, payment)
    except ValueError as error:
        raise OutcomeUnknown("The facilitator's answer makes no sense.") from error
    # A transaction that it names is on its way or on the chain, whatever it says of it.
    if transaction is not None or response.error_reason in _UNDECIDED:
        return SettlementPending(transaction)
    return Rejected(_code_of("settle", response.error_reason))


def _settled(response: SettleResponse, transaction: str | None, payment: Payment) -> Settled:
    """Return what was settled, if it is what we asked for. Raises ValueError."""
    _check(caip2_of(response.network) == payment.network)
    _check(response.payer is None or address(response.payer) == payment.payer)
    _check(response.amount is None or uint256(response.amount) == payment.value)
    if transaction is None:
        raise ValueError("settled without a transaction")
    return Settled(transaction, payment.network, payment.payer, payment.value)


def _read(kind: type[M], answer: Answer) -> M:
    return kind.model_validate(strict_json(answer.body), strict=True)


def _check(is_true: bool) -> None:  # noqa: FBT001  the one thing it takes
    if not is_true:
        raise ValueError("the answer contradicts what was asked")


def _code_of(call: str, reason: str | None) -> str:
    """Return the protocol's code for a rejection; a text that is none stays in our log."""
    if reason is not None and (reason in _CODES or _EVM_CODE.fullmatch(reason)):
        return reason
    log.warning("facilitator_reason_unnamed", call=call, reason=(reason or "")[:100])
    return _UNNAMED


def _tell(
    call: str, outcome: Accepted | Rejected | Settled | SettlementPending, terms: Terms
) -> None:
    log.info(
        "facilitator_answered",
        call=call,
        network=terms.network,
        quote_id=terms.quote_id,
        outcome=type(outcome).__name__,
        reason=outcome.reason if isinstance(outcome, Rejected) else None,
    )


def _away() -> FacilitatorAway:
    return FacilitatorAway(
        "The payment facilitator is not available; nothing was paid.",
        retry_after_seconds=_AWAY_SECONDS,
    )
