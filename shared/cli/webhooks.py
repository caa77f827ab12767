"""``arrakis webhook``: who is told of alerts and account events, and what became of it."""

import sys
from typing import Any

import click

from shared.cli.acting import confirm, confirmed, operator
from shared.cli.desk import on_host, open_database
from shared.cli.output import as_json, tell
from shared.config import OperatorSettings
from shared.notifications import deliveries as sent
from shared.notifications import endpoints
from shared.notifications.endpoints import Wanted
from shared.notifications.outbox import EventType
from shared.wiring import make_keys

_BAD_NEWS = 1
_LAST_DELIVERIES = 10


@click.group()
def webhook() -> None:
    """Tell other systems of alerts and account events by signed webhooks (docs/webhooks.md)."""


@webhook.command()
@click.argument("url")
@click.option(
    "--event",
    "event_types",
    multiple=True,
    type=click.Choice([str(one) for one in EventType]),
    help="What it is told of; repeat it. Default: everything.",
)
@click.option("--description", help="Whose it is.")
@as_json
@on_host
def add(
    settings: OperatorSettings,
    *,
    url: str,
    event_types: tuple[str, ...],
    description: str | None,
    is_json: bool,
) -> None:
    """Add URL (https) and print the secret that it verifies with, this once.

    \b
    Example:
        arrakis webhook add https://ops.example.com/hooks --event alert.fired
    """
    database, keys = open_database(settings), make_keys(settings)
    keys.require()
    allow_private = settings.arrakis_webhook_allow_private
    endpoints.require_url(database, operator(), url, allow_private=allow_private)
    wanted = Wanted(url=url, description=description, event_types=event_types or None)
    with database.transaction() as tx:
        made = endpoints.create(tx, operator(), keys, wanted)
    tell(made, is_json=is_json, text=f"{_describe(made)}\nKeep the secret: it is not shown again.")


@webhook.command("list")
@as_json
@on_host
def list_endpoints(settings: OperatorSettings, *, is_json: bool) -> None:
    """List endpoints, oldest first; exit 1 if one is disabled or failing.

    \b
    Example:
        arrakis webhook list
    """
    with open_database(settings).reading() as tx:
        found = endpoints.list_endpoints(tx)
    lines = [
        f"{one['endpointId']}  {_health(one):9} {one['waiting']:5} waiting  {one['url']}"
        for one in found["webhooks"]
    ]
    tell(found, is_json=is_json, text="\n".join(lines) or "There is no webhook.")
    if any(_health(one) != "active" for one in found["webhooks"]):
        sys.exit(_BAD_NEWS)


@webhook.command()
@click.argument("endpoint_id")
@as_json
@on_host
def show(settings: OperatorSettings, endpoint_id: str, *, is_json: bool) -> None:
    """Show ENDPOINT_ID with its last deliveries.

    \b
    Example:
        arrakis webhook show ENDPOINT
    """
    with open_database(settings).reading() as tx:
        found = endpoints.show(tx, endpoint_id)
        last = sent.list_deliveries(tx, endpoint_id, limit=_LAST_DELIVERIES)["deliveries"]
    text = "\n".join([_describe(found), *(_line(one) for one in last)])
    tell({**found, "lastDeliveries": last}, is_json=is_json, text=text)


@webhook.command()
@click.argument("endpoint_id")
@confirmed
@as_json
@on_host
def remove(settings: OperatorSettings, endpoint_id: str, *, is_sure: bool, is_json: bool) -> None:
    """Remove ENDPOINT_ID and cancel what waits for it.

    \b
    Example:
        arrakis webhook remove ENDPOINT --yes
    """
    confirm(f"Remove {endpoint_id}?", is_sure=is_sure)
    with open_database(settings).transaction() as tx:
        gone = endpoints.remove(tx, operator(), endpoint_id)
    tell(gone, is_json=is_json, text=f"Removed; {gone['cancelled']} deliveries were cancelled.")


