"""Before a notice brings a credit the provider confirms it (protocols 1.7: replayed for ever).

A notice is signed but neither dated nor numbered, so a captured one stays good; the provider is a
scripted one, because its answers are what matters.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.payments import intake
from shared.payments.intake import ASKING_BATCH
from shared.payments.providers.nowpayments import NowPayments
from tests.ledger import Ledger
from tests.scripted_provider import Client, Request, ScriptedProvider, answer, scripted, shown
from tests.till import M, Payment, Till

PRICE = 25 * M
WHOLE = {
    "price_amount": "25",
    "pay_amount": "0.3125",
    "actually_paid": "0.3125",
    "outcome_amount": "24.875",
    "outcome_currency": "usdttrc20",
}
HALF = WHOLE | {"actually_paid": "0.15625", "outcome_amount": "12.4375"}


class Provider:
    """What the provider shows of each payment; unless told otherwise it is finished."""

    def __init__(self) -> None:
        self.shows: dict[str, dict[str, Any] | None] = {}
        self.asked: list[str] = []

    def __call__(self, request: Request) -> Callable[[Any], None]:
        number = request.path.rpartition("/")[2]
        self.asked.append(number)
        told = self.shows.get(number, {"payment_status": "finished"})
        if told is None:
            return answer(404, {"message": "Payment not found"})
        return answer(200, shown(int(number), **{**WHOLE, "order_id": None, **told}))


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def server(provider: Provider) -> Iterator[ScriptedProvider]:
    with scripted(provider) as running:
        yield running


@pytest.fixture
def till(ledger: Ledger, server: ScriptedProvider) -> Iterator[Till]:
    ledger.configure(usd_coins="usd,usdttrc20")
    with capture_logs():
        yield Till(ledger, Client(server.url).nowpayments, is_verifying=True)


def credited(till: Till, payment: Payment) -> int:
    return int(till.shown(payment)["creditedMicro"] or 0)


def test_what_the_provider_confirms_is_credited(till: Till, provider: Provider) -> None:
    payment = till.payment()
    till.told(payment, "confirming", "finished", **WHOLE)
    assert credited(till, payment) == PRICE
    assert provider.asked == [payment.number]  # only what may bring a credit is asked about


@pytest.mark.parametrize("status", ["waiting", "confirming", "sending", "failed", "expired"])
def test_a_captured_notice_of_what_the_provider_shows_otherwise_credits_nothing(
    till: Till, provider: Provider, status: str
) -> None:
    payment, before = till.payment(), till.ledger.everything()
    provider.shows[payment.number] = {"payment_status": status}
    till.told(payment, "finished", **WHOLE)
    waiting = till.event(payment)
    assert (waiting.state, waiting.attempts) == ("new", 1)
    assert waiting.last_error == f"The provider shows {status}, not finished."
    assert till.shown(payment)["status"] == "waiting"
    assert till.ledger.everything() == before
    assert till.drain() == 0


def test_a_notice_that_is_confirmed_a_little_later_is_credited_then(
    till: Till, provider: Provider
) -> None:
    payment = till.payment()
    provider.shows[payment.number] = {"payment_status": "sending"}
    till.told(payment, "finished", **WHOLE)
    del provider.shows[payment.number]
    till.ledger.clock.advance(seconds=3.999)
    assert till.drain() == 0
    till.ledger.clock.advance(seconds=0.001)
    assert till.drain() == 1
    assert credited(till, payment) == PRICE
    assert till.letters() == []


def test_a_notice_that_is_never_confirmed_ends_in_the_queue_and_then_at_a_person(
    till: Till, provider: Provider
) -> None:
    payment = till.payment()
    provider.shows[payment.number] = {"payment_status": "waiting"}
    till.tell(payment, "finished", **WHOLE)

    def until_parked() -> int:
        tries = 0
        while till.event(payment).state == "new":
            tries += till.drain()
            till.ledger.clock.advance(seconds=900)
        return tries

    assert until_parked() == 12
    for failures in (0, 1, 2):
        assert till.letters() == [("webhook", "pending", failures)]
        till.ledger.clock.advance(seconds=2000)
        assert intake.retry_parked(till.ledger.database) == 1
        assert until_parked() == 12
    assert till.letters() == [("webhook", "manual_review", 3)]
    assert credited(till, payment) == 0


def test_a_notice_of_a_payment_that_the_provider_does_not_know_is_for_a_person(
    till: Till, provider: Provider
) -> None:
    payment = till.payment()
    provider.shows[payment.number] = None
    till.told(payment, "finished", **WHOLE)
    shown_now = till.shown(payment)
    assert (shown_now["status"], credited(till, payment)) == ("waiting", 0)
    assert shown_now["reviewReason"] == "The provider knows no payment of this id."
    assert till.event(payment).state == "parked"
    assert till.letters() == [("webhook", "manual_review", 0)]


def test_while_the_provider_is_away_a_notice_waits_uncounted(
    till: Till, provider: Provider
) -> None:
    payment, usual = till.payment(), till.provider
    till.provider = NowPayments(url="http://127.0.0.1:9/v1", api_key="key")
    till.tell(payment, "finished", **WHOLE)
    for _ in range(15):  # more often than a notice may fail
        assert till.drain() == 1
        waiting = till.event(payment)
        assert (waiting.state, waiting.attempts, waiting.lease_token) == ("new", 0, None)
        till.ledger.clock.advance(seconds=2)
    till.provider = usual
    assert till.drain() == 1
    assert credited(till, payment) == PRICE
    assert till.letters() == []


def test_the_providers_words_win(till: Till, provider: Provider) -> None:
    """The notice says the whole price, the provider half of it."""
    payment = till.payment()
    provider.shows[payment.number] = {"payment_status": "partially_paid", **HALF}
    till.told(payment, "finished", **WHOLE)
    shown_now = till.shown(payment)
    assert (shown_now["status"], shown_now["actuallyPaid"]) == ("partially_paid", "0.15625")
    assert credited(till, payment) == 12_437_500


def test_a_captured_notice_of_what_was_given_back_since_credits_nothing(
    till: Till, provider: Provider
) -> None:
    payment, before = till.payment(), till.ledger.everything()
    provider.shows[payment.number] = {"payment_status": "refunded"}
    till.told(payment, "finished", **WHOLE)
    assert (till.shown(payment)["status"], till.letters()) == ("refunded", [])
    assert till.ledger.everything() == before


def test_the_provider_says_whose_child_a_deposit_is(till: Till, provider: Provider) -> None:
    """A notice that does not tell its parent would be worth the whole price of its order."""
    parent = till.payment()
    child = Payment(parent.id, str(int(parent.number) + 1), parent.account)
    part = {"payment_status": "finished", "outcome_amount": "9.95"}
    provider.shows[child.number] = {"parent_payment_id": int(parent.number), **part}
    till.told(child, "finished", **WHOLE)
    assert till.ledger.balance(parent.account) == (9_950_000, 0, 0)
    assert till.shown(parent)["status"] == "waiting"


@pytest.mark.parametrize("poison", ["{", "[]", "null", '"text"', "7", "[" * 5000])
def test_a_notice_that_cannot_be_read_changes_nothing_for_the_others(
    till: Till, provider: Provider, poison: str
) -> None:
    """Neither are they held up, nor are they credited unconfirmed."""
    spoilt, good, captured = (till.payment() for _ in range(3))
    provider.shows[captured.number] = {"payment_status": "waiting"}
    for payment in (spoilt, good, captured):
        till.tell(payment, "finished", **WHOLE)
    till.spoil(spoilt, poison)
    assert till.drain() == 3
    assert [credited(till, one) for one in (spoilt, good, captured)] == [0, PRICE, 0]
    assert (till.event(spoilt).state, till.event(spoilt).attempts) == ("new", 1)
    assert "The provider shows waiting" in till.event(captured).last_error


def test_one_that_cannot_be_asked_about_holds_up_no_other(
    till: Till, provider: Provider, server: ScriptedProvider
) -> None:
    first, second = till.payment(), till.payment()
    till.tell(first, "finished", **WHOLE)
    till.tell(second, "finished", **WHOLE)
    server.replies = [answer(200, b"not JSON")]
    assert till.drain() == 2
    assert sorted([credited(till, first), credited(till, second)]) == [0, PRICE]
    till.ledger.clock.advance(seconds=2)
    assert till.drain() == 1
    assert credited(till, first) == credited(till, second) == PRICE


def test_a_verifying_batch_is_small_enough_for_its_lease(till: Till) -> None:
    payments = [till.payment() for _ in range(ASKING_BATCH + 1)]
    for payment in payments:
        till.tell(payment, "finished", **WHOLE)
    assert [till.drain(), till.drain(), till.drain()] == [ASKING_BATCH, 1, 0]
    assert {credited(till, payment) for payment in payments} == {PRICE}


def test_what_we_have_read_ourselves_is_not_asked_again(till: Till, provider: Provider) -> None:
    payment = till.payment()
    till.tell(payment, "finished", **WHOLE)
    till.ledger.sql("UPDATE webhook_events SET source = 'poll'")
    assert till.drain() == 1
    assert (credited(till, payment), provider.asked) == (PRICE, [])


def test_each_notice_that_is_captured_again_credits_nothing_more(
    till: Till, provider: Provider
) -> None:
    """The amount differs in its spelling, so it is no repeat to the inbox."""
    payment = till.payment()
    till.told(payment, "finished", **WHOLE)
    for spelled in ("0.31250", "0.312500", "3125E-4"):
        till.told(payment, "finished", **{**WHOLE, "actually_paid": spelled})
    assert credited(till, payment) == PRICE
    assert till.letters() == []
