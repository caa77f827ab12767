"""Creating payments while the provider is away: a key keeps its payment, an order has one address.

What has surely not been sent is sent by the next repeat of its key; what may have been never is.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from deploy.local.servers import free_port
from shared.database import Database
from shared.errors import ArrakisError, Conflict, Invalid, Unavailable
from shared.payments import creation
from shared.payments.providers.nowpayments import OutcomeUnknown, ProviderAway
from shared.payments.providers.outcomes import CircuitOpen
from tests.harness import Databases, make_account, running_api, unique, wait_until
from tests.scripted_provider import (
    Client,
    Reply,
    Request,
    ScriptedProvider,
    answer,
    created,
    hang_up,
    scripted,
)

M = 1_000_000


class Numbering:
    """Answers creations with a new number each, so that a second address would show."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.made: list[str] = []

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self.made.append(request.fields["order_id"])
            return answer(201, created(request, len(self.made)))


@pytest.fixture
def numbering() -> Numbering:
    return Numbering()


@pytest.fixture
def provider(numbering: Numbering) -> Iterator[ScriptedProvider]:
    with scripted(numbering) as server:
        yield server


class Shop:
    """One account that buys for $25."""

    def __init__(self, database: Database, provider: ScriptedProvider) -> None:
        self.database = database
        self.account = make_account(database)
        self.provider = provider
        self.client = Client(provider.url)

    def buy(self, key: str | None, amount_micro: int = 25 * M) -> tuple[dict[str, Any], bool]:
        return creation.create_payment(
            self.database,
            self.client.nowpayments,
            account_id=self.account,
            amount_micro=amount_micro,
            pay_currency="btc",
            ceiling_micro=100 * M,
            idempotency_key=key,
        )

    def refusal(self, key: str | None, amount_micro: int = 25 * M) -> ArrakisError:
        with pytest.raises(ArrakisError) as refused:
            self.buy(key, amount_micro)
        return refused.value

    def rows(self) -> list[tuple[Any, ...]]:
        """Return status, key and order of every payment, in the order of their making."""
        columns = "status, idempotency_key, order_id = id"
        with self.database.reading() as tx:
            found = tx.all(text(f"SELECT {columns} FROM crypto_payments ORDER BY id"))
        return [tuple(row) for row in found]


@pytest.fixture
def shop(database: Database, provider: ScriptedProvider) -> Shop:
    return Shop(database, provider)


def nowhere() -> Client:
    return Client(f"http://127.0.0.1:{free_port()}")


def test_while_the_provider_is_away_a_key_keeps_its_payment_and_sends_it_later(
    shop: Shop, numbering: Numbering
) -> None:
    here, shop.client = shop.client, nowhere()
    refusals = [shop.refusal("key") for _ in range(4)]
    assert {type(one).__mro__[1] for one in refusals} == {ProviderAway}
    [named] = {one.details["paymentId"] for one in refusals}
    assert all(isinstance(one, Unavailable) and one.retry_after_seconds > 1 for one in refusals)
    assert isinstance(refusals[-1], CircuitOpen)
    assert shop.rows() == [("creating", "key", None)]
    with shop.database.reading() as tx:
        shown = creation.show_payment(tx, named)
    assert (shown["status"], shown["payAddress"], shown["reviewReason"]) == ("creating", None, None)
    shop.client = here
    made, is_replay = shop.buy("key")
    assert (made["paymentId"], made["status"], is_replay) == (named, "waiting", False)
    assert shop.buy("key") == (made, True)
    assert numbering.made == [named]
    assert shop.rows() == [("waiting", "key", 1)]


def test_a_kept_payment_is_not_sent_with_other_content(shop: Shop, numbering: Numbering) -> None:
    here, shop.client = shop.client, nowhere()
    assert isinstance(shop.refusal("key"), ProviderAway)
    shop.client = here
    assert isinstance(shop.refusal("key", 26 * M), Conflict)
    assert (numbering.made, shop.rows()) == ([], [("creating", "key", None)])


def test_a_payment_without_a_key_has_failed_when_the_provider_is_away(
    shop: Shop, numbering: Numbering
) -> None:
    here, shop.client = shop.client, nowhere()
    refused = shop.refusal(None)
    assert (isinstance(refused, ProviderAway), refused.details) == (True, {})
    shop.client = here
    assert shop.buy(None)[0]["status"] == "waiting"
    assert [row[0] for row in shop.rows()] == ["failed", "waiting"]
    assert len(numbering.made) == 1


def creations(provider: ScriptedProvider) -> list[Any]:
    """Return the requests to create a payment; a refusal leads to a question for the minimum."""
    return [request for request in provider.requests if request.path == "/payment"]


def test_a_kept_payment_may_turn_out_refused_or_unknown(
    shop: Shop, provider: ScriptedProvider, numbering: Numbering
) -> None:
    provider.replies = [answer(429), answer(400, {"message": "too small"})]
    assert isinstance(shop.refusal("one"), ProviderAway)
    for _ in range(2):
        refused = shop.refusal("one")
        assert (type(refused), refused.code) == (Invalid, "payment_refused")
    provider.replies = [answer(429), hang_up]
    assert isinstance(shop.refusal("two"), ProviderAway)
    for _ in range(3):
        unknown = shop.refusal("two")
        assert isinstance(unknown, OutcomeUnknown)
        assert unknown.retry_after_seconds == 30
    assert [row[:2] for row in shop.rows()] == [("failed", "one"), ("creating", "two")]
    assert (numbering.made, len(creations(provider))) == ([], 4)


