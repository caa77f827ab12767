"""Read what a developer asks the control API for, and say plainly what makes no sense."""

import re
from decimal import Decimal

from flask import Response, request

from deploy.simulator.answers import json_answer
from deploy.simulator.orders import decimal_from
from deploy.simulator.wire import JsonObject, parse_object

LONGEST_SECONDS = 600
_LONGEST_TEXT = 1000
_LARGEST_UINT = 2**256 - 1
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_WORD = re.compile(r"0x[0-9a-fA-F]{64}")


class Misuse(Exception):
    """The developer's call makes no sense; the message says why."""


def sorry(error: Exception, http_status: int) -> Response:
    """Return *error* as the control API shows it."""
    return json_answer({"error": str(error)}, http_status)


def body() -> JsonObject:
    """Return the JSON object in the request's body, an empty one if there is none."""
    text = request.get_data()
    try:
        return parse_object(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise Misuse("The body must be a JSON object.") from error


def amount(asked: JsonObject, name: str) -> Decimal | None:
    """Return an amount of a coin."""
    value = asked.get(name)
    number = decimal_from(value)
    if value is not None and number is None:
        raise Misuse(f'{name} must be an amount, such as 0.5 or "0.5".')
    return number


def seconds(asked: JsonObject, name: str) -> float | None:
    """Return a number of seconds, at most ten minutes."""
    number = amount(asked, name)
    if number is not None and number > LONGEST_SECONDS:
        raise Misuse(f"{name} must be at most {LONGEST_SECONDS}.")
    return None if number is None else float(number)


def whole_number(asked: JsonObject, name: str, *, least: int, most: int) -> int | None:
    """Return a whole number between *least* and *most*."""
    value = asked.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Misuse(f"{name} must be a whole number between {least} and {most}.")
    return value


def flag(asked: JsonObject, name: str, *, usual: bool) -> bool:
    """Return true or false."""
    value = asked.get(name, usual)
    if not isinstance(value, bool):
        raise Misuse(f"{name} must be true or false.")
    return value


def text(asked: JsonObject, name: str) -> str | None:
    """Return a text."""
    value = asked.get(name)
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT):
        raise Misuse(f"{name} must be a text of at most {_LONGEST_TEXT} characters.")
    return value


def address(asked: JsonObject, name: str) -> str:
    """Return an address, in lower case."""
    return _matching(asked, name, _ADDRESS, "0x and 40 hexadecimal digits")


def word(asked: JsonObject, name: str) -> str:
    """Return 32 bytes, such as a transaction's hash, in lower case."""
    return _matching(asked, name, _WORD, "0x and 64 hexadecimal digits")


def token_amount(value: object, name: str) -> int:
    """Return *value* (digits, or a whole number) as an amount in a token's smallest unit."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 80
    if not (is_number or is_digits) or not 0 <= int(str(value)) <= _LARGEST_UINT:
        raise Misuse(f"{name} must be a whole number in the token's smallest unit.")
    return int(str(value))


def _matching(asked: JsonObject, name: str, form: re.Pattern[str], described: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Misuse(f"{name} must be {described}.")
    return value.lower()
