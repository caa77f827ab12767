"""Tells a genuine NOWPayments notice from any other bytes, and reads it. Pure: no clock, no I/O.

The provider signs ``JSON.stringify`` of the notice with sorted keys, but does not promise to send
that same text. So we try the bytes as they came, then each way in which the provider is known to
spell them (protocols.md 1.7), and read the values from the text whose signature matched.
"""

import hmac
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeAlias

MAX_DEPTH = 16
MAX_NUMBER_CHARACTERS = 100
"""JavaScript prints at most 25; a coin amount of 18 decimals needs some 40."""


class NumberToken(str):
    """A JSON number, exactly as it is spelled. ``"5"`` is text, ``NumberToken("5")`` a number."""

    __slots__ = ()


Value: TypeAlias = "NumberToken | str | bool | list[Value] | dict[str, Value] | None"


class WebhookRejected(Exception):
    """Base of the two refusals. ``reason`` is stable, and fit for a log or a metric."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadSignature(WebhookRejected):
    """Nobody who knows a secret signed this: answer 401.

    Reasons: missing_signature, malformed_signature, no_secret, wrong_signature.
    """


class Malformed(WebhookRejected):
    """Not a notice at all, signed or not: answer 400.

    Reasons: not_utf8, too_deep, not_json, number_too_long, duplicate_key, forbidden_key,
    not_an_object.
    """


def verify(body: bytes, signature: str | None, secrets: Sequence[str]) -> Mapping[str, object]:
    """Return the notice in *body* if *signature* was made with one of *secrets*.

    The values are read from the text that is authenticated: where only a canonical spelling
    matches, that spelling counts, not the one on the wire (protocols.md 1.7, item 5). Numbers are
    NumberToken. Secrets are trimmed; empty ones are ignored. The caller limits the size of *body*.

    Raises Malformed if *body* is no notice, whatever its signature, and BadSignature otherwise.
    A header of the wrong shape is BadSignature, whatever the body.
    """
    expected = _read_signature(signature)
    keys = [secret.strip().encode() for secret in secrets if secret.strip()]
    if not keys:
        raise BadSignature("no_secret")
    is_signed_as_sent = _matches(body, expected=expected, keys=keys)
    notice = _parse(body)
    if is_signed_as_sent:
        return notice
    for spelling in _canonical_spellings(notice):
        signed = spelling.encode()
        if _matches(signed, expected=expected, keys=keys):
            return _parse(signed)
    raise BadSignature("wrong_signature")


def _read_signature(header: str | None) -> bytes:
    """Return the 64 bytes that the header spells in hex. Raises BadSignature."""
    if not header:
        raise BadSignature("missing_signature")
    # Only this makes sure that the text is ASCII: int() and fromhex() are more generous.
    if re.fullmatch(r"[0-9a-fA-F]{128}", header) is None:
        raise BadSignature("malformed_signature")
    return bytes.fromhex(header)


def _matches(signed: bytes, *, expected: bytes, keys: Sequence[bytes]) -> bool:
    return any(hmac.compare_digest(hmac.digest(key, signed, "sha512"), expected) for key in keys)


# Reading: strict, so that no other reader of the same text can see other values.


def _parse(body: bytes) -> dict[str, Value]:
    """Read *body* as one JSON object that every reader understands alike. Raises Malformed."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Malformed("not_utf8") from error
    if _is_too_deep(text):
        raise Malformed("too_deep")
    try:
        notice = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed("not_json") from error
    if not isinstance(notice, dict):
        raise Malformed("not_an_object")
    return notice


# The closing quote is optional, so that text with a lone quote is still scanned once, not once
# for each quote in it.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)


def _is_too_deep(text: str) -> bool:
    """Say whether objects and arrays nest beyond MAX_DEPTH, before a recursive parser finds out.

    Brackets inside of strings do not count. For text that is not JSON the answer is that for the
    part which a parser would read before it stops.
    """
    if text.count("{") + text.count("[") <= MAX_DEPTH:  # nearly every notice
        return False
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        first = found[0][0]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif first in "]}":
            depth -= 1
    return False


