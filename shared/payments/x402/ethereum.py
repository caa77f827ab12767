"""eth-account, imported without what its import does to the whole process.

py_ecc, which eth-account needs for wallets of validators, raises the recursion limit to 100,000.
With that, JSON of 100,000 brackets ends the process with a segmentation fault, where it should end
in a RecursionError. So the limit is put back, and nothing else may import eth-account.
"""

import sys

_LIMIT = sys.getrecursionlimit()

from eth_account import Account  # noqa: E402  the limit is noted first
from eth_account.messages import (  # noqa: E402  the same
    SignableMessage,
    encode_defunct,
    encode_typed_data,
)
from eth_keys.exceptions import BadSignature  # noqa: E402  the same
from eth_utils.crypto import keccak  # noqa: E402  the same

sys.setrecursionlimit(_LIMIT)

__all__ = [
    "Account",
    "BadSignature",
    "SignableMessage",
    "encode_defunct",
    "encode_typed_data",
    "keccak",
]
