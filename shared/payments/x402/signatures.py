"""Who signed: EIP-712 transfers (EIP-3009) and EIP-191 texts, recovered with eth-account.

eth-account takes 0.33 s to import, more than half of the API's whole start, so it is imported by
the first signature that is checked, or by :func:`prepare`.
"""

from typing import TYPE_CHECKING

from shared.payments.x402.networks import chain_id_of
from shared.payments.x402.terms import Terms
from shared.payments.x402.wire import Payment

if TYPE_CHECKING:
    from shared.payments.x402.ethereum import SignableMessage

SIGNATURE_BYTES = 65
_CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_V_OFFSET = 27
# Protocols 2.3: type hash 0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267.
_TRANSFER = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}


def prepare() -> None:
    """Import eth-account now: a process that takes payments does this before it serves.

    Then the first payer does not wait for it, and no other thread runs while it is imported.
    """
    from shared.payments.x402 import ethereum  # noqa: F401, PLC0415  slow: see the module


def transfer_signer(payment: Payment, terms: Terms) -> str | None:
    """Return the address whose key signed the transfer in *payment*, in the token of *terms*.

    None if it is nobody's signature. The token's domain comes from our terms, never from the payer.
    """
    from shared.payments.x402.ethereum import encode_typed_data  # noqa: PLC0415  slow

    message = encode_typed_data(
        domain_data={
            "name": terms.name,
            "version": terms.version,
            "chainId": chain_id_of(terms.network),
            "verifyingContract": terms.asset,
        },
        message_types=_TRANSFER,
        message_data={
            "from": payment.payer,
            "to": payment.pay_to,
            "value": payment.value,
            "validAfter": payment.valid_after,
            "validBefore": payment.valid_before,
            "nonce": bytes.fromhex(payment.nonce[2:]),
        },
    )
    return _signer(message, payment.signature)


def text_signer(text: str, signature: bytes) -> str | None:
    """Return the address whose key signed *text* by personal_sign, None if it is nobody's."""
    return _signer(_text_message(text), signature)


def text_digest(text: str) -> bytes:
    """Return the 32 bytes that personal_sign signs for *text* (EIP-191)."""
    from shared.payments.x402.ethereum import keccak  # noqa: PLC0415  slow

    message = _text_message(text)
    return keccak(b"\x19" + message.version + message.header + message.body)


def _text_message(text: str) -> "SignableMessage":
    from shared.payments.x402.ethereum import encode_defunct  # noqa: PLC0415  slow

    return encode_defunct(text=text)


def _signer(message: "SignableMessage", signature: bytes) -> str | None:
    """Recover the signer (lower case) of a 65-byte signature r, s, v.

    v is 27 or 28, or 0 or 1 as some wallets write it. Of the two signatures that each key can turn
    into each other, only the one with the low s counts, as in the token contracts.
    """
    from shared.payments.x402.ethereum import Account, BadSignature  # noqa: PLC0415  slow

    if len(signature) != SIGNATURE_BYTES:
        return None
    r, s, v = signature[:32], signature[32:64], signature[64]
    v = v + _V_OFFSET if v < _V_OFFSET else v
    is_canonical = 0 < int.from_bytes(s) <= _CURVE_ORDER // 2
    if not is_canonical or not 0 < int.from_bytes(r) < _CURVE_ORDER or v not in (27, 28):
        return None
    try:
        return str(Account.recover_message(message, signature=r + s + bytes([v]))).lower()
    except BadSignature:  # r belongs to no point of the curve
        return None
