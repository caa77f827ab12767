"""The door of the admin API: token, rate limit, and a scope for what the request does."""

from collections.abc import Collection

from flask import Blueprint, Response, request
from pydantic import ValidationError

from services.api import limits
from services.api.context import actor, guard, require_scope, services
from services.api.errors import (
    MalformedBody,
    Unprocessable,
    answer_expected,
    answer_validation,
)
from shared.errors import ArrakisError, Unavailable
from shared.operations import audit
from shared.wsgi import BodyTooLarge

_APPROVING: set[str] = set()
_MALFORMED = (ValidationError, MalformedBody, Unprocessable, BodyTooLarge)


def admin_blueprint(name: str, *, approvals: Collection[str] = ()) -> Blueprint:
    """Return a blueprint for admins: reading needs ``billing:read``, changing ``billing:write``.

    *approvals* are the functions that decide on another admin's proposal: ``billing:approve``.
    Who may not change something and tries is audited, and so is a change that cannot be read.
    """
    routes = Blueprint(name, __name__)
    routes.before_request(guard("admin", limits.ADMIN))
    _APPROVING.update(f"{name}.{function}" for function in approvals)

    @routes.before_request
    def _check_scope() -> None:
        scope = required_scope(request.method, request.endpoint or "")
        if scope == "billing:read":
            require_scope(scope)
            return
        with audit.noting_refusals(
            services().database,
            actor(),
            "admin_request",
            target_type="route",
            target_id=request.path,
        ):
            require_scope(scope)

    for kind in _MALFORMED:
        routes.register_error_handler(kind, _answer_malformed)
    return routes


def _answer_malformed(error: Exception) -> Response:
    """Audit a change that could not even be read, and answer it as everywhere else."""
    if request.method not in ("GET", "HEAD"):
        code = error.code if isinstance(error, ArrakisError) else "validation_error"
        try:
            with services().database.transaction() as tx:
                audit.record(
                    tx,
                    actor(),
                    "admin_request_refused",
                    target_type="route",
                    target_id=request.path,
                    details={"refusedBecause": code, "method": request.method},
                )
        except Unavailable as away:
            return answer_expected(away)
    if isinstance(error, ValidationError):
        return answer_validation(error)
    assert isinstance(error, ArrakisError)
    return answer_expected(error)


def required_scope(method: str, endpoint: str) -> str:
    """Return the scope that a request needs; the document tells the same."""
    if method in ("GET", "HEAD"):
        return "billing:read"
    return "billing:approve" if endpoint in _APPROVING else "billing:write"
