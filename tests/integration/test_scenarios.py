"""Every story of the simulator, twenty times each, all at once and in any order (contract 6).

The receiver, the worker and the simulator are real processes. However their notices interleave,
each payment ends as the table below says, and the ledger's invariants hold.
"""

import random
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import text

from deploy.local.servers import free_port, running_redis
from deploy.simulator.scenarios import SCENARIOS
from shared.clock import system_clock
from shared.database import Database
from shared.ledger import accounts, integrity
from shared.payments import creation, intake, polling
from shared.payments.providers.calls import Limits
from shared.payments.providers.nowpayments import NowPayments
from tests.harness import (
    SECRETS,
    Databases,
    granian,
    service,
    service_environment,
    set_config,
    unique,
    wait_until,
    worker,
)
from tests.till import M, intake_of

TIMES, AT_ONCE = 20, 12
PRICE = 25 * M
PATIENT = Limits(answer_seconds=20, total_seconds=60, calls_at_once=AT_ONCE)


@dataclass(frozen=True)
class End:
    """How a payment ends: its status, what it was credited, and what of that was left."""

    status: str
    credited: int = 0
    left: int = 0
    child: tuple[str, int] | None = None
    letters: int = 0


def paid(micro: int, status: str = "finished", **more: Any) -> End:
    return End(status, micro, micro, **more)


# For $25 in ltc, of which 0.3125 are asked; the provider keeps half a percent of what arrives.
ENDS: dict[str, set[End]] = {
    "happy": {paid(PRICE)},
    "finished-twice": {paid(PRICE)},
    "out-of-order": {paid(PRICE)},
    "partial": {paid(12_437_500, "partially_paid")},
    "partial-then-finished": {paid(PRICE)},
    "repeated-deposit": {paid(PRICE, child=("finished", 9_950_000))},
    "wrong-asset": {End("waiting", child=("finished", 24_875_000))},
    "late-after-expired": {paid(PRICE)},
    # Two workers may take the two notices in either order: nothing is left, or a person looks.
    "refunded": {End("refunded", PRICE), End("refunded", letters=1)},
    "failed": {End("failed")},
    "expired": {End("expired")},
    "refunded-before-finished": {End("refunded")},
    "failed-then-finished": {End("failed", letters=1), paid(PRICE)},
    "unknown-status": {paid(PRICE, letters=1)},
    "over-payment": {paid(37_312_500)},
    "finished-less": {paid(PRICE)},
    "partial-twice": {paid(14_925_000, "partially_paid")},
    "wrong-asset-unprocessed": {End("waiting", child=("partially_paid", 24_875_000))},
    "missed": {paid(PRICE)},
}


@dataclass
class Played:
    """One payment and the story that it lives through."""

    story: str
    id: str
    number: str
    account: str