def _read_object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("duplicate_key")  # some readers take the first, some the last
    if "__proto__" in members:
        raise Malformed("forbidden_key")  # JavaScript would lose it when it sorts the keys
    return members


def _read_number(token: str) -> NumberToken:
    if len(token) > MAX_NUMBER_CHARACTERS:
        raise Malformed("number_too_long")
    return NumberToken(token)


def _refuse_constant(_name: str) -> NoReturn:
    raise Malformed("not_json")  # NaN, Infinity and -Infinity are Python's idea, not JSON


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_object,
    parse_int=_read_number,
    parse_float=_read_number,
    parse_constant=_refuse_constant,
)


# Writing: the text that JSON.stringify makes of the notice with sorted keys.


def _canonical_spellings(notice: Value) -> Iterator[str]:
    """Yield each text that the provider may have signed for *notice*, the likeliest first."""
    for spell_number in (str, ecmascript_number):
        kept = canonical_json(notice, spell_number=spell_number)
        yield kept
        if "[" in kept:
            yield canonical_json(notice, spell_number=spell_number, keep_arrays=False)


def canonical_json(
    value: Value, *, spell_number: Callable[[str], str] = str, keep_arrays: bool = True
) -> str:
    """Write *value* as JSON.stringify does after sorting the keys at every level.

    *spell_number* gets the token of each number. ``keep_arrays=False`` writes arrays as objects
    with the keys "0", "1", ... as the sample in the provider's documentation does.
    """

    def write(value: Value) -> str:
        if isinstance(value, NumberToken):
            return spell_number(value)
        if isinstance(value, dict):
            members = [f"{_quote(key)}:{write(value[key])}" for key in sorted(value, key=_js_order)]
            return "{" + ",".join(members) + "}"
        if isinstance(value, list):
            items = [write(item) for item in value]
            if keep_arrays:
                return "[" + ",".join(items) + "]"
            return "{" + ",".join(f'"{index}":{item}' for index, item in enumerate(items)) + "}"
        return _quote(value)

    return write(value)


_LARGEST_ARRAY_INDEX = 2**32 - 2
_ARRAY_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")


def _js_order(key: str) -> tuple[int, bytes]:
    """Order keys as JavaScript lists them: array indices by number, then text by UTF-16 unit."""
    if _ARRAY_INDEX.fullmatch(key) is not None and int(key) <= _LARGEST_ARRAY_INDEX:
        return int(key), b""
    return _LARGEST_ARRAY_INDEX + 1, key.encode("utf-16-be", "surrogatepass")


_ENCODER = json.JSONEncoder(ensure_ascii=False)
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _quote(value: str | bool | None) -> str:  # noqa: FBT001 - a JSON value, not a switch
    """Write text, true, false or null. Python and JavaScript differ in lone surrogates only."""
    return _LONE_SURROGATE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", _ENCODER.encode(value))


_LARGEST_FIXED_POINT = 21
_SMALLEST_FIXED_POINT = -5


def ecmascript_number(token: str) -> str:
    """Write the number *token* as JavaScript prints it after reading it (Number::toString).

    Beyond the range of a double it is Infinity there, which JSON.stringify writes as null.
    """
    number = float(token)
    if math.isinf(number):
        return "null"
    if number == 0:
        return "0"  # JavaScript prints -0 as 0
    sign = "-" if number < 0 else ""
    # Python and JavaScript agree in the shortest digits that read back as the same double.
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    significant = (whole + fraction).lstrip("0")
    digits = significant.rstrip("0")
    # The number is 0.DIGITS x 10**point.
    point = len(significant) - len(fraction) + int(exponent or "0")
    if not _SMALLEST_FIXED_POINT <= point <= _LARGEST_FIXED_POINT:
        tail = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{tail}e{point - 1:+d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if len(digits) <= point:
        return f"{sign}{digits.ljust(point, '0')}"
    return f"{sign}{digits[:point]}.{digits[point:]}"
