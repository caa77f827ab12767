"""One run: start the system, load it while it is broken again and again, let it heal, judge it."""

import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sqlalchemy import bindparam, text, update
from sqlalchemy.sql import Executable

from deploy.local.chaos import judge, victims
from deploy.local.chaos.client import Client, GaveUpError, StoppedError
from deploy.local.chaos.journal import Hold, Journal
from deploy.local.chaos.paying import LATE, Payer
from deploy.local.chaos.spending import Spender
from deploy.local.chaos.victims import Hand, Severity, Strike
from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_ports
from deploy.local.stack import ROOT, Process
from shared.database import Database, patiently
from shared.errors import Unavailable
from shared.models.operations import DeadLetter
from shared.models.payments import CryptoPayment, WebhookEvent
from shared.models.types import UtcTime
from shared.models.x402 import Settlement

HEAL_SECONDS = 120.0  # contract 8
SHORT_SECONDS = 21.0
SPENDERS, PAYERS = 3, 3
KINDS = ("reserve", "finalize", "payment", "mint", "batch")
ACCOUNTS = tuple(f"acct-chaos-{number}" for number in range(4))
_FUNDS_MICRO = 1_000_000_000
_LOOK_SECONDS, _LOOK_AGAIN_SECONDS = 0.5, 20.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a run goes; the seed alone decides what is broken and when."""

    seed: int
    seconds: float
    is_postgres: bool = True
    is_short: bool = False
    least_answers: int = 0
    """The load goes on until each kind of work was answered so often, however slow the machine."""

    @property
    def severity(self) -> Severity:
        """How hard it is."""
        return victims.SHORT if self.is_short else victims.LONG

    def schedule(self) -> list[Strike]:
        """Return what is broken and when."""
        return victims.schedule(
            self.seed, self.seconds, self.severity, is_postgres=self.is_postgres
        )


@dataclass
class Verdict:
    """What was found at the end."""

    lines: list[judge.Line]
    waiting: dict[str, int]
    journal: Journal
    broken: dict[str, int]
    heal_seconds: float
    invariants: str
    wrong: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Nothing lost, nothing doubled, nothing left over, every invariant holds."""
        return not self.wrong


class System:
    """The running stack as the load and the judge see it."""

    def __init__(self, directory: Path, *, is_postgres: bool) -> None:
        ports = dict(zip(("api", "webhooks", "flower", "simulator"), free_ports(4), strict=True))
        self.stack = arrakis_stack(
            directory,
            api_port=ports["api"],
            webhooks_port=ports["webhooks"],
            flower_port=ports["flower"],
            simulator_port=ports["simulator"],
            with_postgres=is_postgres,
            env={
                "ARRAKIS_LOG_LEVEL": "WARNING",
                "PAYMENTS_VERIFY_BEFORE_CREDIT": "true",  # as in production
                "NOWPAYMENTS_EMAIL": "chaos@example.invalid",
                "NOWPAYMENTS_PASSWORD": "any",
            },
        )
        _add_workers(self.stack.processes)
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self.database = Database(self.stack.env["DATABASE_URL"])
        self.journal = Journal()
        self.interrupted = threading.Event()

    def client(self, name: str) -> Client:
        """Return a caller of its own."""
        return Client(
            name=name,
            urls=self.urls,
            secrets=self.stack.env,
            journal=self.journal,
            interrupted=self.interrupted,
        )


def _add_workers(processes: dict[str, Process]) -> None:
    """Add a second worker for payments, and give the ledger's worker children to kill.

    A frozen worker's claims go to another one when its lease lapses, so there must be another.
    """
    first, ledger = processes["worker-payments"], processes["worker-ledger"]
    command = [word.replace("payments@", "payments-b@") for word in first.command]
    processes["worker-payments-b"] = replace(first, name="worker-payments-b", command=command)
    forking = ["prefork" if word == "threads" else word for word in ledger.command]
    forking[forking.index("-c") + 1] = "2"
    processes["worker-ledger"] = replace(ledger, command=forking)


