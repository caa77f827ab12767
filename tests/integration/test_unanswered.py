"""Payments whose creation was never answered are looked up by our order (contract 6, ADR 0012).

The simulator is the provider: it makes the payment, or not, and loses its answer on request.
"""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.errors import Invalid, Unavailable
from shared.payments import creation, unanswered
from shared.payments.providers.nowpayments import NowPayments, OutcomeUnknown, ProviderAway
from tests.harness import unique
from tests.ledger import Ledger
from tests.provider_harness import API_KEY, Simulator
from tests.scripted_provider import Client, Request, answer, created, scripted
from tests.till import M, Payment, Till

PRICE = 25 * M
LOGIN = {"email": "shop@example.com", "password": "secret"}


class Shop:
    """One account that buys for $25 at a provider whose answers get lost."""

    def __init__(self, ledger: Ledger, simulator: Simulator) -> None:
        ledger.configure(usd_coins="usd,usdttrc20")
        ledger.clock.now = datetime.now(UTC)  # the simulator lists by its own clock
        self.ledger, self.simulator, self.clock = ledger, simulator, ledger.clock
        self.provider = self.client(**LOGIN)
        self.till = Till(ledger, self.provider)
        self.account = ledger.account()

    def client(self, **more: Any) -> NowPayments:
        return NowPayments(url=f"{self.simulator.url}/v1", api_key=API_KEY, **more)

    def buy(self, key: str | None = None, provider: NowPayments | None = None) -> dict[str, Any]:
        made, _ = creation.create_payment(
            self.ledger.database,
            provider or self.provider,
            account_id=self.account,
            amount_micro=PRICE,
            pay_currency="btc",
            ceiling_micro=100 * M,
            idempotency_key=key,
        )
        return made

    def unanswered(self, mode: str = "lost_answer", key: str | None = None) -> str:
        """Buy, and lose the answer; return the payment's id."""
        self.simulator.control("faults", mode=mode, count=1, on="create")
        with pytest.raises(OutcomeUnknown) as unknown:
            self.buy(key, self.client())  # of its own, whose breaker knows nothing of the others
        return str(unknown.value.details["paymentId"])

    def put_back(self, key: str) -> str:
        """Buy while nobody is there; return the id of the payment that surely was not sent."""
        with pytest.raises(ProviderAway) as away:
            self.buy(key, NowPayments(url="http://127.0.0.1:9/v1", api_key="key"))
        return str(away.value.details["paymentId"])

    def search(self, provider: NowPayments | None = None) -> int:
        return unanswered.search(self.ledger.database, provider or self.provider)

    def shown(self, payment_id: str) -> dict[str, Any]:
        return self.till.shown(Payment(payment_id, "", ""))


@pytest.fixture
def shop(ledger: Ledger, simulator: Simulator) -> Iterator[Shop]:
    with capture_logs():
        yield Shop(ledger, simulator)


@pytest.mark.parametrize("mode", ["lost_answer", "garbage", "truncated"])
def test_what_was_made_is_found_by_our_order_and_credited(shop: Shop, mode: str) -> None:
    lost = shop.unanswered(mode, key="key")
    assert (shop.search(), shop.shown(lost)["status"]) == (0, "creating")  # it is too early
    shop.clock.advance(seconds=120)
    assert shop.search() == 1
    found = shop.shown(lost)
    [at_provider] = shop.simulator.get(f"/sim/payments?order_id={lost}").json()["payments"]
    assert found["status"] == "waiting"
    assert found["providerPaymentId"] == str(at_provider["payment_id"])
    assert found["payAddress"] == at_provider["pay_address"]
    assert shop.buy("key")["payAddress"] == at_provider["pay_address"]
    assert shop.search() == 0
    assert shop.till.drain() == 1  # what was read is a notice, too
    shop.simulator.play(at_provider["payment_id"], "missed")
    shop.clock.advance(seconds=600)
    paid = Payment(lost, found["providerPaymentId"], shop.account)
    shop.till.told(paid, "finished", price_amount="25")
    assert shop.ledger.balance(shop.account) == (PRICE, 0, 0)


def test_what_was_paid_before_it_was_found_is_credited_at_once(shop: Shop) -> None:
    lost = shop.unanswered()
    [at_provider] = shop.simulator.get(f"/sim/payments?order_id={lost}").json()["payments"]
    shop.simulator.play(at_provider["payment_id"], "missed")
    shop.clock.advance(seconds=120)
    assert (shop.search(), shop.till.drain()) == (1, 1)
    assert shop.shown(lost)["creditedMicro"] == str(PRICE)


def test_what_was_never_made_has_failed_after_an_hour(shop: Shop) -> None:
    """500 and nothing done: that the provider lists nothing says so only after a while."""
    lost = shop.unanswered("error", key="key")
    for seconds in (120, 600, 2880):
        shop.clock.advance(seconds=seconds)
        assert shop.search() == 1
        assert shop.shown(lost)["status"] == "creating"
        assert shop.search() == 0
        with pytest.raises(OutcomeUnknown):
            shop.buy("key")
    shop.clock.advance(seconds=600)
    assert shop.search() == 1
    failed = shop.shown(lost)
    assert (failed["status"], failed["reviewReason"]) == (
        "failed",
        "The provider has made no payment of it.",
    )
    with pytest.raises(Invalid, match="made no payment"):
        shop.buy("key")
    assert shop.simulator.count_of_order(lost) == 0
    assert shop.till.letters() == []


