"""A payer's wallet for tests and the demo: keys that repeat, payments and claims signed for real.

Its keys are public, in this file: never send anything of value to their addresses.
"""

import base64
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

from eth_utils.crypto import keccak

from deploy.simulator.networks import network_named
from deploy.simulator.signing import CURVE_ORDER, Authorization, Domain, sign, sign_authorization
from deploy.simulator.wire import JsonObject
from shared.payments.x402.ethereum import Account, encode_defunct

_KEY_PREFIX = "arrakis simulator, worthless key: "
_V1_SECONDS_BACK = 600


def key_named(name: str) -> str:
    """Return the private key of the test payer *name*: the same for the same name, for ever."""
    return f"0x{keccak(text=_KEY_PREFIX + name).hex()}"


def address_of(key: str) -> str:
    """Return the address of *key*, in checksum case."""
    return str(Account.from_key(key).address)


def sign_v2(
    payment_required: Mapping[str, Any] | str,
    key: str,
    *,
    choice: int = 0,
    now: int | None = None,
    nonce: str | None = None,
    payer: str | None = None,
    **changes: str,
) -> str:
    """Return a PAYMENT-SIGNATURE header that pays the terms in *payment_required*.

    *payment_required* is the JSON object, or the text of the PAYMENT-REQUIRED header. *choice* is
    the index in `accepts`; *payer* a contract wallet that *key* signs for. *changes* replace
    fields of the authorization (to, value, validAfter, validBefore) before it is signed.
    """
    asked = _object(payment_required)
    terms = asked["accepts"][choice]
    moment = int(time.time()) if now is None else now
    fields = {
        "from": payer or address_of(key),
        "to": terms["payTo"],
        "value": terms["amount"],
        "validAfter": "0",
        "validBefore": str(moment + terms["maxTimeoutSeconds"]),
        "nonce": nonce or f"0x{secrets.token_hex(32)}",
    } | changes
    payload = {"authorization": fields, "signature": sign_fields(fields, terms, key)}
    header = {"x402Version": 2, "payload": payload, "accepted": terms}
    if "resource" in asked:
        header["resource"] = asked["resource"]
    return write_header(header)


def sign_v1(
    payment_required: Mapping[str, Any],
    key: str,
    *,
    choice: int = 0,
    now: int | None = None,
    nonce: str | None = None,
    payer: str | None = None,
    **changes: str,
) -> str:
    """Return an X-PAYMENT header that pays the terms in a v1 402 body; see `sign_v2`."""
    terms = payment_required["accepts"][choice]
    moment = int(time.time()) if now is None else now
    fields = {
        "from": payer or address_of(key),
        "to": terms["payTo"],
        "value": terms["maxAmountRequired"],
        "validAfter": str(moment - _V1_SECONDS_BACK),
        "validBefore": str(moment + terms["maxTimeoutSeconds"]),
        "nonce": nonce or f"0x{secrets.token_hex(32)}",
    } | changes
    payload = {"authorization": fields, "signature": sign_fields(fields, terms, key)}
    chosen = {"scheme": terms["scheme"], "network": terms["network"]}
    return write_header({"x402Version": 1, **chosen, "payload": payload})


def sign_fields(fields: Mapping[str, str], terms: Mapping[str, Any], key: str) -> str:
    """Return the signature of an authorization's JSON *fields*, under the domain in *terms*."""
    network = network_named(terms["network"])
    if network is None:
        raise ValueError(f"The wallet does not know the network {terms['network']}.")
    authorization = Authorization(
        payer=fields["from"],
        to=fields["to"],
        value=int(fields["value"]),
        valid_after=int(fields["validAfter"]),
        valid_before=int(fields["validBefore"]),
        nonce=bytes.fromhex(fields["nonce"].removeprefix("0x")),
    )
    extra = terms["extra"]
    domain = Domain(extra["name"], extra["version"], network.chain_id, terms["asset"])
    return sign_authorization(authorization, domain, key=key)


def sign_claim(text: str, key: str) -> str:
    """Return the signature of *text* as wallets sign a message (EIP-191, personal_sign)."""
    return sign(encode_defunct(text=text), key=key)


def twin_of(signature: str) -> str:
    """Return the other signature that the same address recovers from: s in the upper half."""
    raw = bytes.fromhex(signature.removeprefix("0x"))
    s = CURVE_ORDER - int.from_bytes(raw[32:64])
    v = 55 - raw[64]  # 27 and 28 change places
    return f"0x{raw[:32].hex()}{s:064x}{v:02x}"


def write_header(value: Mapping[str, Any]) -> str:
    """Return *value* as the text of an x402 header: base64 of compact JSON."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode()).decode()


def read_header(text: str) -> JsonObject:
    """Return the JSON object in an x402 header."""
    value: JsonObject = json.loads(base64.b64decode(text, validate=True))
    return value


def _object(payment_required: Mapping[str, Any] | str) -> Mapping[str, Any]:
    return read_header(payment_required) if isinstance(payment_required, str) else payment_required