def run(directory: Path, plan: Plan, say: Callable[[str], None]) -> Verdict:
    """Run *plan* with all data in *directory*. Nothing is left running, whatever happens."""
    system = System(directory, is_postgres=plan.is_postgres)
    try:
        with system.stack:
            say(f"The system runs: {', '.join(sorted(system.stack.pids()))}.")
            _prepare(system)
            return _storm(system, plan, say)
    finally:
        system.interrupted.set()
        system.database.dispose()
        system.journal.write(directory / "journal.jsonl")


def _prepare(system: System) -> None:
    """Make the accounts, give them credits, and switch to live mode."""
    client = system.client("prepare")
    for account in ACCOUNTS:
        body = {"entityType": "community", "entityId": account, "accountId": account}
        client.post("account", "/admin/billing/accounts", body, caller="admin")
        path = f"/admin/billing/accounts/{account}/mint"
        funds = {"amountMicro": str(_FUNDS_MICRO), "sourceType": "grant"}
        minted = client.post("mint", path, funds, key=client.unique(), caller="admin")
        system.journal.book.grants[minted.body["lotId"]] = _FUNDS_MICRO
    with system.database.transaction() as tx:
        tx.run(text("UPDATE billing_config SET value = 'live' WHERE key = 'billing_mode'"))
    while True:
        probe = {"accountId": ACCOUNTS[0], "estimatedCostMicro": "1", "ttlSeconds": 1}
        probe["requestId"] = client.unique()
        held = client.post("reserve", "/api/internal/reserve", probe).body
        if held["billingMode"] == "live":
            system.journal.book.holds[held["reservationId"]] = Hold(ACCOUNTS[0], 1)
            return
        client.pause(0.1)


def _storm(system: System, plan: Plan, say: Callable[[str], None]) -> Verdict:
    """Load and break the system for the time of *plan*; then let it heal, and judge."""
    stopping = threading.Event()
    loads = _start_loads(system, plan, stopping)
    hand = Hand(system.stack, system.client("hand").simulate, random.Random(f"hand {plan.seed}"))
    began = time.monotonic()
    try:
        for strike in plan.schedule():
            time.sleep(max(0.0, began + strike.at - time.monotonic()))
            was_there = hand.strike(strike)
            say(f"{strike.at:7.1f} s  {strike}{'' if was_there else ' (down already)'}")
        time.sleep(max(0.0, began + plan.seconds - time.monotonic()))
    finally:
        hand.thaw()  # one that is frozen cannot be told to stop
    hand.let_go()
    system.stack.wait_ready(HEAL_SECONDS)
    _wait_for_answers(system.journal, plan.least_answers)
    recovered = time.monotonic()
    say(f"{recovered - began:7.1f} s  everything is up again; nothing is touched from here on")
    stopping.set()
    for load in loads:
        load.join(max(0.1, recovered + HEAL_SECONDS - time.monotonic()))
        if load.is_alive():
            system.journal.given_up(f"{load.name} still waits for an answer")
    if plan.is_short:
        _let_pass(system, [*_LATER, _NEXT_LOOK])
        # The worker that polls is killed once more: its first look after a start is at once.
        hand.strike(Strike(0, "kill", "worker-maintenance"))
        system.stack.wait_ready(HEAL_SECONDS)
    return _judged(system, hand, recovered, say)


def _start_loads(system: System, plan: Plan, stopping: threading.Event) -> list[threading.Thread]:
    loads = []
    for number in range(SPENDERS + PAYERS):
        name = f"spender-{number}" if number < SPENDERS else f"payer-{number - SPENDERS}"
        client, chance = system.client(name), random.Random(f"{name} {plan.seed}")
        accounts = list(ACCOUNTS)
        if number < SPENDERS:
            act = Spender(client, accounts, chance).act
        else:
            act = Payer(client, accounts, chance, system.database).act
        loads.append(
            threading.Thread(
                target=partial(_go_on, act, system.journal, stopping), name=name, daemon=True
            )
        )
        loads[-1].start()
    return loads