def test_a_payment_of_an_earlier_release_whose_outcome_is_unknown_is_not_sent(
    shop: Shop, numbering: Numbering
) -> None:
    """It has its order from the start, as every row had before rows were kept."""
    shop.provider.replies = [hang_up]
    assert isinstance(shop.refusal("key"), OutcomeUnknown)
    assert shop.rows() == [("creating", "key", 1)]
    assert isinstance(shop.refusal("key"), OutcomeUnknown)
    assert numbering.made == []


def test_a_notice_that_was_faster_than_the_refusal_is_not_overwritten(
    shop: Shop, provider: ScriptedProvider
) -> None:
    """Should a provider ever say no to what it did, its notice tells the truth."""

    def notify_then(status: int) -> Reply:
        def reply(handler: Any) -> None:
            order_id = handler.request_seen.fields["order_id"]
            with shop.database.transaction() as tx:
                known = "UPDATE crypto_payments SET provider_payment_id = :n, status = 'confirming'"
                tx.run(text(f"{known} WHERE id = :id"), n=unique("n"), id=order_id)
            answer(status, {"message": "no"})(handler)

        return reply

    provider.replies = [notify_then(429), notify_then(400)]
    for key in ("one", "two"):
        shop.refusal(key)
        assert shop.buy(key)[0]["status"] == "confirming"
    assert [row[0] for row in shop.rows()] == ["confirming", "confirming"]
    assert len(creations(provider)) == 2


FLAPS: list[Reply] = [answer(429), answer(403), answer(401)]


def test_eight_callers_of_one_key_get_one_address_from_a_flapping_provider(
    database: Database, provider: ScriptedProvider, numbering: Numbering
) -> None:
    shop = Shop(database, provider)
    keys = [unique("key") for _ in range(12)]
    provider.replies = FLAPS * 20
    start = threading.Barrier(8)

    def insist(_caller: int) -> list[str]:
        start.wait()
        told = []
        for key in keys:
            while True:
                try:
                    told.append(shop.buy(key)[0]["payAddress"])
                    break
                except Unavailable:  # away, or another caller's call is on its way
                    continue
        return told

    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(insist, range(8)))
    assert [len(set(addresses)) for addresses in zip(*told, strict=True)] == [1] * 12
    assert len({address for addresses in told for address in addresses}) == 12
    assert len(numbering.made) == len(set(numbering.made)) == 12
    assert len(provider.requests) == 60 + 12
    assert shop.rows() == [("waiting", key, 1) for key in keys]


def test_eight_callers_of_one_key_send_nothing_again_once_its_outcome_is_unknown(
    database: Database, provider: ScriptedProvider
) -> None:
    """The provider breaks off at the second try; whether there is an address nobody can say."""
    shop = Shop(database, provider)
    keys = [unique("key") for _ in range(12)]
    provider.replies = [answer(429), hang_up] * 12
    start = threading.Barrier(8)

    def ask(_caller: int) -> None:
        for key in keys:
            start.wait()
            for _ in range(6):
                with pytest.raises(Unavailable):
                    shop.buy(key)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    sent = Counter(request.fields["order_id"] for request in provider.requests)
    assert list(sent.values()) == [2] * 12
    assert shop.rows() == [("creating", key, 1) for key in keys]


def test_the_api_answers_503_keeps_the_request_and_sends_it_when_the_provider_is_back(
    databases: Databases, redis_url: str, tmp_path: Path, numbering: Numbering
) -> None:
    url, port, key = databases.make("postgresql"), free_port(), unique("key")
    settings = {"NOWPAYMENTS_API_URL": f"http://127.0.0.1:{port}"}
    with running_api(url, redis_url, tmp_path / "log", **settings) as api:
        account = api.funded_account(0)
        body = {"accountId": account, "amountUsd": "25.00", "payCurrency": "btc"}
        away = api.internal("payments", body, key)
        assert (away.status_code, away.json()["code"]) == (503, "provider_unavailable")
        assert int(away.headers["Retry-After"]) == 30
        named = away.json()["details"]["paymentId"]
        kept = api.get(f"/api/internal/payments/{named}", headers=api.s2s()).json()
        assert (kept["status"], kept["payAddress"]) == ("creating", None)
        with scripted(numbering, port):
            made = api.internal("payments", body, key)
            assert (made.status_code, made.json()["paymentId"]) == (201, named)
            again = api.internal("payments", body, key)
        assert again.content == made.content
        assert again.headers["Idempotent-Replay"] == "true"
        assert numbering.made == [named]
        metrics = api.get("/metrics").text
    for outcome, number in (("not_reached", "2.0"), ("ok", "1.0")):
        labels = f'call="create_payment",outcome="{outcome}",provider="nowpayments"'
        assert f"arrakis_provider_calls_total{{{labels}}} {number}" in metrics
    assert "provider_called" in wait_until("the log", (tmp_path / "log").read_text)
