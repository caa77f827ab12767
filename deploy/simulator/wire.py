"""JSON as the provider's JavaScript reads and prints it, with every amount a Decimal.

Python's own printer cannot do this: it writes 0.000002 as 2e-06, keeps the .0 of 10.0 and knows no
Decimal. The signature of a notice is over this exact text, so the spelling matters.
"""

import json
import re
from decimal import Decimal
from typing import Any

JsonObject = dict[str, Any]

_ARRAY_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_LAST_ARRAY_INDEX = 2**32 - 2
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(text: bytes) -> Any:
    """Return the JSON value in *text*; fractions become Decimal. Raises ValueError otherwise."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)


def parse_object(text: bytes) -> JsonObject:
    """Return the JSON object in *text*. Raises ValueError if it is anything else."""
    value = parse(text)
    if not isinstance(value, dict):
        raise ValueError("The body must be a JSON object.")  # noqa: TRY004 - callers catch one kind
    return value


def print_json(value: Any, *, sort_keys: bool = False) -> str:
    """Print *value* as JSON.stringify does: compact, keys sorted at every level if asked."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return js_number(value)
        case str():
            return _js_string(value)
        case list() | tuple():
            return "[" + ",".join(print_json(item, sort_keys=sort_keys) for item in value) + "]"
        case dict():
            names = sorted(value, key=_js_key_order) if sort_keys else list(value)
            members = (
                f"{_js_string(name)}:{print_json(value[name], sort_keys=sort_keys)}"
                for name in names
            )
            return "{" + ",".join(members) + "}"
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form here.")


def js_number(value: Decimal | int) -> str:
    """Print *value* as JavaScript prints that number: 10, 0.000002, 1e-7, 1e+21.

    The way through float is the printing rule itself (the shortest digits that give the same
    double), not arithmetic.
    """
    number = Decimal(repr(float(value)))
    if not number.is_finite():
        raise ValueError("JSON has no number for this.")
    if number == 0:
        return "0"
    sign, digit_tuple, exponent = number.normalize().as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + exponent
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text


def _js_string(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _js_key_order(name: str) -> tuple[int, int, bytes]:
    """Order keys as a JavaScript object does once sorted: array indexes first, then UTF-16."""
    if _ARRAY_INDEX.fullmatch(name) and int(name) <= _LAST_ARRAY_INDEX:
        return (0, int(name), b"")
    return (1, 0, name.encode("utf-16-be", "surrogatepass"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON.")
