"""The one place where errors become HTTP: kinds to statuses, and the body that callers see."""

import json
from typing import Any

import structlog
from flask import Flask, Response
from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from werkzeug.exceptions import HTTPException

from services.api.auth import Unauthorized
from services.api.correlation import touch
from shared.errors import (
    ArrakisError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Refused,
    Unavailable,
)
from shared.wsgi import BodyTooLarge, served

log = structlog.get_logger()


class TooManyRequests(ArrakisError):
    """The caller's limit is used up; the headers say until when."""

    code = "rate_limited"


class MalformedBody(Invalid):
    """The body is not JSON, or means more than one thing."""

    code = "validation_error"


class Unprocessable(Invalid):
    """Well formed, but not for this version or state (contract: 422)."""

    code = "unprocessable"


_UNPROCESSABLE_CODES = {
    "reservation_released": "Unprocessable",
    "unsupported_protocol_version": "Unprocessable",
    "budget_exceeded": "Budget/Cap Exceeded",
    "cap_exceeded": "Budget/Cap Exceeded",
}
_KINDS: tuple[tuple[type[ArrakisError], int, str], ...] = (
    (Unauthorized, 401, "Unauthorized"),
    (TooManyRequests, 429, "Too Many Requests"),
    (BodyTooLarge, 413, "Payload Too Large"),
    (Unprocessable, 422, "Unprocessable"),
    (Invalid, 400, "Invalid Request"),
    (NotFound, 404, "Not Found"),
    (Forbidden, 403, "Forbidden"),
    (Conflict, 409, "Conflict"),
    (Refused, 402, "Payment Required"),
    (Unavailable, 503, "Service Unavailable"),
    (ArrakisError, 500, "Internal Server Error"),
)


def register(app: Flask) -> None:
    """Answer every error of *app* in the documented form, and none with a page."""
    app.register_error_handler(ArrakisError, answer_expected)
    app.register_error_handler(ValidationError, answer_validation)
    app.register_error_handler(HTTPException, _answer_http)
    app.register_error_handler(Exception, _answer_bug)


def describe(error: ArrakisError) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of an expected error."""
    status, title = next((s, t) for kind, s, t in _KINDS if isinstance(error, kind))
    if error.code in _UNPROCESSABLE_CODES:
        status, title = 422, _UNPROCESSABLE_CODES[error.code]
    if isinstance(error, NotFound):
        title = error.message.rstrip(".")
    body: dict[str, Any] = {"error": title, "code": error.code, "message": error.message}
    if error.code == "insufficient_credits":
        body |= {"error": error.code, **error.details}  # the form that loa-finn reads (contract 4)
    elif isinstance(error, MalformedBody):
        details = [{"field": "body", "message": error.message}]
        body |= {"error": "Validation Error", "details": details}
    elif error.details:
        body["details"] = dict(error.details)
    return status, body


def _answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    body["requestId"] = served().request_id
    text = json.dumps(body, ensure_ascii=False)
    return Response(text, status, headers, mimetype="application/json")


def answer_expected(error: ArrakisError) -> Response:
    """Answer with the status of the error's kind, and when to come back if that helps."""
    status, body = describe(error)
    touch({"paymentId": error.details.get("paymentId")})  # of a creation that was not answered
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
        log.warning("request_unavailable", code=error.code, reason=error.message)
    return _answer(status, body, headers)


def describe_validation(error: ValidationError) -> dict[str, Any]:
    """Return the body of a 400: what is wrong with which field."""
    details = [
        {
            "field": ".".join(_wire_name(part) for part in fault["loc"]) or "body",
            "message": fault["msg"].removeprefix("Value error, "),
        }
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return {
        "error": "Validation Error",
        "code": "validation_error",
        "message": "; ".join(f"{d['field']}: {d['message']}" for d in details),
        "details": details,
    }


def _wire_name(part: str | int) -> str:
    # Of a field that is not there pydantic tells our name, not the caller's.
    return to_camel(part) if isinstance(part, str) and "_" in part else str(part)


def answer_validation(error: ValidationError) -> Response:
    """Answer 400 with what is wrong with which field."""
    return _answer(400, describe_validation(error))


def _answer_http(error: HTTPException) -> Response:
    code = (error.name or "error").lower().replace(" ", "_")
    body = {"error": error.name, "code": code, "message": error.description}
    headers = {k: v for k, v in error.get_headers() if k not in ("Content-Type", "Content-Length")}
    return _answer(error.code or 500, body, headers)


def _answer_bug(error: Exception) -> Response:
    log.error("request_failed", exc_info=error)
    return _answer(
        500,
        {
            "error": "Internal Server Error",
            "code": "internal_error",
            "message": "This is our fault. Nothing was changed unless you are told otherwise; "
            "send the same request with the same key again.",
        },
    )
