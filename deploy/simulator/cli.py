"""``arrakis-sim``: run the simulator, and make a running one play scenarios and faults.

Exit 0 fine, 1 a notice was not accepted, 2 wrong use, 3 no simulator answers.
"""

import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

import click
import requests

from deploy.simulator.faults import (
    COMMON_MODES,
    FACILITATOR_MODES,
    PROVIDER_MODES,
    RPC_MODES,
    Mode,
)
from deploy.simulator.scenarios import SCENARIOS
from deploy.simulator.serve import serve
from deploy.simulator.wire import parse

_BAD_NEWS, _WRONG_USE, _AWAY = 1, 2, 3
_ANSWER_SECONDS = 120.0
_APIS = {
    "provider": ("/faults", PROVIDER_MODES),
    "facilitator": ("/facilitator/faults", FACILITATOR_MODES),
    "rpc": ("/rpc/faults", RPC_MODES),
}

at = click.option(
    "--url",
    envvar="ARRAKIS_SIMULATOR_URL",
    default="http://127.0.0.1:8100",
    show_default=True,
    show_envvar=True,
    help="Where the simulator runs; with or without /v1 or /sim at the end.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Play NOWPayments, an x402 facilitator and a node of Base, on this machine only."""


main.add_command(serve, "serve")


@main.command()
def scenarios() -> None:
    """List the scenarios, each with a sentence."""
    width = max(map(len, SCENARIOS))
    for name, one in SCENARIOS.items():
        click.echo(f"{name:<{width}}  {one.sentence}")


@main.command()
@click.argument("name", type=click.Choice(list(SCENARIOS)), metavar="NAME")
@click.option("--payment", type=click.IntRange(min=1), help="Its number; default: the newest one.")
@at
def scenario(*, name: str, payment: int | None, url: str) -> None:
    """Play a scenario on a payment and show what was delivered."""
    number = payment or _newest(url)
    click.echo(f"{name} on payment {number}: {SCENARIOS[name].sentence}")
    played = _call(url, "POST", f"/payments/{number}/scenario", {"name": name, "wait": True})
    for one in played["deliveries"]:
        about = "" if one["payment_id"] == number else f" of payment {one['payment_id']}"
        outcome = "no answer" if one["http_status"] is None else f"HTTP {one['http_status']}"
        tries = "" if one["attempts"] == 1 else f" (try {one['attempts']})"
        click.echo(f"  notice {one['status']:<14}{about} → {outcome}{tries} {one['body']}")
    if not played["deliveries"]:
        click.echo("  no notice was sent")
    after = played["payment"]
    coin = after["pay_currency"]
    click.echo(
        f"Payment {number} is {after['payment_status']}: "
        f"{_plain(after['actually_paid'])} of {_plain(after['pay_amount'])} {coin} paid, "
        f"outcome {_plain(after['outcome_amount'])} {after['outcome_currency']}."
    )
    if not all(200 <= (one["http_status"] or 0) < 300 for one in played["deliveries"]):
        sys.exit(_BAD_NEWS)


@main.command()
@click.argument("api", type=click.Choice(list(_APIS)), metavar="[API]", required=False)
@click.argument("mode", metavar="[MODE]", required=False)
@click.option("--count", type=click.IntRange(min=1), help="For how many calls; default: all.")
@click.option("--for-seconds", type=click.FloatRange(min=0), help="For how long.")
@click.option("--seconds", type=click.FloatRange(min=0), help="How long a slow answer takes.")
@click.option("--on", help="Only for this operation, such as settle, create or eth_getLogs.")
@click.option("--code", help="The reason that refuse_verify and refuse_settle give.")
@at
def faults(*, api: str | None, mode: str | None, url: str, **limits: Any) -> None:
    """List, show or set the ways to misbehave.

    Without arguments it lists them; with an API it shows the one in force there; a MODE is set.
    """
    if api is None:
        _list_modes("every API", COMMON_MODES)
        for name, (_, modes) in _APIS.items():
            _list_modes(name, {one: modes[one] for one in modes if one not in COMMON_MODES})
        return
    path, modes = _APIS[api]
    if mode is None:
        shown = _call(url, "GET", path)
    elif mode in modes:
        given = {name: value for name, value in limits.items() if value is not None}
        shown = _call(url, "POST", path, {"mode": mode, **given})
    else:
        raise click.UsageError(f"{api} has no fault {mode}; it has {', '.join(modes)}.")
    names = ("on", "code", "count", "for_seconds", "seconds")
    extent = [f"{name} {shown[name]}" for name in names if shown[name]]
    click.echo(f"{api}: {', '.join([shown['mode'], *extent])}")


def _list_modes(title: str, modes: Mapping[str, Mode]) -> None:
    click.echo(f"{title}:")
    for name, mode in modes.items():
        only = f" (on {mode.only_on})" if mode.only_on else ""
        click.echo(f"  {name:<21} {mode.sentence}{only}")


def _plain(amount: Any) -> str:
    """Return an amount without an exponent."""
    return f"{amount:f}" if isinstance(amount, Decimal) else str(amount)


def _newest(url: str) -> int:
    payments = _call(url, "GET", "/payments")["payments"]
    own = [one["payment_id"] for one in payments if one["parent_payment_id"] is None]
    if not own:
        _end("The simulator knows no payment yet: create one first.", _WRONG_USE)
    return int(own[-1])


def _call(url: str, method: str, path: str, body: Any = None) -> Any:
    """Call the control API and return its answer, or end with what is wrong."""
    base = url.rstrip("/").removesuffix("/v1").removesuffix("/sim")
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.request(
                method, f"{base}/sim{path}", json=body, timeout=_ANSWER_SECONDS
            )
            # Exact: an amount is shown with the digits that it was sent with.
            value = parse(answer.content)
        except (requests.RequestException, ValueError) as error:
            _end(f"No simulator answers at {base}: {type(error).__name__}.", _AWAY)
    if answer.status_code >= 400:
        _end(str(value.get("error", value)), _WRONG_USE)
    return value


def _end(complaint: str, exit_code: int) -> NoReturn:
    click.echo(complaint, err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
