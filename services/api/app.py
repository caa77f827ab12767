"""The application factory of the API: collaborators in, a Flask app out."""

import structlog
from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST, Metric

from services.api import errors
from services.api.auth import Revocations, policies
from services.api.context import Services, services
from services.api.documents import Documents
from services.api.limits import RateLimiter
from services.api.routes import (
    admin,
    admin_alerts,
    admin_payments,
    admin_settings,
    campaigns,
    dlq,
    documentation,
    internal,
    member,
    mint_proposals,
    public,
    reconciliation,
    revenue_rules,
    topup,
    webhooks_out,
)
from shared.balance_cache import BalanceCache
from shared.config import ApiSettings
from shared.database import Database
from shared.errors import Unavailable
from shared.ledger.executor import Executor
from shared.ledger.terms import TermsCache
from shared.observability import exposition
from shared.openapi import receiver
from shared.openapi.operations import described_by
from shared.operations import gauges
from shared.wiring import make_cashier, make_intake
from shared.wsgi import TrustedProxies, observe

log = structlog.get_logger()


def create_app(settings: ApiSettings, database: Database, balances: BalanceCache) -> Flask:
    """Build the API on *database*; it opens no connection yet."""
    app = Flask("arrakis-api", static_folder=None)
    if settings.trusted_proxies:
        app.wsgi_app = TrustedProxies(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
    app.extensions["arrakis"] = Services(
        settings=settings,
        database=database,
        terms=terms,
        executor=Executor(database, terms),
        limiter=RateLimiter(settings.redis_url),
        policies=policies(settings),
        revocations=Revocations(database),
        intake=make_intake(settings, database, terms),
        cashier=make_cashier(settings, database, terms),
        balances=balances,
    )
    observe(app, "api", database.clock)
    errors.register(app)
    # All three bases are in use by services that are deployed (contract 4).
    for base in ("/api/internal", "/api/internal/billing", "/api/billing/internal"):
        app.register_blueprint(internal.routes, url_prefix=base, name=base.replace("/", "_"))
    for blueprint in (member.routes, topup.routes, public.routes):
        app.register_blueprint(blueprint, url_prefix="/api/billing")
    app.register_blueprint(admin.routes, url_prefix="/admin/billing")
    app.register_blueprint(admin_settings.routes, url_prefix="/admin/billing")
    app.register_blueprint(admin_alerts.routes, url_prefix="/admin/billing/alerts")
    app.register_blueprint(admin_payments.routes, url_prefix="/admin/billing/payments")
    app.register_blueprint(campaigns.routes, url_prefix="/admin/billing/campaigns")
    app.register_blueprint(mint_proposals.routes, url_prefix=mint_proposals.PATH)
    app.register_blueprint(dlq.routes, url_prefix="/admin/billing/dlq")
    app.register_blueprint(webhooks_out.routes, url_prefix="/admin/billing/webhooks")
    app.register_blueprint(reconciliation.routes, url_prefix="/admin/billing/reconciliation")
    app.register_blueprint(revenue_rules.routes, url_prefix="/admin/billing/revenue-rules")
    app.register_blueprint(documentation.routes)
    app.add_url_rule("/metrics", "metrics", _metrics)
    app.extensions["documents"] = Documents(app)
    return app


@described_by(receiver.METRICS)
def _metrics() -> Response:
    """Show what this process has counted, and how much work waits."""
    database_says: list[Metric] = []
    try:
        with services().database.reading() as tx:
            database_says = gauges.read(tx)
    except Unavailable as error:  # then what this process counted is still worth telling
        log.warning("gauges_not_read", reason=error.message)
    return Response(exposition(database_says), content_type=CONTENT_TYPE_LATEST)
