"""The claim of a transfer that was made first: its sender names the account, and signs that (W32).

So nobody can take another's transfer by seeing its hash, and a repeat changes nothing.
"""

from shared.errors import Forbidden, Invalid
from shared.payments.x402.chain import Chain, transaction_hash
from shared.payments.x402.signatures import text_digest, text_signer
from shared.payments.x402.values import address, hex_bytes


def claim_text(*, transaction: str, account_id: str) -> str:
    """Return the text that the sender of *transaction* signs with personal_sign (EIP-191).

    The hash is in lower case, and the account comes last, so that no other text can be read out of
    it. Raises Invalid for what is no transaction hash, or an account id that cannot be shown.
    """
    spelled = transaction_hash(transaction)
    if not account_id.isprintable():
        raise Invalid("An account id is printable text.", code="invalid_account_id")
    return (
        "I sent this transfer and want it credited to my Arrakis account.\n"
        f"Transaction: {spelled}\n"
        f"Account: {account_id}"
    )


def check_claim(
    chain: Chain, *, transaction: str, account_id: str, sender: str, signature: str
) -> None:
    """Return if *sender* of *transaction* has signed that *account_id* is to be credited.

    A plain account's signature is recovered here; any other is a contract wallet's, which the
    chain is asked about (EIP-1271). Raises Forbidden (``claim_not_signed``) if the sender has not
    signed it, Invalid for what is no hash, address or signature, ChainAway if the wallet cannot be
    asked.
    """
    text = claim_text(transaction=transaction, account_id=account_id)
    try:
        owner, signed = address(sender), hex_bytes(signature)
    except ValueError as error:
        raise Invalid(
            "A claim has the sender's address and a signature: 0x and hex digits.",
            code="invalid_claim",
        ) from error
    if text_signer(text, signed) == owner:
        return
    if not chain.is_valid_signature(owner, text_digest(text), signed):
        raise Forbidden(
            "The sender of the transfer has not signed this claim.",
            code="claim_not_signed",
            details={"text": text},
        )
