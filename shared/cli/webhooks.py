"""``arrakis webhook``: who is told of alerts and account events, and what became of it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import click

from shared.cli.acting import confirm, confirmed
from shared.cli.api import Api
from shared.cli.desk import Call, Facts, Host, get, post, with_desk
from shared.cli.options import limited, paged
from shared.cli.output import as_json, fields, more, table, tell
from shared.notifications import deliveries as sent
from shared.notifications import endpoints
from shared.notifications.endpoints import Wanted
from shared.notifications.outbox import EventType
from shared.wiring import make_keys

_BAD_NEWS = 1
_GROUP = "webhooks"


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
@with_desk
def add(
    desk: Host | Api,
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
    wanted = Wanted(url=url, description=description, event_types=event_types or None)

    def carry_out(host: Host) -> Facts:
        keys = make_keys(host.settings)
        keys.require()
        allow_private = host.settings.arrakis_webhook_allow_private
        endpoints.require_url(host.database, host.actor, url, allow_private=allow_private)
        with host.database.transaction() as tx:
            return endpoints.create(tx, host.actor, keys, wanted)

    body = {"url": url, "description": description, "eventTypes": wanted.event_types}
    # Twice would make two.
    made = desk.work(replace(post(_GROUP, body=body), is_repeatable=False), carry_out).facts
    tell(made, is_json=is_json, text=f"{_describe(made)}\nKeep the secret: it is not shown again.")


@webhook.command("list")
@as_json
@with_desk
def list_endpoints(desk: Host | Api, *, is_json: bool) -> None:
    """List endpoints, oldest first; exit 1 if one is disabled or failing.

    \b
    Example:
        arrakis webhook list
    """
    found = desk.read(get(_GROUP), endpoints.list_endpoints)
    rows = [
        (one["endpointId"], _health(one), one["waiting"], one["url"]) for one in found["webhooks"]
    ]
    text = table(("webhook", "status", "waiting", "url"), rows) if rows else "There is no webhook."
    tell(found, is_json=is_json, text=text)
    if any(_health(one) != "active" for one in found["webhooks"]):
        sys.exit(_BAD_NEWS)


@webhook.command()
@click.argument("endpoint_id")
@as_json
@with_desk
def show(desk: Host | Api, endpoint_id: str, *, is_json: bool) -> None:
    """Show ENDPOINT_ID with its last deliveries.

    \b
    Example:
        arrakis webhook show ENDPOINT
    """
    found = desk.read(get(_GROUP, endpoint_id), lambda tx: sent.show_endpoint(tx, endpoint_id))
    last = found["lastDeliveries"]
    lines = [_describe(found), *([_table(last)] if last else [])]
    tell(found, is_json=is_json, text="\n".join(lines))


@webhook.command()
@click.argument("endpoint_id")
@confirmed
@as_json
@with_desk
def remove(desk: Host | Api, endpoint_id: str, *, is_sure: bool, is_json: bool) -> None:
    """Remove ENDPOINT_ID and cancel what waits for it.

    \b
    Example:
        arrakis webhook remove ENDPOINT --yes
    """
    confirm(f"Remove {endpoint_id}?", is_sure=is_sure)
    gone = desk.change(
        Call("DELETE", (_GROUP, endpoint_id), is_repeatable=False),  # what is gone is not found
        lambda tx, actor: endpoints.remove(tx, actor, endpoint_id),
    ).facts
    tell(gone, is_json=is_json, text=f"Removed; {gone['cancelled']} deliveries were cancelled.")


@webhook.command()
@click.argument("endpoint_id")
@as_json
@with_desk
def enable(desk: Host | Api, endpoint_id: str, *, is_json: bool) -> None:
    """Enable ENDPOINT_ID again; what waits for it is delivered.

    \b
    Example:
        arrakis webhook enable ENDPOINT
    """
    _set_active(desk, endpoint_id, is_active=True, is_json=is_json)


@webhook.command()
@click.argument("endpoint_id")
@as_json
@with_desk
def disable(desk: Host | Api, endpoint_id: str, *, is_json: bool) -> None:
    """Stop sending to ENDPOINT_ID; what waits stays until it is enabled.

    \b
    Example:
        arrakis webhook disable ENDPOINT
    """
    _set_active(desk, endpoint_id, is_active=False, is_json=is_json)


@webhook.command()
@click.argument("endpoint_id")
@as_json
@with_desk
def rotate(desk: Host | Api, endpoint_id: str, *, is_json: bool) -> None:
    """Give ENDPOINT_ID a new secret and print it, this once; the earlier one signs for a day.

    \b
    Example:
        arrakis webhook rotate ENDPOINT
    """

    def carry_out(host: Host) -> Facts:
        keys = make_keys(host.settings)
        with host.database.transaction() as tx:
            return endpoints.rotate_secret(tx, host.actor, keys, endpoint_id)

    call = post(_GROUP, endpoint_id, "rotate-secret")
    # Twice would end the secret that the receiver still verifies with.
    found = desk.work(replace(call, is_repeatable=False), carry_out).facts
    tell(found, is_json=is_json, text=f"{_describe(found)}\nThe earlier secret signs for a day.")


@webhook.command()
@click.argument("endpoint_id")
@as_json
@with_desk
def test(desk: Host | Api, endpoint_id: str, *, is_json: bool) -> None:
    """Have ENDPOINT_ID told of a test; the workers deliver it within seconds.

    \b
    Example:
        arrakis webhook test ENDPOINT
    """
    told = desk.change(
        replace(post(_GROUP, endpoint_id, "test"), is_repeatable=False),  # each is an event
        lambda tx, actor: endpoints.send_test(tx, actor, endpoint_id),
    ).facts
    look = f"arrakis webhook deliveries {endpoint_id}"
    tell(told, is_json=is_json, text=f"{told['eventId']} is on its way. Look: {look}")


@webhook.command()
@click.argument("endpoint_id")
@limited
@paged
@as_json
@with_desk
def deliveries(
    desk: Host | Api, endpoint_id: str, limit: int, cursor: str | None, *, is_json: bool
) -> None:
    """List what was sent to ENDPOINT_ID, newest first.

    \b
    Example:
        arrakis webhook deliveries ENDPOINT --limit 20
    """
    found = desk.read(
        get(_GROUP, endpoint_id, "deliveries", query={"limit": limit, "cursor": cursor}),
        lambda tx: sent.list_deliveries(tx, endpoint_id, limit=limit, after=cursor),
    )
    page = found["deliveries"]
    lines = [_table(page), *more(found)] if page else ["Nothing was sent yet."]
    tell(found, is_json=is_json, text="\n".join(lines))


@webhook.command()
@click.argument("delivery_id")
@as_json
@with_desk
def retry(desk: Host | Api, delivery_id: str, *, is_json: bool) -> None:
    """Have DELIVERY_ID made again from the start, also if it had succeeded.

    \b
    Example:
        arrakis webhook retry DELIVERY
    """
    call = post(_GROUP, "deliveries", delivery_id, "retry")
    found = desk.change(
        replace(call, is_repeatable=False),  # each is sent
        lambda tx, actor: sent.retry(tx, actor, delivery_id),
    ).facts
    tell(found, is_json=is_json, text=_table([found]))


def _set_active(desk: Host | Api, endpoint_id: str, *, is_active: bool, is_json: bool) -> None:
    found = desk.change(
        Call("PATCH", (_GROUP, endpoint_id), body={"isActive": is_active}),
        lambda tx, actor: endpoints.change(tx, actor, endpoint_id, Wanted(is_active=is_active)),
    ).facts
    tell(found, is_json=is_json, text=_describe(found))


def _health(one: dict[str, Any]) -> str:
    return "failing" if one["status"] == "active" and one["failingSince"] else str(one["status"])


def _table(page: Sequence[dict[str, Any]]) -> str:
    rows = [
        (one["deliveryId"], one["status"], one["type"], one["tries"], one["nextTryAt"],
         one["error"])
        for one in page
    ]  # fmt: skip
    return table(("delivery", "status", "event", "tries", "next try", "error"), rows)


def _describe(found: dict[str, Any]) -> str:
    apart = ("endpointId", "lastDeliveries")
    facts = {name: value for name, value in found.items() if name not in apart}
    facts["eventTypes"] = ", ".join(found["eventTypes"])
    return f"{found['endpointId']}\n{fields(facts)}"
