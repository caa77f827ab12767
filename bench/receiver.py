"""The receiver's latency at a steady 200 notices a second, with Redis away, on both databases.

``python -m bench.receiver``. Open loop: a notice is due at its time whether or not earlier ones
were answered, and its latency counts from then, so a stall is not hidden.
"""

import hashlib
import hmac
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests

from deploy.local.servers import running_postgres
from deploy.local.serving import granian_command
from deploy.local.sockets import free_port
from shared import schema
from shared.database import Database

RATE, SECONDS, CONNECTIONS = 200, 15, 16
SECRET = "bench-" + "s" * 32
PATH = "/api/billing/webhooks/nowpayments"


def start(database_url: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the real receiver with a Redis that nobody answers for."""
    command = granian_command("services.webhooks.wsgi:app", port)
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
        "NOWPAYMENTS_IPN_SECRET": SECRET,
        "ARRAKIS_LOG_LEVEL": "ERROR",
    }
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    for _ in range(200):
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=1).ok:
                return running
        except requests.ConnectionError:
            time.sleep(0.05)
    running.kill()
    sys.exit(f"the receiver did not start:\n{log.read_text()}")


def deliver(port: int, began: float, places: range, latencies: list[float]) -> None:
    """Send the notices of *places* over one connection, each at its time."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for place in places:
        due = began + place / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
        notice = {"payment_id": 10**9 + place, "payment_status": "finished", "actually_paid": 1}
        body = json.dumps(notice, sort_keys=True, separators=(",", ":")).encode()
        signature = hmac.new(SECRET.encode(), body, hashlib.sha512).hexdigest()
        headers = {"Content-Type": "application/json", "x-nowpayments-sig": signature}
        line.request("POST", PATH, body, headers)
        answer = line.getresponse()
        answer.read()
        if answer.status != 200:
            sys.exit(f"a notice was answered {answer.status}")
        latencies.append(time.perf_counter() - due)
    line.close()


def measure(name: str, database_url: str, directory: Path) -> None:
    """Measure one database and print a line."""
    database = Database(database_url)
    schema.upgrade(database)
    database.dispose()
    port = free_port()
    running = start(database_url, port, directory / f"{name}.log")
    latencies: list[float] = []
    try:
        began = time.perf_counter() + 0.2
        total = RATE * SECONDS
        senders = [
            threading.Thread(
                target=deliver, args=(port, began, range(n, total, CONNECTIONS), latencies)
            )
            for n in range(CONNECTIONS)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    finally:
        running.terminate()
        running.wait(10)
    cuts = statistics.quantiles(latencies, n=1000)
    shown = [f"{1000 * value:7.1f}" for value in (cuts[499], cuts[989], cuts[998], max(latencies))]
    print(f"{name:<12}{len(latencies):>8}{'  '.join(shown):>40}", flush=True)


def main() -> None:
    """Measure both databases."""
    print(f"{RATE} notices/s for {SECONDS} s, Redis away; milliseconds from when each was due:")
    print(f"{'database':<12}{'answered':>8}{'p50':>11}{'p99':>9}{'p99.9':>10}{'max':>8}")
    with (
        tempfile.TemporaryDirectory(prefix="arrakis-bench-") as directory,
        running_postgres(fsync=True) as server,
    ):
        measure("SQLite", f"sqlite:///{Path(directory) / 'bench.db'}", Path(directory))
        measure("PostgreSQL", server.url, Path(directory))


if __name__ == "__main__":
    main()
