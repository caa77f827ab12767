"""The API's own document: its routes as the app has them, and what all of a kind have in common."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from flask import Flask
from pydantic.alias_generators import to_camel

from services.api import limits
from services.api.health import CONTRACT_VERSION
from services.api.routes.admin_access import required_scope
from shared.openapi import receiver
from shared.openapi.document import Route, build
from shared.openapi.operations import Operation, operation_of, sentences

INTERNAL_BASES = ("/api/internal", "/api/internal/billing", "/api/billing/internal")
_ID = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")
_BODY_ERRORS = ("body_cut_off", "body_too_large", "invalid_content_length", "validation_error")
_DATABASE_ERRORS = ("database_busy", "database_unavailable")
_DESCRIPTION = f"""\
Prepaid credits for AI inference. Amounts are micro-USD as text of digits (1 USD = 1,000,000);
times are UTC, ISO 8601. Unknown fields of a body are ignored; new fields may come in answers.

**Services** call `/api/internal`; the same routes are at `{INTERNAL_BASES[1]}` and
`{INTERNAL_BASES[2]}`. Order of the checks: feature 503, token 401, rate 429, body 400, version
422, account 403, then the operation.

**The same request gives the same answer for ever**: repeat it with its Idempotency-Key (or its
requestId). An answer that was given before has the header Idempotent-Replay. The same key with
other content is a 409.

**Errors** have a stable `code`. With 429 and 503 wait for Retry-After, then send the same again.
"""
_SCHEMES: dict[str, Any] = {
    "s2s": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A service's token: HS256 with the shared secret, or ES256 with the "
        "service's own key. iss loa-finn, aud arrakis-internal or arrakis, exp - iat at most "
        f"300 s; no jti is needed. {limits.S2S.amount} requests a minute for each iss and sub.",
    },
    "member": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A member's token: HS256. iss arrakis, aud arrakis-billing, sub = the "
        f"account's id, exp - iat at most 3600 s. {limits.MEMBER.amount} requests a minute for "
        f"each account, of them {limits.TOPUP.amount} top-ups.",
    },
    "admin": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An admin's token: HS256. iss arrakis-admin, aud arrakis-billing-admin, "
        "sub, exp - iat at most 3600 s, scopes billing:read, billing:write, billing:approve. "
        f"A jti can be revoked. {limits.ADMIN.amount} requests a minute for each sub.",
    },
}


def document(app: Flask) -> dict[str, Any]:
    """Return the document of every route of *app* and of the webhook receiver."""
    routes = [*_of(app), *_of_receiver()]
    groups = dict.fromkeys(route.group for route in routes)
    head = {
        "info": {
            "title": "Arrakis Billing",
            "version": CONTRACT_VERSION,
            "description": _DESCRIPTION,
        },
        "tags": [{"name": group} for group in groups],
        "servers": [{"url": "/"}],
        "components": {"securitySchemes": _SCHEMES},
    }
    return build(routes, head)


def undocumented(app: Flask) -> list[str]:
    """Return the routes of *app* that say nothing of themselves."""
    views = {rule.rule: app.view_functions[rule.endpoint] for rule in app.url_map.iter_rules()}
    return sorted(path for path, view in views.items() if operation_of(view) is None)


def _of(app: Flask) -> Iterator[Route]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        operation = operation_of(view)
        if operation is None or rule.rule.startswith(tuple(f"{b}/" for b in INTERNAL_BASES[1:])):
            continue
        path = _ID.sub(lambda found: "{" + to_camel(found[1]) + "}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield _route(path, method, view, operation, rule.endpoint)


def _route(
    path: str,
    method: str,
    view: Callable[..., Any],
    operation: Operation,
    endpoint: str,
) -> Route:
    blueprint = endpoint.rpartition(".")[0]
    kind = _kind(path, blueprint, operation)
    summary, description = sentences(view)
    names = tuple(re.findall(r"{(\w+)}", path))
    roles = [required_scope(method, endpoint)] if kind == "admin" else []
    return Route(
        path=path,
        method=method.lower(),
        operation=operation,
        operation_id=to_camel(f"{_word(path, blueprint)}_{view.__name__}"),
        group=_group(path, view),
        summary=summary,
        description=description,
        path_names=names,
        security=({kind: roles},) if kind in _SCHEMES else (),
        common_errors=(*_common(kind, operation), *(("not_found",) if names else ())),
        is_limited=kind != "open",
    )


def _kind(path: str, blueprint: str, operation: Operation) -> str:
    """Return who may call: ``s2s``, ``member``, ``admin``, ``public`` (limited) or ``open``."""
    if operation.is_open or not blueprint:
        return "open"
    if blueprint == "documentation":
        return "docs"
    if path.startswith("/admin/"):
        return "admin"
    if path.startswith("/api/internal"):
        return "s2s"
    return "member" if blueprint in ("member", "topup") else "public"


def _word(path: str, blueprint: str) -> str:
    if path.startswith("/api/internal"):
        return "internal"
    return "root" if path == "/docs" else blueprint or "process"


def _group(path: str, view: Callable[..., Any]) -> str:
    """Return the group of a route: what its module says of itself."""
    if path.startswith("/metrics"):
        return "Health and metrics"
    return sentences(sys.modules[view.__module__])[0]


def _common(kind: str, operation: Operation) -> Iterator[str]:
    if kind == "open":
        return
    yield "rate_limited"
    yield "internal_error"
    if kind != "docs":
        yield "billing_not_enabled"
        yield from _DATABASE_ERRORS
    if kind in _SCHEMES:
        yield "unauthorized"
    if kind == "s2s":
        yield "jwks_unavailable"
    if kind == "admin":
        yield "missing_scope"
    if operation.body is not None:
        yield from _BODY_ERRORS
    if operation.query is not None:
        yield "validation_error"
    if operation.checks_version:
        yield "unsupported_protocol_version"
    if operation.is_keyed:
        yield "invalid_idempotency_key"
        yield "idempotency_conflict"


def _of_receiver() -> Iterator[Route]:
    group = "Webhooks: the receiver, a service of its own"
    server = {"url": "/", "description": "The webhook receiver; make up: port 8001."}
    for number, path in enumerate(receiver.NOTICE_PATHS):
        yield Route(
            path=path,
            method="post",
            operation=receiver.NOTICE,
            operation_id=f"receiverNotice{number or ''}",
            group=group,
            summary="Keep a notice of NOWPayments; the workers do the rest",
            description="Answered after the commit. The same notice again is a duplicate.",
            common_errors=(*_BODY_ERRORS, *_DATABASE_ERRORS),
            server=server,
        )
    yield Route(
        path="/health",
        method="get",
        operation=receiver.HEALTH,
        operation_id="receiverHealth",
        group=group,
        summary="Tell whether the receiver can keep notices",
        server=server,
    )
