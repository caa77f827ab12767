"""The five kinds of error. The domain raises them; each edge maps the kinds once.

A kind says what the caller can do; ``code`` is stable, documented and never reused.
"""

from collections.abc import Mapping
from typing import Any


class ArrakisError(Exception):
    """Base of all expected errors. Never raised directly.

    ``details`` are facts for the caller (JSON values, amounts as text of digits).
    """

    code = "internal_error"

    def __init__(
        self, message: str, *, code: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details: Mapping[str, Any] = details or {}


class Invalid(ArrakisError):
    """The request makes no sense as it stands; sending it again changes nothing."""

    code = "invalid_request"


class NotFound(ArrakisError):
    """What the request names does not exist."""

    code = "not_found"


class Forbidden(ArrakisError):
    """It exists, and is not the caller's (only where the contract says 403)."""

    code = "forbidden"


class Conflict(ArrakisError):
    """The request contradicts what has already happened."""

    code = "conflict"


class Refused(ArrakisError):
    """A rule of money says no: not enough credits, over a budget."""

    code = "refused"


class Unavailable(ArrakisError):
    """A dependency is away or the outcome is unknown; the same request may be sent again."""

    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retry_after_seconds: int = 1,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code=code, details=details)
        self.retry_after_seconds = retry_after_seconds
