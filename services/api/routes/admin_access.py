"""The door of the admin API: token, rate limit, and a scope for what the request does."""

from collections.abc import Collection

from flask import Blueprint, request

from services.api import limits
from services.api.context import actor, guard, require_scope, services
from shared.operations import audit

_APPROVING: set[str] = set()


def admin_blueprint(name: str, *, approvals: Collection[str] = ()) -> Blueprint:
    """Return a blueprint for admins: reading needs ``billing:read``, changing ``billing:write``.

    *approvals* are the functions that decide on another admin's proposal: ``billing:approve``.
    Who may not change something and tries is audited.
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

    return routes


def required_scope(method: str, endpoint: str) -> str:
    """Return the scope that a request needs; the document tells the same."""
    if method in ("GET", "HEAD"):
        return "billing:read"
    return "billing:approve" if endpoint in _APPROVING else "billing:write"
