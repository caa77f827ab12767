"""What anyone may read: prices and packs (contract 5)."""

from flask import Blueprint, Response, request

from services.api import limits
from services.api.context import answer, count, require_feature, services
from services.api.schemas.answers.payments import Packs, Pricing
from shared.openapi.operations import documented
from shared.operations import pricing

routes = Blueprint("public", __name__)


@routes.before_request
def _let_in() -> None:
    require_feature()
    count(limits.PUBLIC, "public", request.remote_addr or "unknown")


@routes.get("/pricing")
@documented({200: Pricing}, errors=("config_invalid",))
def show_pricing() -> Response:
    """Show the pools, rates and tiers, and the mode that is in force."""
    with services().database.reading() as tx:
        return answer(pricing.show_pricing(tx, services().terms.current()))


@routes.get("/packs")
@documented({200: Packs}, errors=("config_invalid",))
def show_packs() -> Response:
    """Show the credit packs on sale."""
    with services().database.reading() as tx:
        return answer(pricing.show_packs(tx))
