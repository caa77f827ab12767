"""``arrakis payments``: where a payment stands and why, and what to do if a notice was missed."""

from typing import Any

import click

from shared import schema
from shared.balance_cache import BalanceCache
from shared.cli.acting import operator
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.database import Database
from shared.ledger.terms import TermsCache
from shared.money import format_usd
from shared.operations import payments as desk
from shared.payments import intake, polling
from shared.payments.intake import Intake
from shared.wiring import make_intake


@click.group()
def payments() -> None:
    """Look at payments, and heal missed notices."""


@payments.command()
@click.argument("payment_id")
@as_json
@click.pass_obj
def show(settings: OperatorSettings, payment_id: str, *, is_json: bool) -> None:
    """Show where PAYMENT_ID (ours or the provider's) stands, with its credits and notices."""
    database = Database(settings.database_url)
    schema.require_current(database)
    with database.reading() as tx:
        found = desk.explain_payment(tx, payment_id)
    tell(found, is_json=is_json, text=_describe(found))


@payments.command()
@click.argument("payment_id")
@as_json
@click.pass_obj
def replay(settings: OperatorSettings, payment_id: str, *, is_json: bool) -> None:
    """Ask the provider about PAYMENT_ID and work its notices off once more.

    Safe to repeat: what was credited is not credited again. Example:

        arrakis payments replay 5745459419
    """
    found = desk.replay(open_intake(settings), operator(), payment_id)
    asked = "" if found["isProviderAsked"] else "The provider could not be asked.\n"
    tell(found, is_json=is_json, text=asked + _describe(found))


@payments.command()
@as_json
@click.pass_obj
def poll(settings: OperatorSettings, *, is_json: bool) -> None:
    """Read every payment whose time has come at the provider, and apply what is new."""
    collaborators = open_intake(settings)
    looked = applied = 0
    while done := polling.poll(collaborators.database, collaborators.provider):
        looked += done
    while done := intake.drain(collaborators):
        applied += done
    words = f"Read {looked} payments at the provider and worked off {applied} notices."
    tell({"looked": looked, "notices": applied}, is_json=is_json, text=words)


def open_intake(settings: OperatorSettings) -> Intake:
    """Return what notices are worked off with, as the workers have it."""
    database = Database(settings.database_url, after_commit=[BalanceCache(settings.redis_url)])
    schema.require_current(database)
    terms = TermsCache(database, ceiling_micro=settings.billing_ceiling_micro)
    return make_intake(settings, database, terms)


def _describe(found: dict[str, Any]) -> str:
    """Return a payment as lines for people."""
    price = f"{found['priceAmount']} {found['priceCurrency']}"
    lines = [
        f"{found['paymentId']} ({found['provider']} {found['providerPaymentId'] or 'without id'})",
        f"  status     {found['status']}",
        f"  account    {found['accountId'] or 'none'}",
        f"  price      {price}, paid {found['actuallyPaid'] or '0'} {found['payCurrency'] or ''}",
    ]
    for credit in found["credits"]:
        dollars = format_usd(int(credit["amountMicro"]))
        rate = f" at {credit['rate']} USD" if credit["rate"] else ""
        lines.append(f"  credited   {dollars} by {credit['basis']}{rate}: lot {credit['lotId']}")
    if found["reviewReason"]:
        lines.append(f"  to review  {found['reviewReason']}")
    lines += [
        f"  {event['source']:9}  {event['receivedAt']} {event['status']}: "
        f"{event['outcome'] or event['state']}{_error(event)}"
        for event in found["events"]
    ]
    lines += [
        f"  dead letter {letter['operation']} {letter['status']}: {letter['error']}"
        for letter in found["deadLetters"]
    ]
    return "\n".join(lines)


def _error(event: dict[str, Any]) -> str:
    return f" ({event['lastError']})" if event["lastError"] else ""
