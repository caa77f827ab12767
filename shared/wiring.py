"""Collaborators that several processes have in common, built from their settings."""

import structlog

from shared.balance_upkeep import CachedBalances
from shared.config import OutgoingSettings, ProviderSettings, SettingsError
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.notifications.keys import Keys
from shared.payments.intake import Intake
from shared.payments.providers.nowpayments import NowPayments
from shared.payments.quotes import Cashier
from shared.payments.x402.chain import Chain
from shared.payments.x402.facilitator import Facilitator
from shared.payments.x402.networks import NetworksError, read_networks
from shared.payments.x402.signatures import prepare
from shared.reconciliation.desk import Desk

log = structlog.get_logger()


def make_intake(settings: ProviderSettings, database: Database, terms: TermsCache) -> Intake:
    """Return what notices are worked off with, the provider's client included.

    A credit can be verified only with a key of the provider; without one that is said once.
    """
    has_key = bool(settings.nowpayments_api_key)
    if settings.payments_verify_before_credit and not has_key:
        log.warning("credits_are_not_verified", reason="NOWPAYMENTS_API_KEY is not set")
    provider = make_provider(settings)
    return Intake(database, terms, provider, settings.payments_verify_before_credit and has_key)


def make_keys(settings: OutgoingSettings) -> Keys:
    """Return the secrets that those of the endpoints of webhooks are derived from."""
    return Keys(settings.outgoing_webhook_secret, settings.outgoing_webhook_secret_prev)


def make_provider(settings: ProviderSettings) -> NowPayments:
    """Return the client of NOWPayments."""
    return NowPayments(
        url=settings.nowpayments_api_url,
        api_key=settings.nowpayments_api_key,
        callback_url=settings.nowpayments_ipn_callback_url,
        email=settings.nowpayments_email,
        password=settings.nowpayments_password,
    )


def make_desk(settings: ProviderSettings, database: Database) -> Desk:
    """Return what the reconciliation works with."""
    return Desk(database, CachedBalances(settings.redis_url), make_provider(settings))


def make_cashier(settings: ProviderSettings, database: Database, terms: TermsCache) -> Cashier:
    """Return what x402 is taken with. Raises SettingsError if X402_NETWORKS cannot be used."""
    try:
        networks = {one.caip2: one for one in read_networks(settings.x402_networks)}
    except NetworksError as error:
        raise SettingsError(f"Cannot start: {error} See .env.example.") from error
    if networks:
        prepare()
    return Cashier(
        database,
        terms,
        networks=networks,
        facilitators={
            name: Facilitator(one.facilitator_url, name=f"x402 {name}")
            for name, one in networks.items()
        },
        chains={name: Chain(one, one.rpc_url) for name, one in networks.items() if one.rpc_url},
        quote_seconds=settings.x402_quote_ttl_seconds,
    )
