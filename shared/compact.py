"""JSON without spaces, as answers have it, and what is remembered and compared of them."""

from typing import Any

import orjson


def compact(value: Any) -> str:
    """Write *value* as JSON. Raises TypeError for what JSON does not know, or half a surrogate."""
    return orjson.dumps(value).decode()
