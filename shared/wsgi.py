"""What both HTTP services read of a request: its body as it came, and the name that it brings."""

import re
from collections.abc import Mapping
from typing import Any

from shared.errors import Invalid

_DISCARDED_LIMITS = 16
_OFFERED_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class BodyTooLarge(Invalid):
    """The body is longer than the route accepts."""

    code = "body_too_large"


def offered_id(header: str | None) -> str | None:
    """Return the id that a caller gave in *header*, None if it gave none that can be logged."""
    return header if header and _OFFERED_ID.fullmatch(header) else None


def read_body(environ: Mapping[str, Any], limit_bytes: int) -> bytes:
    """Return the whole body, plain or chunked. Raises BodyTooLarge, and Invalid if it is cut off.

    One byte more than the limit is asked for: frameworks cut a chunked body off in silence.
    """
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared and (not declared.isascii() or not declared.isdigit()):
        raise Invalid("Content-Length is not a number.", code="invalid_content_length")
    stream = environ["wsgi.input"]
    body = _read_up_to(stream, min(int(declared or limit_bytes + 1), limit_bytes + 1))
    if len(body) > limit_bytes:
        # A sender reads the answer after it has sent all, so a bounded rest is taken and dropped.
        for _ in range(_DISCARDED_LIMITS):
            if len(_read_up_to(stream, limit_bytes)) < limit_bytes:
                break
        raise BodyTooLarge(f"The body is longer than {limit_bytes} bytes.")
    if declared and len(body) != int(declared):
        raise Invalid("The body is shorter than its Content-Length.", code="body_cut_off")
    return body


def _read_up_to(stream: Any, wanted: int) -> bytes:
    pieces: list[bytes] = []
    while wanted > 0:
        piece = stream.read(wanted)
        if not piece:
            break
        pieces.append(piece)
        wanted -= len(piece)
    return b"".join(pieces)
