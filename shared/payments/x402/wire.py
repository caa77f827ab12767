"""The headers of x402 in and out: a payment, read strictly, and the answer to a settled one.

The package's own reader is too lax (protocols 2.4): base64 with junk in it, keys that come twice
and ``"10_000"`` pass. Its schemas are used for the shape, after our reading.
"""

import base64
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError
from x402.http.utils import encode_payment_response_header
from x402.schemas import PaymentPayload, SettleResponse
from x402.schemas.v1 import PaymentPayloadV1

from shared.errors import Invalid
from shared.payments.x402.networks import caip2_of, v1_name_of
from shared.payments.x402.values import address, hex_bytes, strict_json, uint256, word

HEADER_BYTES_MAX = 16 * 1024
RESPONSE_HEADERS = {1: "X-PAYMENT-RESPONSE", 2: "PAYMENT-RESPONSE"}
_PAYLOADS: dict[int, type[PaymentPayload | PaymentPayloadV1]] = {
    1: PaymentPayloadV1,
    2: PaymentPayload,
}
_QUOTE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class ChosenTerms:
    """The terms that a payer of version 2 repeats; addresses in lower case, amounts in units."""

    asset: str
    pay_to: str
    value: int
    max_timeout_seconds: int
    name: str | None
    version: str | None
    quote_id: str | None


@dataclass(frozen=True)
class Payment:
    """A payment as its header says: an EIP-3009 authorization and who claims to have signed it.

    Nothing here is verified. Addresses and *nonce* are in lower case, *network* is the CAIP-2 name,
    *value* counts the token's smallest units, *valid_after* and *valid_before* are Unix seconds.
    *chosen* is None in version 1, which repeats scheme and network only. *raw* is the JSON as it
    came, for the facilitator and for keeping: :func:`read_payment` makes the same payment of it.
    """

    version: int
    scheme: str
    network: str
    payer: str
    pay_to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: str
    signature: bytes
    chosen: ChosenTerms | None
    raw: str

    @property
    def asset(self) -> str | None:
        """The token, where the payer names it."""
        return self.chosen.asset if self.chosen else None

    @property
    def quote_id(self) -> str | None:
        """The quote that is paid, where the payer names it."""
        return self.chosen.quote_id if self.chosen else None


def payment_in(*, payment_signature: str | None, x_payment: str | None) -> Payment | None:
    """Return the payment in a request's PAYMENT-SIGNATURE (version 2) or X-PAYMENT (version 1).

    None if it has neither. Raises Invalid (``invalid_payment_header``) for anything that is not
    exactly one well-formed payment; ``details.reason`` is the protocol's code.
    """
    if payment_signature is not None and x_payment is not None:
        _refuse("A request carries PAYMENT-SIGNATURE or X-PAYMENT, not both.")
    if payment_signature is not None:
        return read_payment(_decoded(payment_signature), version=2)
    if x_payment is not None:
        return read_payment(_decoded(x_payment), version=1)
    return None


def read_payment(raw: str, *, version: int) -> Payment:
    """Return the payment in the JSON *raw*, of protocol *version* 1 or 2. Raises Invalid, as above.

    Any scheme and network are read: whether they are ours is for :func:`verify.verify` to say.
    """
    try:
        fields = _object(raw)
        if fields["x402Version"] != version:
            _refuse("The header is for another x402Version.", reason="invalid_x402_version")
        return _read(_PAYLOADS[version].model_validate(fields, strict=True), raw)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        _refuse(f"The payment has a missing or wrong field: {where}.", cause=error)
    except ValueError as error:
        _refuse("The payment is malformed.", cause=error)


def response_header(
    payment: Payment, *, transaction: str, error_reason: str | None = None
) -> tuple[str, str]:
    """Return name and value of the header that tells how *payment* was settled (protocols 2.1).

    *transaction* is empty, and *error_reason* the protocol's code, if it was not.
    """
    is_first = payment.version == 1
    response = SettleResponse(
        success=error_reason is None,
        error_reason=error_reason,
        transaction=transaction,
        network=(v1_name_of(payment.network) if is_first else None) or payment.network,
        payer=payment.payer,
    )
    return RESPONSE_HEADERS[payment.version], encode_payment_response_header(response)


def _decoded(header: str) -> str:
    """Return the text in a header: canonical padded base64 of UTF-8."""
    if len(header) > HEADER_BYTES_MAX:
        _refuse("The payment header is too long.")
    try:
        raw = base64.b64decode(header, validate=True)
        # The last letter may have bits that belong to no byte: then one payment has many spellings.
        is_canonical = base64.b64encode(raw).decode() == header
        text = raw.decode()
    except ValueError as error:
        _refuse("The payment header is not base64 of a text.", cause=error)
    if not is_canonical:
        _refuse("The payment header is not canonical base64.")
    return text


def _object(raw: str) -> dict[str, Any]:
    fields = strict_json(raw)
    if not isinstance(fields, dict) or type(fields.get("x402Version")) is not int:
        raise ValueError("not an object with an x402Version")
    return fields


def _read(payload: PaymentPayload | PaymentPayloadV1, raw: str) -> Payment:
    """Raises ValueError for values that are no amounts, times, addresses, nonces or bytes."""
    signed = payload.payload.get("authorization")
    # A second way to pay beside it would be the facilitator's to choose, and not what we reserve.
    if not isinstance(signed, dict) or set(payload.payload) != {"authorization", "signature"}:
        raise ValueError("not one authorization and its signature")
    return Payment(
        version=payload.x402_version,
        scheme=payload.get_scheme(),
        network=caip2_of(payload.get_network()),
        payer=address(signed.get("from")),
        pay_to=address(signed.get("to")),
        value=uint256(signed.get("value")),
        valid_after=uint256(signed.get("validAfter")),
        valid_before=uint256(signed.get("validBefore")),
        nonce=word(signed.get("nonce")),
        signature=hex_bytes(payload.payload.get("signature")),
        chosen=_read_chosen(payload) if isinstance(payload, PaymentPayload) else None,
        raw=raw,
    )


def _read_chosen(payload: PaymentPayload) -> ChosenTerms:
    accepted = payload.accepted
    return ChosenTerms(
        asset=address(accepted.asset),
        pay_to=address(accepted.pay_to),
        value=uint256(accepted.amount),
        max_timeout_seconds=accepted.max_timeout_seconds,
        name=_text(accepted.extra, "name"),
        version=_text(accepted.extra, "version"),
        quote_id=_quote_id(accepted.extra),
    )


def _text(extra: dict[str, Any], name: str) -> str | None:
    value = extra.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be text")
    return value


def _quote_id(extra: dict[str, Any]) -> str | None:
    value = _text(extra, "quoteId")
    if value is not None and _QUOTE_ID.fullmatch(value) is None:
        raise ValueError("no id of a quote")
    return value


def _refuse(
    message: str, *, reason: str = "invalid_payload", cause: Exception | None = None
) -> NoReturn:
    raise Invalid(message, code="invalid_payment_header", details={"reason": reason}) from cause
