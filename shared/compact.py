"""JSON without spaces, as answers have it, and what is remembered and compared of them."""

import json
from typing import Any

import orjson


def compact(value: Any) -> str:
    """Write *value* as JSON, the same text for ever. Raises TypeError for what JSON cannot tell."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # callers and providers may tell numbers of more than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
