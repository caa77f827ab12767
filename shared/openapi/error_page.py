"""docs/errors.md, written from the table of codes: ``python -m shared.openapi.error_page``."""

import sys
from http import HTTPStatus

from shared.openapi.codes import CODES

# As RFC 9110 names them; Python does since 3.13.
_NAMES = {413: "Content Too Large", 422: "Unprocessable Content"}
_HEAD = """\
# Error codes

Every error is `{"error", "code", "message", "details"?, "requestId"}`. Decide by `code`: it is
stable; `error` and `message` are for people. With 429 and 503 wait for `Retry-After`, then send
the same request with the same key again. A 400 with the code `validation_error` has
`details: [{"field", "message"}]`. What each route may answer: `/docs` of the running API.
This page is written from `shared/openapi/codes.py`.
"""


def error_page() -> str:
    """Return the page: a table for each status."""
    parts = [_HEAD]
    for status in sorted({code.status for code in CODES.values()}):
        parts.append(
            f"\n## {status} {_NAMES.get(status) or HTTPStatus(status).phrase}\n\n"
            "| code | meaning |\n|---|---|\n"
        )
        told = sorted((c.name, c.meaning) for c in CODES.values() if c.status == status)
        parts += [f"| `{name}` | {meaning} |\n" for name, meaning in told]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(error_page())
