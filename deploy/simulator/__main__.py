"""Start the simulator: `python -m deploy.simulator --help`."""

import signal
import threading

import click
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from deploy.simulator.control import ControlApi
from deploy.simulator.faults import Faults
from deploy.simulator.notices import Courier, is_loopback_url
from deploy.simulator.server import ProviderApi
from deploy.simulator.state import Book

_LARGEST_BODY_BYTES = 1 << 20


class QuietHandler(WSGIRequestHandler):
    """Serves without a line in the log for each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def create_app(*, api_key: str, courier: Courier, stopping: threading.Event) -> Flask:
    """Return the application: the provider's API and the developer's, over one set of payments."""
    app = Flask("simulator", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _LARGEST_BODY_BYTES
    book, faults = Book(), Faults(stopping)
    app.register_blueprint(ProviderApi(book=book, faults=faults, api_key=api_key).blueprint())
    control = ControlApi(book=book, courier=courier, faults=faults, stopping=stopping)
    app.register_blueprint(control.blueprint())
    return app


def _check_ipn_url(
    _context: click.Context, _option: click.Parameter, url: str | None
) -> str | None:
    if url is not None and not is_loopback_url(url):
        raise click.BadParameter("must be a loopback address: notices never leave this machine.")
    return url


@click.command()
@click.option("--port", default=8100, show_default=True, help="0 takes any free port.")
@click.option("--api-key", envvar="NOWPAYMENTS_API_KEY", required=True, show_envvar=True)
@click.option("--ipn-secret", envvar="NOWPAYMENTS_IPN_SECRET", required=True, show_envvar=True)
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
def main(
    *,
    port: int,
    api_key: str,
    ipn_secret: str,
    ipn_url: str | None,
    retries: int,
    retry_seconds: float,
    answer_seconds: float,
) -> None:
    """Answer as NOWPayments would, on 127.0.0.1, until SIGTERM or Ctrl-C."""
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
    app = create_app(api_key=api_key, courier=courier, stopping=stopping)
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=QuietHandler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}"
    print(f"Simulator ready: provider {url}/v1, control {url}/sim", flush=True)
    signal.sigwait(ends)
    stopping.set()
    server.shutdown()
    server.server_close()
    serving.join()


if __name__ == "__main__":
    main()
