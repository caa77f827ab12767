"""What the clients asked and were told: for the judge now, and for whoever looks later.

Only what was answered is a promise. It is kept in memory, and written to a file at the end.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REFUNDED_AT_ONCE = "refunded"
"""The story of a payment whose money may have gone back before its credit was due: the provider is
asked first, so it brings its price and loses it again, or nothing at all."""


@dataclass
class Hold:
    """A reserve that was answered 200, and how it ended for its caller."""

    account_id: str
    reserved_micro: int
    end: str = "left alone"
    """``finalized``, ``released``, or ``left alone``: then its time runs out."""
    charged_micro: int = 0


@dataclass
class Deposit:
    """A payment whose notices were acknowledged, or that the provider would show when asked."""

    account_id: str
    story: str
    credit_micro: int | None
    """What it is worth in all; None if the provider's rate decides (more than nothing)."""
    refunded_by: str = ""
    """``provider`` or ``admin`` once its money went back."""


@dataclass
class TopUp:
    """An x402 payment that was sent with its signature; each has an account of its own."""

    amount_micro: int
    nonce: str
    answered: str = "nothing"


@dataclass
class Book:
    """Everything that was promised, by the id that the answer told."""

    holds: dict[str, Hold] = field(default_factory=dict)
    grants: dict[str, int] = field(default_factory=dict)
    deposits: dict[str, Deposit] = field(default_factory=dict)
    top_ups: dict[str, TopUp] = field(default_factory=dict)
    notices: set[tuple[str, str]] = field(default_factory=set)


class Journal:
    """Every request with its answers, safe to share between threads."""

    def __init__(self) -> None:
        self.book = Book()
        self.breaches: list[str] = []
        """Answers that break the contract, whatever the ledger says."""
        self.unanswered: list[str] = []
        """Requests that were given up: the system was away for longer than it may be."""
        self.answers = Counter[str]()
        self.repeats = 0
        self.outages: dict[str, float] = {}
        """The longest time without an answer, by kind of request."""
        self._requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Return how long the journal has been kept."""
        return time.monotonic() - self._began

    def request(self, record: dict[str, Any], *, outage_seconds: float, attempts: int) -> None:
        """Note one request with all its attempts, and for how long it got no answer."""
        with self._lock:
            self._requests.append(record)
            self.answers[record["kind"]] += 1
            self.repeats += attempts - 1
            longest = max(self.outages.get(record["kind"], 0.0), outage_seconds)
            self.outages[record["kind"]] = longest

    def breach(self, text: str) -> None:
        """Note an answer that should never have been given."""
        with self._lock:
            self.breaches.append(f"{self.seconds():.1f} s: {text}")

    def given_up(self, text: str) -> None:
        """Note a request that was never answered."""
        with self._lock:
            self.unanswered.append(f"{self.seconds():.1f} s: {text}")

    def write(self, path: Path) -> None:
        """Write all of it as lines of JSON."""
        with self._lock, path.open("w") as file:
            for record in self._requests:
                print(json.dumps(record), file=file)
            book = self.book
            for name in ("holds", "deposits", "top_ups"):
                for key, promise in getattr(book, name).items():
                    print(json.dumps({"promise": name, "id": key, **asdict(promise)}), file=file)
            print(json.dumps({"grants": book.grants}), file=file)
            print(json.dumps({"notices": sorted(book.notices)}), file=file)
            print(json.dumps({"breaches": self.breaches, "unanswered": self.unanswered}), file=file)
