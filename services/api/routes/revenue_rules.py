"""The admin API of revenue rules: propose, submit, approve, reject, override (behaviour 14.3)."""

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

# What a second admin decides needs a scope of its own.
from services.api.schemas.answers.operations import (
    ActiveRevenueRule,
    AuditTrail,
    RevenueRule,
    RevenueRules,
)
from services.api.schemas.requests import PageQuery
from services.api.schemas.revenue_rules import ReasonRequest, RevenueRuleRequest
from shared.openapi.operations import documented
from shared.operations import audit, revenue_rules

routes = admin_blueprint("revenue_rules", approvals=("approve", "reject", "override_cooldown"))


@routes.post("")
@documented({201: RevenueRule}, body=RevenueRuleRequest)
def propose() -> Response:
    """Propose a rule: 201 with a draft."""
    proposal = revenue_rules.Proposal(**parse_body(RevenueRuleRequest).model_dump())
    with services().database.transaction() as tx:
        made = revenue_rules.propose(tx, actor(), proposal)
    return answer(made, 201)


@routes.patch("/<rule_id>/submit")
@documented({200: RevenueRule}, errors=("revenue_rule_not_found", "revenue_rule_state"))
def submit(rule_id: str) -> Response:
    """Ask for the approval of a draft."""
    with services().database.transaction() as tx:
        outcome = revenue_rules.submit(tx, actor(), rule_id)
    return answer_outcome(outcome)


@routes.patch("/<rule_id>/approve")
@documented(
    {200: RevenueRule},
    errors=(
        "config_invalid",
        "four_eyes_violation",
        "revenue_rule_not_found",
        "revenue_rule_state",
    ),
)
def approve(rule_id: str) -> Response:
    """Approve what another admin proposed; it is active after the cooldown."""
    with services().database.transaction() as tx:
        outcome = revenue_rules.approve(tx, actor(), rule_id)
    return answer_outcome(outcome)


@routes.patch("/<rule_id>/reject")
@documented(
    {200: RevenueRule},
    body=ReasonRequest,
    errors=("four_eyes_violation", "revenue_rule_not_found", "revenue_rule_state"),
)
def reject(rule_id: str) -> Response:
    """Reject a rule that is not active yet, with the reason."""
    reason = parse_body(ReasonRequest).reason
    with services().database.transaction() as tx:
        outcome = revenue_rules.reject(tx, actor(), rule_id, reason)
    return answer_outcome(outcome)


@routes.patch("/<rule_id>/override-cooldown")
@documented(
    {200: RevenueRule},
    body=ReasonRequest,
    errors=(
        "config_invalid",
        "four_eyes_violation",
        "revenue_rule_not_found",
        "revenue_rule_state",
    ),
)
def override_cooldown(rule_id: str) -> Response:
    """Activate an approved rule at once, with the reason."""
    reason = parse_body(ReasonRequest).reason
    with services().database.transaction() as tx:
        outcome = revenue_rules.override_cooldown(tx, actor(), rule_id, reason)
    return answer_outcome(outcome)


@routes.get("")
@documented({200: RevenueRules}, query=PageQuery)
def list_rules() -> Response:
    """List rules, oldest first."""
    query = parse_query(PageQuery)
    with services().database.reading() as tx:
        return answer(revenue_rules.list_rules(tx, limit=query.limit, after=query.cursor))


@routes.get("/active")
@documented({200: ActiveRevenueRule})
def show_active() -> Response:
    """Show the active rule, the rates in force, and whether they differ."""
    with services().database.reading() as tx:
        return answer(revenue_rules.show_active(tx))


@routes.get("/<rule_id>")
@documented({200: RevenueRule}, errors=("revenue_rule_not_found",))
def show(rule_id: str) -> Response:
    """Show a rule."""
    with services().database.reading() as tx:
        return answer(revenue_rules.show(tx, rule_id))


@routes.get("/<rule_id>/audit")
@documented({200: AuditTrail}, query=PageQuery, errors=("revenue_rule_not_found",))
def show_audit(rule_id: str) -> Response:
    """Show what was done to a rule, and what was refused, oldest first."""
    query = parse_query(PageQuery)
    with services().database.reading() as tx:
        revenue_rules.show(tx, rule_id)
        return answer(
            audit.trail(
                tx,
                target_type=revenue_rules.TARGET,
                target_id=rule_id,
                limit=query.limit,
                after=query.cursor,
            )
        )