@dataclass
class Theatre:
    """The processes, on one kind of database."""

    simulator: str
    database: Database
    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def __post_init__(self) -> None:
        self.session.trust_env = False
        self.provider = NowPayments(
            url=f"{self.simulator}/v1", api_key=SECRETS["NOWPAYMENTS_API_KEY"], limits=PATIENT
        )

    def buy(self, story: str) -> Played:
        """Make an account and a payment into it."""
        with self.database.transaction() as tx:
            account, _ = accounts.create_account(tx, entity_type="person", entity_id=unique("p"))
        made, _ = creation.create_payment(
            self.database,
            self.provider,
            account_id=account,
            amount_micro=PRICE,
            pay_currency="ltc",
            ceiling_micro=PRICE,
        )
        return Played(story, made["paymentId"], made["providerPaymentId"], account)

    def control(self, number: int | str, action: str, **body: Any) -> list[dict[str, Any]]:
        """Let the provider do something, and wait until it is delivered."""
        url = f"{self.simulator}/sim/payments/{number}/{action}"
        answer = requests.post(url, json={"wait": True, **body}, timeout=60)
        answer.raise_for_status()
        return list(answer.json()["deliveries"])

    def play(self, one: Played, chance: random.Random) -> list[int]:
        """Play a story, then send one of its notices twice more; return the receiver's answers."""
        told = self.control(one.number, "scenario", name=one.story)
        known = [each for each in told if each["status"] != "under_review"]
        again = []
        if known:
            old = chance.choice(known)
            again = self.control(old["payment_id"], "notify", status=old["status"], times=2)
            assert all('"duplicate": true' in each["body"] for each in again), again
        return [each["http_status"] for each in [*told, *again]]

    def settle(self) -> None:
        """Wait for the worker; then let it be eleven minutes later, when open payments are read."""
        waiting = "SELECT COUNT(*) FROM webhook_events WHERE state = 'new'"
        wait_until("the inbox is empty", lambda: self.rows(waiting) == [(0,)], 60)
        later = Database(self.url, clock=lambda: system_clock() + timedelta(minutes=11))
        while polling.poll(later, self.provider):
            pass
        while intake.drain(intake_of(later)):
            pass
        later.dispose()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.database.reading() as tx:
            return [tuple(row) for row in tx.all(text(statement))]

    def ends(self) -> dict[str, End]:
        """Return how every payment ended, by the provider's number."""
        letters = Counter(
            number
            for (number,) in self.rows(
                "SELECT e.provider_payment_id FROM billing_dlq d JOIN webhook_events e"
                " ON e.id = d.subject_id WHERE d.status = 'manual_review'"
            )
        )
        columns = "provider_payment_id, parent_payment_id, status, amount_usd_micro, account_id"
        found = self.rows(f"SELECT {columns} FROM crypto_payments")
        children = {row[1]: (row[2], row[3] or 0) for row in found if row[1] is not None}
        left = dict(self.rows("SELECT account_id, available_micro FROM credit_balances"))
        ends = {}
        for number, parent, status, credited, account in found:
            if parent is None:
                child = children.get(number)
                of_child = child[1] if child else 0
                own = left.get(account, 0) - of_child
                ends[number] = End(status, credited or 0, own, child, letters[number])
        return ends


@pytest.fixture(params=("sqlite", "postgresql"))
def theatre(
    request: pytest.FixtureRequest, databases: Databases, tmp_path: Path
) -> Iterator[Theatre]:
    url = databases.make(request.param)
    database = Database(url)
    set_config(database, billing_mode="live")
    hooks_port, simulator_port = free_port(), free_port()
    hooks, simulator = (f"http://127.0.0.1:{port}" for port in (hooks_port, simulator_port))
    command = [sys.executable, "-m", "deploy.simulator", "--port", str(simulator_port)]
    command += ["--ipn-url", f"{hooks}/api/billing/webhooks/nowpayments"]
    command += ["--answer-seconds", "20", "--retries", "0"]
    with ExitStack() as running:
        redis = running.enter_context(running_redis())
        environment = service_environment(url, redis.url, NOWPAYMENTS_API_URL=f"{simulator}/v1")
        for what, ready, name in (
            (command, f"{simulator}/v1/status", "simulator"),
            (granian("services.webhooks.wsgi:app", hooks_port), f"{hooks}/health", "hooks"),
            (worker("payments"), None, "worker"),
        ):
            running.enter_context(service(what, environment, ready, tmp_path / name))
        yield Theatre(simulator, database, url)
    database.dispose()


def test_every_story_is_in_the_table() -> None:
    assert ENDS.keys() == SCENARIOS.keys()


def test_every_story_ends_as_it_should_however_their_notices_mix(theatre: Theatre) -> None:
    seed = secrets.randbelow(10**9)
    chance = random.Random(seed)
    stories = list(SCENARIOS) * TIMES
    chance.shuffle(stories)
    began = datetime.now()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        played = list(threads.map(theatre.buy, stories))
        chances = [random.Random(chance.random()) for _ in played]
        answers = list(threads.map(theatre.play, played, chances))
    assert {status for each in answers for status in each} == {200}, f"seed {seed}"
    theatre.settle()
    found = theatre.ends()
    assert len(found) == len(played)
    wrong = [
        (one.story, one.number, found[one.number])
        for one in played
        if found[one.number] not in ENDS[one.story]
    ]
    assert wrong == [], f"seed {seed}"
    waiting = theatre.rows("SELECT status FROM billing_dlq WHERE status <> 'manual_review'")
    assert waiting == [], f"seed {seed}"
    with theatre.database.reading() as tx:
        assert integrity.verify(tx) == [], f"seed {seed}"
    assert datetime.now() - began < timedelta(minutes=2)