def _wait_for_answers(journal: Journal, least: int) -> None:
    deadline = time.monotonic() + HEAL_SECONDS
    while min(journal.answers[kind] for kind in KINDS) < least and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _go_on(act: Callable[[], None], journal: Journal, stopping: threading.Event) -> None:
    """Act until *stopping*; what goes wrong with the load itself is reported, not swallowed."""
    while not stopping.is_set():
        try:
            act()
        except StoppedError:
            return
        except GaveUpError as error:
            journal.given_up(str(error))
        except Exception:  # noqa: BLE001  the judge must hear of it
            journal.breach(f"the load failed: {traceback.format_exc()}")


def _let_pass(system: System, statements: Sequence[Executable]) -> None:
    """Let minutes pass that a run does not have: what these rows wait for is now."""

    def bring_forward() -> None:
        with system.database.transaction() as tx:
            for statement in statements:
                tx.run(statement, now=tx.now)

    patiently(bring_forward)  # a connection of ours may be older than the server


def _judged(system: System, hand: Hand, recovered: float, say: Callable[[str], None]) -> Verdict:
    """Look until everything that was promised is there, for two minutes at the most.

    Only the poller has longer (15 minutes, contract 6), and a look of it that found the provider
    away is made again after minutes: those are let pass.
    """
    look, missing, next_look = system.client("judge"), "", 0.0
    while True:
        look.simulate("/chain/mine", {"blocks": 1})  # the chain goes on without us
        settlements = look.look("/facilitator/settlements")["settlements"]
        seconds = time.monotonic() - recovered
        is_over = seconds > HEAL_SECONDS
        try:
            if seconds > next_look:
                next_look = seconds + _LOOK_AGAIN_SECONDS
                _let_pass(system, [_NEXT_LOOK])
            with system.database.reading() as tx:
                lines = judge.compare(tx, system.journal.book, settlements)
                waiting = judge.waiting(tx)
        except Unavailable:
            if is_over:
                raise
            continue
        lost = {line.kind: len(line.lost) for line in lines if line.lost}
        if is_over or not (waiting or lost):
            break
        told = ", ".join(f"{count} {kind}" for kind, count in {**lost, **waiting}.items())
        if told != missing:
            missing = told
            say(f"{seconds:7.1f} s  after that are still to come: {told}")
        time.sleep(_LOOK_SECONDS)
    verified = subprocess.run(
        [sys.executable, "-m", "shared.cli.main", "ledger", "verify"],
        cwd=ROOT,
        env=system.stack.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    verdict = Verdict(
        lines=lines,
        waiting=waiting,
        journal=system.journal,
        broken=dict(sorted(hand.broken.items())),
        heal_seconds=seconds,
        invariants=(verified.stdout + verified.stderr).strip(),
    )
    verdict.wrong = _what_is_wrong(verdict, is_verified=verified.returncode == 0)
    return verdict


def _what_is_wrong(verdict: Verdict, *, is_verified: bool) -> list[str]:
    wrong = [] if is_verified else [verdict.invariants]
    for line in verdict.lines:
        wrong += [f"{line.kind} lost: {one}" for one in line.lost]
        wrong += [f"{line.kind} doubled: {one}" for one in line.doubled]
    wrong += [f"after {HEAL_SECONDS:.0f} s: {n} {kind}" for kind, n in verdict.waiting.items()]
    wrong += [f"answered wrongly: {one}" for one in verdict.journal.breaches]
    wrong += [f"never answered: {one}" for one in verdict.journal.unanswered]
    return wrong


_NOW = bindparam("now", type_=UtcTime())
_LATER = [
    update(WebhookEvent).where(WebhookEvent.state == "new").values(due_at=_NOW, lease_until=None),
    update(Settlement).where(Settlement.state == "new").values(due_at=_NOW, lease_until=None),
    update(DeadLetter).where(DeadLetter.status == "pending").values(next_retry_at=_NOW),
]
_NEXT_LOOK = (
    update(CryptoPayment)
    .where(
        CryptoPayment.provider_payment_id.is_not(None),
        CryptoPayment.status == "waiting",
        CryptoPayment.next_poll_at > _NOW,
        ~CryptoPayment.id.startswith(LATE),  # these are for the dead letters to bring
    )
    .values(next_poll_at=_NOW)
)
