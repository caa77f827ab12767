"""``arrakis payments``: where a payment stands and why, and what to do if a notice was missed."""

from typing import Any

import click

from shared.cli.acting import confirm, confirmed, with_reason
from shared.cli.api import Api
from shared.cli.desk import Host, get, on_host, post, with_desk
from shared.cli.options import limited, paged
from shared.cli.output import as_json, money, more, progress, table, tell
from shared.config import OperatorSettings
from shared.models.payments import PAYMENT_STATUSES
from shared.money import format_usd
from shared.operations import payments as work
from shared.payments import intake, polling


@click.group()
def payments() -> None:
    """Look at payments, heal missed notices, take credits back."""


@payments.command("list")
@click.option("--status", type=click.Choice(PAYMENT_STATUSES), help="Only these.")
@click.option("--account", "account_id", help="Only this account's.")
@click.option("--provider", type=click.Choice(["nowpayments", "x402"]), help="Only this one's.")
@limited
@paged
@as_json
@with_desk
def list_payments(
    desk: Host | Api,
    *,
    status: str | None,
    account_id: str | None,
    provider: str | None,
    limit: int,
    cursor: str | None,
    is_json: bool,
) -> None:
    """List payments, newest first.

    \b
    Example:
        arrakis payments list --status waiting --account ACCOUNT
    """
    query = {
        "status": status,
        "accountId": account_id,
        "provider": provider,
        "limit": limit,
        "cursor": cursor,
    }
    wanted = work.PaymentFilter(status, account_id, provider, limit, cursor)
    found = desk.read(get("payments", query=query), lambda tx: work.list_payments(tx, wanted))
    rows = [
        (one["paymentId"], one["status"], f"{one['priceAmount']} {one['priceCurrency']}",
         one["accountId"])
        for one in found["payments"]
    ]  # fmt: skip
    lines = [table(("payment", "status", "price", "account"), rows), *more(found)]
    tell(found, is_json=is_json, text="\n".join(lines) if rows else "There is no such payment.")


@payments.command()
@click.argument("payment_id")
@as_json
@with_desk
def show(desk: Host | Api, payment_id: str, *, is_json: bool) -> None:
    """Show where PAYMENT_ID (ours or the provider's) stands, with its credits and notices.

    \b
    Example:
        arrakis payments show 5745459419
    """
    found = desk.read(get("payments", payment_id), lambda tx: work.explain_payment(tx, payment_id))
    tell(found, is_json=is_json, text=_describe(found))


@payments.command()
@click.argument("payment_id")
@as_json
@with_desk
def replay(desk: Host | Api, payment_id: str, *, is_json: bool) -> None:
    """Ask the provider about PAYMENT_ID and work its notices off once more.

    Safe to repeat: what was credited is not credited again.

    \b
    Example:
        arrakis payments replay 5745459419
    """
    found = desk.work(
        post("payments", payment_id, "replay"),
        lambda host: work.replay(host.intake, host.actor, payment_id),
    ).facts
    if "lookUp" in found:  # the API does not wait for a slow provider
        words = f"The replay goes on. How it ends: arrakis payments show {payment_id}"
        tell(found, is_json=is_json, text=words)
        return
    asked = "" if found["isProviderAsked"] else "The provider could not be asked.\n"
    tell(found, is_json=is_json, text=asked + _describe(found))


@payments.command()
@click.argument("payment_id")
@with_reason
@confirmed
@as_json
@with_desk
def refund(desk: Host | Api, payment_id: str, reason: str, *, is_sure: bool, is_json: bool) -> None:
    """Take back the credits of PAYMENT_ID, whose money went back to the payer.

    What is held is taken when its hold ends; what was spent becomes debt. Again is harmless.

    \b
    Example:
        arrakis payments refund PAYMENT --reason "paid twice, sent back" --yes
    """
    confirm(f"Take back the credits of {payment_id}?", is_sure=is_sure)
    found = desk.work(
        post("payments", payment_id, "refund", body={"reason": reason}),
        lambda host: work.refund(host.database, host.terms, host.actor, payment_id, reason),
    ).facts
    amounts = [
        ("clawed back", money(found["clawedBackMicro"])),
        ("still held", money(found["heldMicro"])),
        ("debt", money(found["debtMicro"])),
    ]
    head = f"{found['paymentId']} of {found['accountId']} is {found['status']}."
    tell(found, is_json=is_json, text=f"{head}\n{table(('part', 'micro-USD'), amounts)}")


@payments.command()
@as_json
@on_host
def poll(settings: OperatorSettings, *, is_json: bool) -> None:
    """Read every payment whose time has come at the provider, and apply what is new.

    \b
    Example:
        arrakis payments poll
    """
    collaborators = Host(settings).intake
    looked = applied = 0
    with progress("Reading payments") as so_far:
        while done := polling.poll(collaborators.database, collaborators.provider):
            looked += done
            so_far(looked, None)
    with progress("Working notices off") as so_far:
        while done := intake.drain(collaborators):
            applied += done
            so_far(applied, None)
    words = f"Read {looked} payments at the provider and worked off {applied} notices."
    tell({"looked": looked, "notices": applied}, is_json=is_json, text=words)


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
