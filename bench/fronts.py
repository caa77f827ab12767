"""The API and the receiver over HTTP: as fast as they go, and at steady rates."""

import itertools
import selectors
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import text

from bench.http import (
    CONNECTIONS,
    Server,
    Talk,
    Talker,
    answered,
    ledger_talkers,
    load,
    notice_talkers,
    percentile_ms,
    serving,
)
from bench.ledger import Book
from bench.measuring import Case, Found, Part, give_up, measure

SHARES_OF_FULL = (10, 25, 50, 75, 90)  # percent of the closed loop's requests per second
_INTERNAL_HEALTH, _HEALTH = "/api/internal/health", "/health"


class Fronts:
    """Both services and their yardsticks, on one ledger."""

    def __init__(self, book: Book, servers: dict[str, Server], seconds: float) -> None:
        self._book = book
        self._servers = servers
        self._seconds = seconds
        self._numbers = itertools.count(1_000_000_000)

    def part(self) -> Part:
        """Return the cases, each with the rate and the percentiles of its latency."""

        def ledger() -> list[Talker]:
            return ledger_talkers(self._book.accounts)

        def notices() -> list[Talker]:
            return notice_talkers(self._numbers)

        return Part(
            [
                self._case("http", ledger, "requests/s"),
                self._case("http_bare", ledger, "requests/s"),
                self._case("webhook", notices, "notices/s"),
                self._case("webhook_bare", notices, "notices/s"),
            ],
            {"api": self._servers["http"].pid, "receiver": self._servers["webhook"].pid},
        )

    def at_rates(self, found: Found) -> None:
        """Add the API's latency at shares of the rate that *found* has."""
        full = found["http"].median
        for share in SHARES_OF_FULL:
            rate = full * share / 100
            case = Case(partial(self._at_rate, share, rate), in_flight=CONNECTIONS)
            measure(found, case)

    def _at_rate(self, share: int, rate: float) -> dict[str, float]:
        talkers = ledger_talkers(self._book.accounts)
        taken = steady(self._servers["http"].port, talkers, rate, self._seconds)
        return {
            f"http_at_{share}_percent_p{percent}_ms": percentile_ms(taken, percent)
            for percent in (50, 99)
        }

    def _case(self, name: str, talkers: Callable[[], list[Talker]], unit: str) -> Case:
        def measured() -> dict[str, float]:
            stored = self._stored()
            found = load(self._servers[name].port, talkers(), self._seconds)
            if name == "webhook" and self._stored() - stored < len(found.seconds):
                give_up("notices were answered that are not stored")
            return {
                name: found.rate,
                f"{name}_p50_ms": percentile_ms(found.seconds, 50),
                f"{name}_p99_ms": percentile_ms(found.seconds, 99),
            }

        return Case(measured, self._book.check, unit, CONNECTIONS)

    def _stored(self) -> int:
        with self._book.database.reading() as tx:
            return int(tx.scalar(text("SELECT COUNT(*) FROM webhook_events")))


@contextmanager
def fronts(book: Book, redis_url: str, logs: Path, seconds: float) -> Iterator[Fronts]:
    """Serve the API and the receiver on *book*, and both yardsticks."""
    environment = {
        "DATABASE_URL": book.url,
        "REDIS_URL": redis_url,
        "FEATURE_BILLING_ENABLED": "true",
    }
    apps = {
        "http": ("services.api.wsgi:app", _INTERNAL_HEALTH),
        "http_bare": ("bench.yardsticks.bare:api", _INTERNAL_HEALTH),
        "webhook": ("services.webhooks.wsgi:app", _HEALTH),
        "webhook_bare": ("bench.yardsticks.bare:receiver", _HEALTH),
    }
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(app, health, environment, logs / f"{name}.log"))
            for name, (app, health) in apps.items()
        }
        yield Fronts(book, servers, seconds)


def steady(port: int, talkers: list[Talker], rate: float, seconds: float) -> list[float]:
    """Send *rate* requests a second, each due at its time; return the seconds from then on.

    A request waits here while all connections are busy, and that counts: a stall is not hidden.
    """
    talks = [Talk(port, talker) for talker in talkers]
    idle = deque(talks)
    last: dict[Talk, bytes | None] = dict.fromkeys(talks)
    due_at: dict[Talk, float] = {}
    taken: list[float] = []
    began, sent, total = time.perf_counter(), 0, max(2, round(rate * seconds))
    with selectors.DefaultSelector() as ready:
        for talk in talks:
            ready.register(talk.socket, selectors.EVENT_READ, talk)
        while len(taken) < total:
            due = began + sent / rate
            is_free = bool(idle) and sent < total
            if is_free and due <= time.perf_counter():
                talk = idle.popleft()
                due_at[talk] = due
                talk.send(last[talk])
                sent += 1
                continue
            wait = max(0.0, due - time.perf_counter()) if is_free else None
            for talk, body in answered(ready, wait):
                last[talk] = body
                taken.append(time.perf_counter() - due_at.pop(talk))
                idle.append(talk)
    for talk in talks:
        talk.socket.close()
    return taken
