"""Kill things while 200 payments are paid, and see that each is credited once: `make chaos`.

Exit status: 0 nothing lost and nothing doubled, 1 otherwise.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import requests

from deploy.local.demo import interrupt
from deploy.local.lock import StackError
from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_ports
from deploy.local.stack import Stack
from deploy.local.story import ACCOUNT, Story, WrongFigureError, red
from shared.database import Database
from shared.ledger import integrity

PAYMENTS = 200
VICTIMS = ("worker-payments", "worker-payments", "webhooks", "beat", "redis", "api")
HEAL_SECONDS = 120.0


def kill(stack: Stack, name: str) -> None:
    """End *name* with SIGKILL; its supervisor starts it again. Redis comes back empty."""
    pid = stack.pids().get(name)
    if pid is None:
        return
    victim = psutil.Process(pid)
    victim.kill()
    if name == "redis":
        victim.wait(5)
        shutil.rmtree(stack.directory / "redis" / "appendonlydir", ignore_errors=True)


def pay(story: Story, number: int) -> str:
    """Create a payment and let the provider finish it; return the provider's id."""
    body = {"accountId": ACCOUNT, "amountUsd": "5.00", "payCurrency": "btc"}
    for _ in range(60):  # the API may be one of the victims
        try:
            made = story.post("/api/internal/payments", body, subject=f"buyer-{number}")
            if made.status_code == 201:
                provider_id = str(made.json()["providerPaymentId"])
                story.simulate(f"/payments/{provider_id}/advance", {"status": "finished"})
                return provider_id
        except requests.RequestException:
            pass
        time.sleep(0.5)
    raise WrongFigureError(f"payment {number} could not be created within 30 s")


def storm(stack: Stack, story: Story, seed: int) -> tuple[list[str], Counter[str]]:
    """Pay from several threads while something is killed two or three times a second."""
    chance, killed = random.Random(seed), Counter[str]()
    with ThreadPoolExecutor(8) as payers:
        paying = [payers.submit(pay, story, number) for number in range(PAYMENTS)]
        while not all(payment.done() for payment in paying):
            victim = chance.choice(VICTIMS)
            kill(stack, victim)
            killed[victim] += 1
            time.sleep(chance.uniform(0.2, 0.6))
    return [payment.result() for payment in paying], killed


def judge(story: Story, paid: list[str], database_url: str) -> None:
    """Compare what was acknowledged with the ledger."""
    listed = ", ".join(f"'nowpay-{provider_id}'" for provider_id in paid)
    lots = (
        f"SELECT COUNT(*), COUNT(DISTINCT source_id) FROM credit_lots WHERE source_id IN ({listed})"
    )
    story.wait_for(
        "lots, and payments that they came from",
        lambda: story.sql(lots)[0],
        (PAYMENTS, PAYMENTS),
        seconds=HEAL_SECONDS,
    )
    database = Database(database_url)
    with database.reading() as tx:
        breaches = integrity.verify(tx)
    database.dispose()
    story.check("broken invariants of the ledger", breaches, [])


def main() -> int:
    """Start the system, let the storm pass, judge."""
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, interrupt)
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(10_000)
    ports = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="arrakis-chaos-") as directory:
        stack = arrakis_stack(
            Path(directory),
            api_port=ports[0],
            webhooks_port=ports[1],
            flower_port=ports[2],
            simulator_port=ports[3],
            env={"ARRAKIS_LOG_LEVEL": "WARNING"},
        )
        print(f"Seed {seed}. Starting the system …", flush=True)
        try:
            with stack:
                story = Story(
                    stack,
                    api=f"http://127.0.0.1:{ports[0]}",
                    simulator=f"http://127.0.0.1:{ports[3]}/sim",
                    database=stack.directory / "sietch.db",
                )
                account = {"entityType": "community", "entityId": "a", "accountId": ACCOUNT}
                story.post("/admin/billing/accounts", account, kind="admin")
                story.chapter(f"{PAYMENTS} payments of $5 while processes are killed")
                paid, killed = storm(stack, story, seed)
                story.say(f"killed: {', '.join(f'{n} {c}x' for n, c in sorted(killed.items()))}")
                stack.wait_ready(HEAL_SECONDS)
                judge(story, paid, stack.env["DATABASE_URL"])
        except (WrongFigureError, StackError) as error:
            print(f"\n  {red('✗')} {error}", flush=True)
            return 1
        except KeyboardInterrupt:
            print("\nStopped before the end; no process is left.")
            return 130
    print("\nNothing was lost and nothing doubled.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
