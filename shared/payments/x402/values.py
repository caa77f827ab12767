"""Reads the values that x402 and Ethereum put on the wire, strictly: one spelling for each.

Every function here raises ValueError for anything else, and nothing but ValueError.
"""

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 16
_UINT = re.compile(r"0|[1-9][0-9]{0,77}")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_WORD = re.compile(r"0x[0-9a-fA-F]{64}")
_BYTES = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
_QUANTITY = re.compile(r"0x(?:0|[1-9a-f][0-9a-f]{0,63})")


def strict_json(text: bytes | str) -> Any:
    """Return the JSON value in *text*, if every parser in the world would read the same.

    Refused are keys that come twice, NaN and infinities, numbers of thousands of digits, bytes
    that are not UTF-8, halves of letters, and more than MAX_DEPTH levels.
    """
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_unambiguous,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check(value, MAX_DEPTH)
    return value


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key comes twice")
    return members


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check(value: Any, levels_left: int) -> None:
    if isinstance(value, str):
        value.encode()  # half a surrogate pair cannot be stored, nor sent on
    elif isinstance(value, dict | list):
        if levels_left == 0:
            raise ValueError("nested too deeply")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(inner, levels_left - 1)


def uint256(text: object) -> int:
    """Return the number in decimal text: ``10000``, never ``10_000``, ``+1``, ``01`` or ``1e4``.

    Python's own int() takes all of those but the last (protocols 2.4, weak spots).
    """
    number = int(_matching(_UINT, text, "an amount or a time in decimal digits"))
    if number >= 2**256:
        raise ValueError("above 2**256")
    return number


def address(text: object) -> str:
    """Return an address in lower case: the same account whatever the spelling (W31)."""
    return _matching(_ADDRESS, text, "an address: 0x and 40 hex digits").lower()


def is_misspelled(text: str) -> bool:
    """Tell whether an address has both cases of letters, and not as its checksum says (EIP-55)."""
    from eth_utils.address import is_checksum_address  # noqa: PLC0415  0.06 s, for settings only

    is_mixed = text[2:] not in (text[2:].lower(), text[2:].upper())
    return is_mixed and not is_checksum_address(text)


def word(text: object) -> str:
    """Return 32 bytes (a nonce, a hash) as 0x and hex in lower case."""
    return _matching(_WORD, text, "32 bytes: 0x and 64 hex digits").lower()


def hex_bytes(text: object) -> bytes:
    """Return the bytes written as 0x and an even number of hex digits."""
    return bytes.fromhex(_matching(_BYTES, text, "bytes: 0x and hex digits")[2:])


def quantity(text: object) -> int:
    """Return a number as JSON-RPC writes it: 0x and hex without leading zeros."""
    return int(_matching(_QUANTITY, text, "a quantity: 0x and hex digits"), 16)


def _matching(pattern: re.Pattern[str], text: object, kind: str) -> str:
    if not isinstance(text, str) or pattern.fullmatch(text) is None:
        raise ValueError(f"must be {kind}")
    return text
