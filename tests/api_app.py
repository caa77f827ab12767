"""The real API in this process: for tests of the application as a whole, and of its document."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from services.api.app import create_app
from shared.balance_cache import BalanceCache
from shared.config import ApiSettings, load_settings
from shared.database import Database
from tests.harness import Api, service_environment

NOWHERE = "redis://127.0.0.1:9/0"


def make_app(database: Database, redis_url: str, **environment: str) -> Flask:
    """Return the API on *database*, built from settings as its process builds it."""
    settings = load_settings(
        ApiSettings, service_environment("sqlite://", redis_url, **environment)
    )
    return create_app(settings, database, BalanceCache(redis_url))


def idle_app() -> Flask:
    """Return an API that nobody calls; its database is never opened."""
    return make_app(Database("sqlite:///unopened.db"), NOWHERE)


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        """Say nothing: the application logs each request itself."""


@contextmanager
def serving_api(database_url: str, redis_url: str) -> Iterator[Api]:
    """Serve the API from threads of this process, for real HTTP without a process's start."""
    database = Database(database_url, after_commit=[BalanceCache(redis_url)])
    app = make_app(database, redis_url)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Api(f"http://127.0.0.1:{server.server_port}", database)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        database.dispose()
