"""EIP-712 and secp256k1 for EIP-3009: what a payer signs, who signed it, and how to sign it."""

from dataclasses import dataclass
from typing import Any

from eth_keys.datatypes import Signature
from eth_keys.exceptions import BadSignature
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from shared.payments.x402.ethereum import Account, SignableMessage, encode_typed_data

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}


@dataclass(frozen=True)
class Domain:
    """The signing domain of a token."""

    name: str
    version: str
    chain_id: int
    contract: str


@dataclass(frozen=True)
class Authorization:
    """A payer's leave to move *value* units of a token once, in a span of time."""

    payer: str
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes

    @property
    def key(self) -> tuple[str, bytes]:
        """What a token remembers of it once it is used."""
        return (self.payer.lower(), self.nonce)


def digest_of(authorization: Authorization, domain: Domain) -> bytes:
    """Return the 32 bytes that the payer signs."""
    message = _message(authorization, domain)
    return keccak(b"\x19" + message.version + message.header + message.body)


def recover(digest: bytes, signature: bytes) -> str | None:
    """Return the address (lower case) whose key made the 65-byte *signature*, None if nobody's.

    As lax as the facilitators: v may be 0 or 1, and s may be in the upper half.
    """
    v = signature[64] - 27 if signature[64] >= 27 else signature[64]
    try:
        parsed = Signature(signature_bytes=signature[:64] + bytes([v]))
        return parsed.recover_public_key_from_msg_hash(digest).to_address()
    except (BadSignature, ValidationError):
        return None


def sign_authorization(authorization: Authorization, domain: Domain, *, key: str) -> str:
    """Return the 65-byte signature, as 0x and hex, that *key* makes."""
    return sign(_message(authorization, domain), key=key)


def sign(message: SignableMessage, *, key: str) -> str:
    """Return the 65-byte signature of *message*, as 0x and hex, that *key* makes."""
    signed: Any = Account.sign_message(message, private_key=key)
    return f"0x{signed.signature.hex().removeprefix('0x')}"


def _message(authorization: Authorization, domain: Domain) -> SignableMessage:
    return encode_typed_data(
        domain_data={
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.contract.lower(),
        },
        message_types=_TYPES,
        message_data={
            "from": authorization.payer.lower(),
            "to": authorization.to.lower(),
            "value": authorization.value,
            "validAfter": authorization.valid_after,
            "validBefore": authorization.valid_before,
            "nonce": authorization.nonce,
        },
    )
