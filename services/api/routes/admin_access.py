"""The door of the admin API: token, rate limit, and a scope for what the request does."""

from collections.abc import Collection

from flask import Blueprint, request

from services.api import limits
from services.api.context import actor, guard, require_scope, services
from shared.operations import audit


def admin_blueprint(name: str, *, approvals: Collection[str] = ()) -> Blueprint:
    """Return a blueprint for admins: reading needs ``billing:read``, changing ``billing:write``.

    *approvals* are the functions that decide on another admin's proposal: ``billing:approve``.
    Who may not change something and tries is audited.
    """
    routes = Blueprint(name, __name__)
    routes.before_request(guard("admin", limits.ADMIN))
    approving = {f"{name}.{function}" for function in approvals}

    @routes.before_request
    def _check_scope() -> None:
        if request.method in ("GET", "HEAD"):
            require_scope("billing:read")
            return
        with audit.noting_refusals(
            services().database,
            actor(),
            "admin_request",
            target_type="route",
            target_id=request.path,
        ):
            require_scope("billing:approve" if request.endpoint in approving else "billing:write")

    return routes