@webhook.command()
@click.argument("endpoint_id")
@as_json
@on_host
def enable(settings: OperatorSettings, endpoint_id: str, *, is_json: bool) -> None:
    """Enable ENDPOINT_ID again; what waits for it is delivered.

    \b
    Example:
        arrakis webhook enable ENDPOINT
    """
    _set_active(settings, endpoint_id, is_active=True, is_json=is_json)


@webhook.command()
@click.argument("endpoint_id")
@as_json
@on_host
def disable(settings: OperatorSettings, endpoint_id: str, *, is_json: bool) -> None:
    """Stop sending to ENDPOINT_ID; what waits stays until it is enabled.

    \b
    Example:
        arrakis webhook disable ENDPOINT
    """
    _set_active(settings, endpoint_id, is_active=False, is_json=is_json)


@webhook.command()
@click.argument("endpoint_id")
@as_json
@on_host
def rotate(settings: OperatorSettings, endpoint_id: str, *, is_json: bool) -> None:
    """Give ENDPOINT_ID a new secret and print it, this once; the earlier one signs for a day.

    \b
    Example:
        arrakis webhook rotate ENDPOINT
    """
    with open_database(settings).transaction() as tx:
        found = endpoints.rotate_secret(tx, operator(), make_keys(settings), endpoint_id)
    tell(found, is_json=is_json, text=f"{_describe(found)}\nThe earlier secret signs for a day.")


@webhook.command()
@click.argument("endpoint_id")
@as_json
@on_host
def test(settings: OperatorSettings, endpoint_id: str, *, is_json: bool) -> None:
    """Have ENDPOINT_ID told of a test; the workers deliver it within seconds.

    \b
    Example:
        arrakis webhook test ENDPOINT
    """
    with open_database(settings).transaction() as tx:
        told = endpoints.send_test(tx, operator(), endpoint_id)
    look = f"arrakis webhook deliveries {endpoint_id}"
    tell(told, is_json=is_json, text=f"{told['eventId']} is on its way. Look: {look}")


@webhook.command()
@click.argument("endpoint_id")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@as_json
@on_host
def deliveries(settings: OperatorSettings, endpoint_id: str, limit: int, *, is_json: bool) -> None:
    """List what was sent to ENDPOINT_ID, newest first.

    \b
    Example:
        arrakis webhook deliveries ENDPOINT --limit 50
    """
    with open_database(settings).reading() as tx:
        endpoints.show(tx, endpoint_id)
        found = sent.list_deliveries(tx, endpoint_id, limit=limit)
    lines = [_line(one) for one in found["deliveries"]]
    tell(found, is_json=is_json, text="\n".join(lines) or "Nothing was sent yet.")


@webhook.command()
@click.argument("delivery_id")
@as_json
@on_host
def retry(settings: OperatorSettings, delivery_id: str, *, is_json: bool) -> None:
    """Have DELIVERY_ID made again from the start, also if it had succeeded.

    \b
    Example:
        arrakis webhook retry DELIVERY
    """
    with open_database(settings).transaction() as tx:
        found = sent.retry(tx, operator(), delivery_id)
    tell(found, is_json=is_json, text=_line(found))


def _set_active(
    settings: OperatorSettings, endpoint_id: str, *, is_active: bool, is_json: bool
) -> None:
    with open_database(settings).transaction() as tx:
        found = endpoints.change(tx, operator(), endpoint_id, Wanted(is_active=is_active))
    tell(found, is_json=is_json, text=_describe(found))


def _health(one: dict[str, Any]) -> str:
    return "failing" if one["status"] == "active" and one["failingSince"] else str(one["status"])


def _line(one: dict[str, Any]) -> str:
    why = f"  {one['error']}" if one["error"] else ""
    due = f", next try {one['nextTryAt']}" if one["nextTryAt"] else ""
    tries = f"{one['tries']} tries{due}"
    return f"{one['deliveryId']}  {one['status']:9} {one['type']:24} {tries}{why}"


def _describe(found: dict[str, Any]) -> str:
    facts = {**found, "eventTypes": ", ".join(found["eventTypes"])}
    lines = [f"  {name:15} {value}" for name, value in facts.items() if value is not None]
    return "\n".join([found["endpointId"], *lines[1:]])
