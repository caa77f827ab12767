"""Deposits booked from stored notices by two workers, against Celery tasks that do nothing."""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import text

from bench.measuring import Case, Part, give_up
from bench.yardsticks.noop import noop
from shared import garbage
from shared.config import ProviderSettings
from shared.database import Database, insert_rows
from shared.ids import new_id
from shared.ledger import integrity
from shared.ledger.terms import TermsCache
from shared.models.payments import CryptoPayment
from shared.money import CoinAmount
from shared.observability import configure_logging
from shared.payments import intake
from shared.payments.inbox import store_notice
from shared.wiring import make_intake

WORKERS = 2
_PRICE = CoinAmount("25")
_WAIT_SECONDS = 120


@contextmanager
def cases(
    url: str, accounts: list[str], redis_url: str, log: Path, *, deposits: int, tasks: int
) -> Iterator[Part]:
    """Yield the cases: *deposits* notices a loop into *accounts*, and *tasks* that do nothing."""
    configure_logging("bench", "ERROR")
    database = Database(url)
    numbers = itertools.count(6_000_000_000)
    context = multiprocessing.get_context("spawn")
    lines, workers = [], []
    for _ in range(WORKERS):
        here, there = context.Pipe()
        worker = context.Process(target=_work, args=(there, url), daemon=True)
        worker.start()
        lines.append(here)
        workers.append(worker)

    def book() -> dict[str, float]:
        _store(database, accounts, itertools.islice(numbers, deposits))
        began = time.perf_counter()
        for line in lines:
            line.send("drain")
        for line in lines:
            line.recv()
        seconds = time.perf_counter() - began
        with database.reading() as tx:
            open_ones = tx.scalar(text("SELECT COUNT(*) FROM webhook_events WHERE state <> 'done'"))
        if open_ones:
            give_up(f"{open_ones} notices are not booked")
        return {"deposits": deposits / seconds}

    def check() -> None:
        with database.reading() as tx:
            breaches = integrity.verify(tx)
        if breaches:
            give_up(f"an invariant is broken: {breaches[0]}")

    with _celery(redis_url, log) as queue:
        try:
            noops = Case(
                lambda: {"noop_tasks": _run_tasks(queue, tasks)}, unit="tasks/s", in_flight=tasks
            )
            booking = Case(book, check, unit="deposits/s", in_flight=deposits)
            yield Part([booking, noops], {"worker": workers[0].pid or 0})
        finally:
            for line in lines:
                line.send(None)
            for worker in workers:
                worker.join(20)
            database.dispose()


def _store(database: Database, accounts: list[str], numbers: Iterator[int]) -> None:
    """Make payments of $25 that wait, and store a `finished` notice of each."""
    payers = itertools.cycle(accounts)
    for part in _parts(numbers):
        with database.transaction() as tx:
            insert_rows(
                tx, CryptoPayment.__table__, [_payment(tx.now, n, next(payers)) for n in part]
            )
            for number in part:
                notice = _notice(number)
                body = json.dumps(notice).encode()
                store_notice(tx, provider="nowpayments", notice=notice, raw_body=body)


def _parts(numbers: Iterator[int]) -> Iterator[list[int]]:
    while part := list(itertools.islice(numbers, 500)):
        yield part


def _payment(now: Any, number: int, account: str) -> dict[str, Any]:
    return {
        "id": new_id(now),
        "provider": "nowpayments",
        "provider_payment_id": str(number),
        "status": "waiting",
        "account_id": account,
        "price_amount": _PRICE,
        "price_currency": "usd",
        "pay_amount": _PRICE,
        "pay_currency": "usdcbase",
        "order_id": f"order-{number}",
        "created_at": now,
        "updated_at": now,
    }


def _notice(number: int) -> dict[str, Any]:
    return {
        "payment_id": str(number),
        "payment_status": "finished",
        "order_id": f"order-{number}",
        "price_amount": "25",
        "price_currency": "usd",
        "pay_amount": "25",
        "actually_paid": "25",
        "pay_currency": "usdcbase",
        "outcome_amount": "24.8",
        "outcome_currency": "usdcbase",
    }


def _work(line: Any, url: str) -> None:
    configure_logging("bench", "ERROR")
    database = Database(url)
    settings = ProviderSettings(database_url=url, payments_verify_before_credit=False)
    work = make_intake(settings, database, TermsCache(database))
    garbage.settle()  # as every process of ours does
    while line.recv() is not None:
        while intake.drain(work):
            pass
        line.send("done")


@contextmanager
def _celery(redis_url: str, log: Path) -> Iterator[Redis]:
    command = [
        *(sys.executable, "-m", "celery", "-A", "bench.yardsticks.noop", "worker"),
        *("--concurrency", str(WORKERS), "--without-gossip", "--without-mingle", "-l", "WARNING"),
    ]
    noop.app.conf.broker_url = redis_url
    with log.open("wb") as out:
        environment = os.environ | {"REDIS_URL": redis_url}
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        with Redis.from_url(redis_url) as queue:
            _run_tasks(queue, 20)  # the worker is up, and warm
            yield queue
    finally:
        running.terminate()
        running.wait(20)


def _run_tasks(queue: Redis, count: int) -> float:
    """Return the tasks per second from the first one sent to the last one done."""
    began = time.perf_counter()
    for _ in range(count):
        noop.app.send_task(noop.name)
    while queue.llen("celery") or queue.hlen("unacked"):
        if time.perf_counter() > began + _WAIT_SECONDS:
            give_up("the tasks that do nothing are not done")
        time.sleep(0.005)
    return count / (time.perf_counter() - began)
