"""Serve the simulator: the provider, the facilitator, the chain and the developer's API."""

import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import click
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from deploy.simulator import facilitator, server
from deploy.simulator.chain import Chain
from deploy.simulator.clock import Clock
from deploy.simulator.control import ControlApi
from deploy.simulator.control_chain import ChainControl
from deploy.simulator.facilitator import FacilitatorApi
from deploy.simulator.faults import FACILITATOR_MODES, PROVIDER_MODES, RPC_MODES, Faults
from deploy.simulator.networks import NETWORKS
from deploy.simulator.notices import Courier, is_receiver_url
from deploy.simulator.rpc import RpcApi
from deploy.simulator.server import ProviderApi
from deploy.simulator.state import Book
from shared.config import read_setting

_LARGEST_BODY_BYTES = 1 << 20
FC = TypeVar("FC", bound=Callable[..., Any])


class QuietHandler(WSGIRequestHandler):
    """Serves without a line in the log for each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def create_app(
    *, api_key: str, courier: Courier, chain_id: int, stopping: threading.Event
) -> Flask:
    """Return the application: every API, over one set of payments, one chain and one clock."""
    app = Flask("simulator", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LARGEST_BODY_BYTES
    clock = Clock()
    book, chain = Book(clock), Chain(clock, chain_id)
    provider_faults = Faults(PROVIDER_MODES, server.OPERATIONS, stopping)
    facilitator_faults = Faults(FACILITATOR_MODES, facilitator.OPERATIONS, stopping)
    rpc_faults = Faults(RPC_MODES, (), stopping)
    facilitator_api = FacilitatorApi(chain=chain, clock=clock, faults=facilitator_faults)
    rpc = RpcApi(chain=chain, faults=rpc_faults)
    faults = {
        "/faults": provider_faults,
        "/facilitator/faults": facilitator_faults,
        "/rpc/faults": rpc_faults,
    }
    for api in (
        ProviderApi(book=book, faults=provider_faults, api_key=api_key),
        ControlApi(book=book, courier=courier, faults=faults, stopping=stopping),
        facilitator_api,
        rpc,
        ChainControl(chain=chain, facilitator_api=facilitator_api, rpc=rpc, clock=clock),
    ):
        app.register_blueprint(api.blueprint())
    return app


def _check_ipn_url(
    _context: click.Context, _option: click.Parameter, url: str | None
) -> str | None:
    if url is not None and not is_receiver_url(url):
        raise click.BadParameter("must be a loopback address: notices never leave this machine.")
    return url


def _secret_option(name: str, variable: str) -> Callable[[FC], FC]:
    def look(context: click.Context, option: click.Parameter, value: str | None) -> str:
        found = value or read_setting(variable)
        if not found:
            raise click.MissingParameter(ctx=context, param=option)
        return found

    return click.option(
        name,
        envvar=variable,
        callback=look,
        show_envvar=True,
        help=f"Required; or a file that {variable}_FILE names.",
    )


@click.command()
@click.option("--port", default=8100, show_default=True, help="0 takes any free port.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="In a container 0.0.0.0: its network is its own.",
)
@_secret_option("--api-key", "NOWPAYMENTS_API_KEY")
@_secret_option("--ipn-secret", "NOWPAYMENTS_IPN_SECRET")
@click.option(
    "--ipn-url",
    envvar="ARRAKIS_SIMULATOR_IPN_URL",
    show_envvar=True,
    callback=_check_ipn_url,
    help="Where notices go when the payment names no ipn_callback_url.",
)
@click.option(
    "--retries",
    default=3,
    type=click.IntRange(min=0),
    show_default=True,
    help="Tries after the first one failed.",
)
@click.option(
    "--retry-seconds",
    default=1.0,
    type=click.FloatRange(min=0),
    show_default=True,
    help="Pause before another try.",
)
@click.option(
    "--answer-seconds",
    default=3.0,
    type=click.FloatRange(min=0, min_open=True),
    show_default=True,
    help="Time a receiver has to answer a notice.",
)
@click.option(
    "--chain-id",
    default="8453",
    type=click.Choice([str(one) for one in NETWORKS]),
    show_default=True,
    help="The network of the facilitator and of /rpc: Base, or Base Sepolia.",
)
def serve(
    *,
    port: int,
    host: str,
    api_key: str,
    ipn_secret: str,
    ipn_url: str | None,
    retries: int,
    retry_seconds: float,
    answer_seconds: float,
    chain_id: str,
) -> None:
    """Run the simulator until Ctrl-C.

    It answers on HOST as NOWPayments (/v1), an x402 facilitator (/facilitator) and a node of Base
    (/rpc) would; /sim controls it.
    """
    stopping = threading.Event()
    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked in every thread, and waited for below: a signal during the start is not lost either.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    courier = Courier(
        secret=ipn_secret,
        default_url=ipn_url,
        retries=retries,
        retry_seconds=retry_seconds,
        answer_seconds=answer_seconds,
        stopping=stopping,
    )
    app = create_app(api_key=api_key, courier=courier, chain_id=int(chain_id), stopping=stopping)
    listener = make_server(host, port, app, threaded=True, request_handler=QuietHandler)
    serving = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    url = f"http://127.0.0.1:{listener.server_port}"
    print(
        f"Simulator ready: provider {url}/v1, control {url}/sim, "
        f"facilitator {url}/facilitator, node {url}/rpc",
        flush=True,
    )
    signal.sigwait(ends)
    stopping.set()
    listener.shutdown()
    listener.server_close()
    serving.join()
