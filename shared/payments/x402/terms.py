"""What we ask for: the terms of one quote on one network, and the 402 answer that carries them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from x402.http.utils import encode_payment_required_header
from x402.schemas import PaymentRequired, PaymentRequirements, ResourceInfo
from x402.schemas.v1 import PaymentRequiredV1, PaymentRequirementsV1

from shared.payments.x402.networks import Network, to_units, v1_name_of

SCHEME = "exact"
REQUIRED_HEADER = "PAYMENT-REQUIRED"


@dataclass(frozen=True)
class Terms:
    """One quote on one network: who pays these terms in time is credited the quote.

    *network* is the CAIP-2 name, *value* counts the token's smallest units, *name* and *version*
    are what the token signs with. A payer may sign up to *max_timeout_seconds* ahead. All fields
    are plain, so that a row can keep them: what was offered holds, whatever the settings say later.
    """

    network: str
    asset: str
    pay_to: str
    value: int
    max_timeout_seconds: int
    name: str
    version: str
    quote_id: str | None
    resource: str
    description: str
    mime_type: str = "application/json"


def terms_on(
    network: Network, *, amount_micro: int, quote_id: str, resource: str, description: str
) -> Terms:
    """Return the terms of a quote of *amount_micro* on *network*; *resource* is the URL to pay at.

    Raises Invalid (``amount_not_payable``) if the token has too few decimals for it.
    """
    return Terms(
        network=network.caip2,
        asset=network.token.asset,
        pay_to=network.pay_to,
        value=to_units(amount_micro, network.token.decimals),
        max_timeout_seconds=network.max_timeout_seconds,
        name=network.token.name,
        version=network.token.version,
        quote_id=quote_id,
        resource=resource,
        description=description,
    )


def required_header(offers: Sequence[Terms], *, error: str) -> str:
    """Return the value of PAYMENT-REQUIRED: version 2, base64 JSON (protocols 2.1).

    *offers* are the same quote on each network, at least one; the payer chooses.
    """
    resource = ResourceInfo(
        url=offers[0].resource,
        description=offers[0].description,
        mime_type=offers[0].mime_type,
    )
    accepts = [PaymentRequirements.model_validate(requirement(one, version=2)) for one in offers]
    return encode_payment_required_header(
        PaymentRequired(error=error, resource=resource, accepts=accepts)
    )


def required_body(offers: Sequence[Terms], *, error: str) -> dict[str, Any]:
    """Return the body of the same answer for version 1, with the networks that have a name there.

    Version 2 leaves the body free, so one answer serves both.
    """
    accepts = [
        PaymentRequirementsV1.model_validate(requirement(one, version=1))
        for one in offers
        if v1_name_of(one.network)
    ]
    answer = PaymentRequiredV1(error=error, accepts=accepts)
    return answer.model_dump(by_alias=True, exclude_none=True)


def requirement(terms: Terms, *, version: int) -> dict[str, Any]:
    """Return *terms* as one requirement of protocol *version* 1 or 2, ready for JSON.

    The quote's id travels in ``extra``, which a payer of version 2 repeats to us: an EIP-3009
    signature covers no id of ours (protocols 2.5).
    """
    extra = {"name": terms.name, "version": terms.version}
    if terms.quote_id is not None:
        extra["quoteId"] = terms.quote_id
    common = {
        "scheme": SCHEME,
        "asset": terms.asset,
        "payTo": terms.pay_to,
        "maxTimeoutSeconds": terms.max_timeout_seconds,
        "extra": extra,
    }
    if version == 2:  # noqa: PLR2004  the protocol's version
        return {**common, "network": terms.network, "amount": str(terms.value)}
    return {
        **common,
        "network": v1_name_of(terms.network) or terms.network,
        "maxAmountRequired": str(terms.value),
        "resource": terms.resource,
        "description": terms.description,
        "mimeType": terms.mime_type,
    }
