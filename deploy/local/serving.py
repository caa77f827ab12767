"""How an HTTP service is served: with the options of the images, which a test compares."""

import sys

THREADS = 16


def granian_command(
    app: str, port: int, *, threads: int = THREADS, log_level: str = "warning"
) -> list[str]:
    """Return the command that serves *app*, a WSGI application, to this host from one process."""
    return [
        *(sys.executable, "-m", "granian", "--interface", "wsgi"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--blocking-threads", str(threads), "--backlog", "1024", "--no-ws"),
        *("--log-level", log_level, app),
    ]
