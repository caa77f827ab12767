"""The admin API of the settings, the billing mode, tokens and the audit log (contract 5)."""

from flask import Response

from services.api.context import (
    actor,
    answer,
    answer_outcome,
    parse_body,
    parse_query,
    services,
)
from services.api.routes.admin_access import admin_blueprint
from services.api.schemas.answers.operations import (
    Audit,
    ChangedSettings,
    ModeSet,
    Readiness,
    Rehearsed,
    RevokedToken,
    Setting,
    Settings,
    ShownMode,
)
from services.api.schemas.settings import (
    AuditQuery,
    ConfigRequest,
    ModeRequest,
    RehearseRequest,
    RevokeRequest,
)
from shared.openapi.operations import documented
from shared.operations import audit, modes, rehearsal, settings, tokens

routes = admin_blueprint("settings")


@routes.get("/config")
@documented({200: Settings})
def list_settings() -> Response:
    """List every setting with its meaning, unit and allowed values."""
    with services().database.reading() as tx:
        return answer(settings.list_settings(tx))


@routes.get("/config/<key>")
@documented({200: Setting}, errors=("setting_not_found",))
def show_setting(key: str) -> Response:
    """Show one setting."""
    with services().database.reading() as tx:
        return answer(settings.show_setting(tx, key))


@routes.patch("/config")
@documented(
    {200: ChangedSettings},
    body=ConfigRequest,
    errors=(
        "mode_by_itself",
        "revenue_rules_only",
        "setting_read_only",
        "setting_refused",
        "unknown_setting",
    ),
)
def change_settings() -> Response:
    """Change settings together; running processes obey within five seconds."""
    body = parse_body(ConfigRequest)
    with services().database.transaction() as tx:
        outcome = settings.change_settings(tx, actor(), body.values, body.reason)
    return answer_outcome(outcome)


@routes.get("/mode")
@documented({200: ShownMode})
def show_mode() -> Response:
    """Show the billing mode and its last changes."""
    with services().database.reading() as tx:
        return answer(modes.show_mode(tx))


@routes.get("/mode/readiness")
@documented({200: Readiness})
def show_readiness() -> Response:
    """Show the runbook's checklist, each point with what the data says."""
    with services().database.reading() as tx:
        return answer(modes.show_readiness(tx))


@routes.post("/mode")
@documented({200: ModeSet}, body=ModeRequest, errors=("mode_not_ready",))
def set_mode() -> Response:
    """Set the mode; going up without evidence is a 409 unless it is forced."""
    body = parse_body(ModeRequest)
    with services().database.transaction() as tx:
        outcome = modes.set_mode(tx, actor(), body.mode, reason=body.reason, is_forced=body.force)
    return answer_outcome(outcome)


@routes.post("/mode/rehearse")
@documented({200: Rehearsed}, body=RehearseRequest, errors=("config_invalid",))
def rehearse() -> Response:
    """Try 402, clawback and dead letters on the sandbox account, as evidence for the readiness."""
    wanted = parse_body(RehearseRequest).mode
    chosen = rehearsal.ALL_MODES if wanted == "all" else (wanted,)
    return answer(rehearsal.rehearse(services().database, services().terms, actor(), chosen))


@routes.post("/tokens/revoke")
@documented({200: RevokedToken}, body=RevokeRequest, errors=("invalid_jti", "until_is_past"))
def revoke_token() -> Response:
    """Refuse an admin's token although its time is not over; its jti names it."""
    body = parse_body(RevokeRequest)
    with services().database.transaction() as tx:
        outcome = tokens.revoke(tx, actor(), body.jti, reason=body.reason, until=body.until)
    return answer_outcome(outcome)


@routes.get("/audit")
@documented({200: Audit}, query=AuditQuery)
def list_audit() -> Response:
    """List what was done and what was refused, newest first."""
    query = parse_query(AuditQuery)
    wanted = audit.AuditFilter(
        actor_id=query.actor,
        action=query.action,
        target_type=query.target_type,
        target_id=query.target_id,
        since=query.since,
        until=query.until,
        limit=query.limit,
        before=query.cursor,
    )
    with services().database.reading() as tx:
        return answer(audit.list_rows(tx, wanted))
