"""The strict local check of a payment against the terms of a quote. Pure: time is an argument.

It is the cheap first gate. What only the chain knows (balance, used nonce, a payer that is a
contract) is the facilitator's to say, and a settlement the only proof of payment (protocols 2.5).
"""

from datetime import datetime
from typing import NoReturn

from shared.errors import Refused
from shared.payments.x402.signatures import SIGNATURE_BYTES, transfer_signer
from shared.payments.x402.terms import SCHEME, Terms
from shared.payments.x402.wire import ChosenTerms, Payment

SETTLE_SECONDS = 6
"""How long a payment must stay valid, so that it can be settled (protocols 2.4)."""
CLOCK_SKEW_SECONDS = 60
"""How much a payer's clock may be ahead of ours when it adds the time-out to its now."""


def verify(payment: Payment, terms: Terms, *, now: datetime) -> None:
    """Return if *payment* pays *terms* at *now*, as far as we can tell without the chain.

    The order is the official facilitator's (protocols 2.4), and so are the codes. Stricter than it:
    the terms that the payer repeats must be ours, the validity may not outlast the time-out, and a
    signature's high-s twin is refused. A signature that is not 65 bytes is a contract wallet's
    (EIP-1271, ERC-6492); nobody can judge it without the chain, so it is refused as the vectors'
    strict verdict says (``signature_64_bytes``). Such a wallet can pay by a transfer that it claims
    with a signed message, where the chain is asked.

    Raises Refused with the protocol's code.
    """
    _check_terms(payment, terms)
    _check_window(payment, terms, int(now.timestamp()))
    _check_signature(payment, terms)


def _check_terms(payment: Payment, terms: Terms) -> None:
    chosen = payment.chosen
    if payment.scheme != SCHEME:
        _refuse("unsupported_scheme", "Only the scheme exact is taken.")
    if payment.network != terms.network:
        _refuse("network_mismatch", "The payment is on another network than the quote.")
    if chosen is not None and (chosen.name is None or chosen.version is None):
        _refuse("missing_eip712_domain", "The repeated terms lack the token's name or version.")
    if payment.pay_to != terms.pay_to.lower():
        _refuse(
            "invalid_exact_evm_payload_recipient_mismatch", "The payment is to another recipient."
        )
    if payment.value != terms.value:
        _refuse(
            "invalid_exact_evm_payload_authorization_value_mismatch",
            "The payment is of another amount than the quote.",
        )
    if chosen is not None and chosen != _as_chosen(terms):
        _refuse("invalid_payment_requirements", "The payment repeats other terms than the quote's.")


def _check_window(payment: Payment, terms: Terms, now: int) -> None:
    latest = now + terms.max_timeout_seconds + CLOCK_SKEW_SECONDS
    if not now + SETTLE_SECONDS <= payment.valid_before <= latest:
        _refuse(
            "invalid_exact_evm_payload_authorization_valid_before",
            "The payment must be valid for some seconds yet, and no longer than the time-out.",
        )
    if payment.valid_after > now:
        _refuse(
            "invalid_exact_evm_payload_authorization_valid_after", "The payment is not valid yet."
        )


def _check_signature(payment: Payment, terms: Terms) -> None:
    code = "invalid_exact_evm_payload_signature"
    if len(payment.signature) != SIGNATURE_BYTES:
        _refuse(code, "Only the 65-byte signature of a plain account is taken here.")
    if transfer_signer(payment, terms) != payment.payer:
        _refuse(code, "The payer has not signed this payment.")


def _as_chosen(terms: Terms) -> ChosenTerms:
    return ChosenTerms(
        asset=terms.asset.lower(),
        pay_to=terms.pay_to.lower(),
        value=terms.value,
        max_timeout_seconds=terms.max_timeout_seconds,
        name=terms.name,
        version=terms.version,
        quote_id=terms.quote_id,
    )


def _refuse(code: str, message: str) -> NoReturn:
    raise Refused(message, code=code)
