"""What a caller of the facilitator claims: a payment and the terms it is for, in x402 v1 or v2."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.simulator.wire import JsonObject, parse_object


class Malformed(Exception):
    """The call has not the form of x402; *code* is the protocol's name for it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Claim:
    """A payment and the terms it is held to, as they were sent; the authorization may lack parts.

    *scheme* and *network* are the payer's choice, the ones in *terms* the seller's.
    """

    version: int
    scheme: str
    network: str
    terms: Mapping[str, Any]
    authorization: Mapping[str, str]
    signature: str

    @property
    def payer(self) -> str:
        """The payer's address as it was sent, empty if it was not."""
        return self.authorization.get("from", "")

    @property
    def amount(self) -> str:
        """The amount that the seller asks."""
        return str(self.terms["amount" if self.version == 2 else "maxAmountRequired"])

    @property
    def extra(self) -> Mapping[str, Any]:
        """What the terms say about the token's signing domain."""
        return self.terms.get("extra") or {}


def read_claim(text: bytes) -> Claim:
    """Return the claim in the body of a call to verify or settle. Raises Malformed."""
    try:
        asked = parse_object(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("invalid_payload") from error
    version = asked.get("x402Version")
    if isinstance(version, bool) or version not in (1, 2):
        raise Malformed("invalid_x402_version")
    payment, terms = asked.get("paymentPayload"), asked.get("paymentRequirements")
    if not isinstance(payment, dict) or not isinstance(payment.get("payload"), dict):
        raise Malformed("invalid_payload")
    if payment.get("x402Version") != version:
        raise Malformed("invalid_x402_version")
    if not isinstance(terms, dict) or not _are_terms(terms, version):
        raise Malformed("invalid_payment_requirements")
    chosen = payment.get("accepted") if version == 2 else payment
    if not isinstance(chosen, dict) or not _has_texts(chosen, "scheme", "network"):
        raise Malformed("invalid_payload")
    signed = payment["payload"]
    authorization, signature = signed.get("authorization", {}), signed.get("signature", "")
    # A missing authorization is let through, and then pays the wrong recipient: so the package.
    if not isinstance(authorization, dict) or not _has_texts(authorization, *authorization):
        raise Malformed("invalid_payload")
    if not isinstance(signature, str):
        raise Malformed("invalid_payload")
    return Claim(version, chosen["scheme"], chosen["network"], terms, authorization, signature)


def _are_terms(terms: JsonObject, version: int) -> bool:
    amount = ("amount",) if version == 2 else ("maxAmountRequired", "resource")
    timeout = terms.get("maxTimeoutSeconds")
    return (
        _has_texts(terms, "scheme", "network", "asset", "payTo", *amount)
        and isinstance(timeout, int)
        and not isinstance(timeout, bool)
        and isinstance(terms.get("extra", {}), dict | None)
    )


def _has_texts(found: Mapping[str, Any], *names: str) -> bool:
    return all(isinstance(found.get(name), str) for name in names)