def test_of_several_payments_of_one_order_a_person_must_choose(shop: Shop) -> None:
    lost = shop.unanswered()
    shop.simulator.create(order_id=lost)
    shop.clock.advance(seconds=120)
    assert shop.search() == 1
    assert shop.shown(lost)["status"] == "creating"
    assert shop.till.letters() == [("deposit", "manual_review", 0)]
    letter = shop.till.letter()
    assert letter.subject_id == lost
    listed = shop.simulator.get(f"/sim/payments?order_id={lost}").json()["payments"]
    assert all(str(one["payment_id"]) in letter.error_message for one in listed)


def test_a_further_deposit_is_not_taken_for_the_payment(shop: Shop) -> None:
    lost = shop.unanswered()
    [first] = shop.simulator.get(f"/sim/payments?order_id={lost}").json()["payments"]
    shop.simulator.play(first["payment_id"], "repeated-deposit")
    assert shop.simulator.count_of_order(lost) == 2
    shop.clock.advance(seconds=120)
    assert shop.search() == 1
    assert shop.shown(lost)["providerPaymentId"] == str(first["payment_id"])


def test_without_a_login_nothing_is_found_and_a_person_is_asked_after_a_day(shop: Shop) -> None:
    lost, poor = shop.unanswered(), shop.client()
    for hours in (1, 22):
        shop.clock.advance(hours=hours)
        with pytest.raises(Unavailable) as refused:
            shop.search(poor)
        assert refused.value.code == "provider_listing_not_configured"
        assert shop.till.letters() == []
    shop.clock.advance(hours=1.1)
    with pytest.raises(Unavailable):
        shop.search(poor)
    assert shop.till.letters() == [("deposit", "manual_review", 0)]
    assert shop.shown(lost)["status"] == "creating"
    shop.clock.advance(seconds=600)
    assert shop.search() == 1  # now there is one
    assert shop.shown(lost)["status"] == "waiting"
    assert shop.till.letters()[0][:2] == ("deposit", "completed")


def test_a_provider_that_is_away_costs_nothing_but_time(shop: Shop) -> None:
    lost = shop.unanswered()
    shop.clock.advance(seconds=120)
    with pytest.raises(Unavailable):
        shop.search(NowPayments(url="http://127.0.0.1:9/v1", api_key="key", **LOGIN))
    assert shop.shown(lost)["status"] == "creating"
    assert shop.search() == 0
    shop.clock.advance(seconds=600)
    assert shop.search() == 1
    assert shop.shown(lost)["status"] == "waiting"


def test_what_was_put_back_and_nobody_repeats_has_failed_after_an_hour(shop: Shop) -> None:
    kept = shop.put_back("key")
    shop.clock.advance(seconds=3600)
    assert shop.search() == 1
    assert shop.shown(kept)["status"] == "creating"
    shop.clock.advance(seconds=600)
    assert shop.search() == 1
    failed = shop.shown(kept)
    assert (failed["status"], failed["reviewReason"]) == ("failed", "Nobody asked for it again.")
    with pytest.raises(Invalid, match="Nobody asked"):
        shop.buy("key")
    assert shop.simulator.count_of_order(kept) == 0


def test_what_was_put_back_and_is_repeated_is_looked_up_from_then_on(shop: Shop) -> None:
    kept = shop.put_back("key")
    shop.clock.advance(seconds=3000)
    assert shop.unanswered("error", key="key") == kept
    shop.clock.advance(seconds=3000)  # an hour after it was made, but not after it was sent
    assert shop.search() == 1
    assert shop.shown(kept)["status"] == "creating"


def test_what_needs_no_listing_does_not_wait_for_one(shop: Shop) -> None:
    shop.unanswered()
    kept = shop.put_back("key")
    shop.clock.advance(hours=2)
    with pytest.raises(Unavailable, match="cannot be listed"):
        shop.search(shop.client())
    assert shop.shown(kept)["status"] == "failed"


def test_what_is_sent_while_it_is_looked_at_is_not_called_failed(shop: Shop) -> None:
    """Its key is repeated after the search has read the row: an address exists, and may be paid."""
    shop.unanswered()
    key = unique("key")
    kept = shop.put_back(key)
    shop.clock.advance(hours=2)
    made: list[dict[str, Any]] = []

    def repeat_then_list(handler: Any) -> None:
        made.append(shop.buy(key, Client(server.url).nowpayments))
        nothing = {"data": [], "limit": 100, "page": 0, "pagesCount": 0, "total": 0}
        answer(200, nothing)(handler)

    def reply_to(request: Request) -> Any:
        if request.path.endswith("/auth"):
            return answer(200, {"token": "token"})
        if request.method == "POST":
            return answer(201, created(request, 1))
        return repeat_then_list

    with scripted(reply_to) as server:
        assert shop.search(Client(server.url, **LOGIN).nowpayments) == 2
    assert [(one["paymentId"], one["status"]) for one in made] == [(kept, "waiting")]
    assert shop.shown(kept) == made[0]


def test_two_searches_take_different_payments(shop: Shop) -> None:
    lost = [shop.unanswered() for _ in range(12)]
    shop.clock.advance(seconds=120)
    start, taken = threading.Barrier(3), []

    def search() -> None:
        start.wait()
        taken.append(shop.search())

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while done := shop.search():
        taken.append(done)
    assert (sum(taken), max(taken)) == (12, 5)
    assert {shop.shown(one)["status"] for one in lost} == {"waiting"}
