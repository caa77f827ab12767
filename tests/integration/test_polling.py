"""Open payments are read at the provider, so that a missed notice heals by itself (contract 6).

The provider is the simulator where a story matters, and a scripted one where its answers do.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from services.workers.schedule import EVERY_SECONDS
from shared.clock import add_seconds
from shared.errors import Unavailable
from shared.messaging import TaskName
from shared.operations import payments as desk
from shared.operations.audit import Actor
from shared.payments import polling
from shared.payments.polling import next_look
from shared.payments.providers.nowpayments import NowPayments
from tests.ledger import START, Ledger
from tests.provider_harness import API_KEY, Simulator
from tests.scripted_provider import Client, Request, ScriptedProvider, answer, scripted, shown
from tests.till import M, Payment, Till

PRICE = 25 * M
OPEN = ("waiting", "confirming", "confirmed", "sending", "partially_paid")
LATE = ("expired", "failed")
CLOSED = ("finished", "refunded", "creating", "manual_review")
MINUTE = timedelta(minutes=1)
EVERY = EVERY_SECONDS[TaskName.POLL_PAYMENTS]
AGES = st.timedeltas(timedelta(0), timedelta(days=400))


@given(st.sampled_from(OPEN), AGES)
def test_an_open_payment_is_due_again_within_twelve_minutes_until_it_is_forgotten(
    status: str, age: timedelta
) -> None:
    due = next_look(status, created_at=START, now=START + age)
    if age >= timedelta(days=14):
        assert due == (START + age + timedelta(days=1) if age < timedelta(days=90) else None)
        return
    assert due is not None
    assert 2 * MINUTE <= due - (START + age) <= 12 * MINUTE
    assert due - START >= 10 * MINUTE
    if age <= 8 * MINUTE:
        assert due == START + 10 * MINUTE


@given(st.sampled_from(LATE), AGES)
def test_an_address_that_may_still_be_paid_is_looked_at_for_thirty_days(
    status: str, age: timedelta
) -> None:
    due = next_look(status, created_at=START, now=START + age)
    assert (due is None) == (age >= timedelta(days=30))
    if due is not None:
        assert timedelta(hours=1) <= due - (START + age) <= timedelta(days=5)


@given(st.sampled_from(CLOSED), AGES)
def test_what_has_come_to_its_end_is_not_asked_about(status: str, age: timedelta) -> None:
    assert next_look(status, created_at=START, now=START + age) is None


def test_a_payment_from_a_clock_that_is_ahead_is_looked_at_too() -> None:
    due = next_look("waiting", created_at=START + MINUTE, now=START)
    assert due == START + 11 * MINUTE


def test_an_open_payment_of_a_week_is_read_a_bounded_number_of_times() -> None:
    now, looks = START, 0
    while now < START + timedelta(days=7):
        due = next_look("waiting", created_at=START, now=now)
        assert due is not None
        now, looks = due, looks + 1
    assert looks < 7 * 24 * 5 + 15


@pytest.fixture
def till(ledger: Ledger) -> Iterator[Till]:
    with capture_logs():
        yield Till(ledger)


class Simulated:
    """Payments that the simulator and our database know alike."""

    def __init__(self, till: Till, simulator: Simulator) -> None:
        self.till, self.simulator = till, simulator
        self.clock = till.ledger.clock
        till.provider = NowPayments(url=f"{simulator.url}/v1", api_key=API_KEY)
        till.ledger.configure(usd_coins="usd,usdttrc20")

    def buy(self, **more: object) -> Payment:
        """Make a payment as creation does: at both sides, first looked at after ten minutes."""
        number = self.simulator.new_id()
        looks = {"next_poll_at": next_look("waiting", created_at=self.clock(), now=self.clock())}
        made = self.till.payment(provider_payment_id=str(number), **{**looks, **more})
        return Payment(made.id, str(number), made.account)

    def heal(self) -> None:
        """Do what the workers do by themselves."""
        database, provider = self.till.ledger.database, self.till.provider
        assert provider is not None
        while polling.poll(database, provider):
            pass
        while self.till.drain():
            pass


@pytest.fixture
def simulated(till: Till, simulator: Simulator) -> Simulated:
    return Simulated(till, simulator)


def test_a_missed_notice_heals_at_the_first_look(simulated: Simulated) -> None:
    payment = simulated.buy()
    simulated.simulator.play(int(payment.number), "missed")
    simulated.clock.advance(seconds=599.999)
    simulated.heal()
    assert simulated.till.shown(payment)["status"] == "waiting"
    simulated.clock.advance(seconds=0.001)
    simulated.heal()
    healed = simulated.till.shown(payment)
    assert (healed["status"], healed["creditedMicro"]) == ("finished", str(PRICE))
    sources = "SELECT source FROM webhook_events WHERE provider_payment_id = :n"
    assert simulated.till.ledger.rows(sources, n=payment.number) == [("poll",)]


@pytest.mark.parametrize("age_hours", [0.02, 0.25, 3, 150])
def test_whatever_is_missed_heals_within_fifteen_minutes(
    simulated: Simulated, age_hours: float
) -> None:
    """It finishes silently at the worst moment: just after it was looked at."""
    payment = simulated.buy()
    simulated.clock.advance(hours=age_hours)
    simulated.heal()
    simulated.simulator.play(int(payment.number), "missed")
    waited = 0
    while simulated.till.shown(payment)["lotId"] is None:
        simulated.clock.advance(seconds=EVERY)
        waited += EVERY
        assert waited <= 15 * 60
        simulated.heal()
    assert simulated.till.ledger.balance(payment.account) == (PRICE, 0, 0)


def test_a_payment_that_expired_heals_when_it_is_paid_late(simulated: Simulated) -> None:
    payment = simulated.buy()
    simulated.simulator.advance(int(payment.number), "expired", notify=False)
    simulated.clock.advance(hours=1)
    simulated.heal()
    assert simulated.till.shown(payment)["status"] == "expired"
    simulated.clock.advance(hours=20 * 24)
    simulated.simulator.play(int(payment.number), "missed")
    simulated.heal()
    assert simulated.till.shown(payment)["creditedMicro"] == str(PRICE)


def test_a_replay_whose_process_is_killed_is_brought_to_its_end_by_workers(
    simulated: Simulated,
) -> None:
    """Its notices are worked off at once, and the provider is asked when the claim has lapsed."""
    till, actor = simulated.till, Actor("admin", "night shift")
    missed, spoilt = simulated.buy(next_poll_at=None), simulated.buy(next_poll_at=None)
    simulated.simulator.play(int(missed.number), "missed")
    till.tell(spoilt, "finished")
    till.ledger.sql("UPDATE webhook_events SET state = 'parked'")
    for payment in (missed, spoilt):
        desk.begin_replay(till.ledger.database, actor, payment.number)
    simulated.heal()
    assert [till.shown(one)["status"] for one in (missed, spoilt)] == ["waiting", "finished"]
    simulated.clock.advance(seconds=polling.CLAIM_SECONDS)
    simulated.heal()
    for payment in (missed, spoilt):
        assert till.shown(payment)["creditedMicro"] == str(PRICE)
    due = "SELECT count(*) FROM crypto_payments WHERE next_poll_at IS NOT NULL"
    assert till.ledger.rows(due) == [(0,)]
    audited = till.ledger.rows("SELECT action, target_id FROM admin_audit_log ORDER BY id")
    assert audited == [("payment_replay", one.number) for one in (missed, spoilt)]


def test_a_notice_that_comes_after_the_poll_credits_nothing_more(simulated: Simulated) -> None:
    payment = simulated.buy()
    simulated.simulator.play(int(payment.number), "missed")
    simulated.clock.advance(seconds=600)
    simulated.heal()
    simulated.till.tell(payment, "finished", actually_paid="0.39", price_amount="25")
    assert simulated.till.drain() == 1
    assert simulated.till.ledger.balance(payment.account) == (PRICE, 0, 0)


def usual(request: Request) -> Callable[[object], None]:
    """Show whatever is asked for as finished."""
    number = int(request.path.rpartition("/")[2])
    return answer(200, shown(number, payment_status="finished", order_id=None))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(usual) as server:
        yield server


def due_payments(till: Till, count: int) -> list[Payment]:
    """Make payments that are due, the oldest first."""
    now = till.ledger.clock()
    return [
        till.payment(next_poll_at=add_seconds(now, position - count)) for position in range(count)
    ]


def test_a_batch_is_bounded_and_takes_the_longest_due_first(
    till: Till, provider: ScriptedProvider
) -> None:
    payments = due_payments(till, 23)
    client = Client(provider.url).nowpayments
    taken = [polling.poll(till.ledger.database, client) for _ in range(4)]
    assert taken == [10, 10, 3, 0]
    wanted = [f"/payment/{payment.number}" for payment in payments]
    assert provider.paths() == wanted


def test_two_pollers_read_different_payments(till: Till, provider: ScriptedProvider) -> None:
    payments = due_payments(till, 40)
    start = threading.Barrier(4)

    def poll(_number: int) -> int:
        start.wait()
        return polling.poll(till.ledger.database, Client(provider.url).nowpayments)

    with ThreadPoolExecutor(4) as threads:
        taken = list(threads.map(poll, range(4)))
    assert sum(taken) == len(provider.requests) == len(set(provider.paths()))
    polling.poll(till.ledger.database, Client(provider.url).nowpayments)
    assert max(taken) == 10
    assert set(provider.paths()) <= {f"/payment/{payment.number}" for payment in payments}


def test_a_provider_that_is_away_costs_nothing(till: Till, provider: ScriptedProvider) -> None:
    payments, before = due_payments(till, 3), till.ledger.everything()
    away = NowPayments(url="http://127.0.0.1:9/v1", api_key="key")
    with pytest.raises(Unavailable):
        polling.poll(till.ledger.database, away)
    assert polling.poll(till.ledger.database, away) == 0
    assert till.ledger.everything() == before
    assert till.ledger.rows("SELECT id FROM webhook_events") == []
    assert {till.shown(payment)["status"] for payment in payments} == {"waiting"}
    till.ledger.clock.advance(seconds=12 * 60)
    assert polling.poll(till.ledger.database, Client(provider.url).nowpayments) == 3
    assert till.drain() == 3
    for payment in payments:
        assert till.ledger.balance(payment.account) == (PRICE, 0, 0)


def test_one_answer_without_sense_keeps_no_other_payment_waiting(
    till: Till, provider: ScriptedProvider
) -> None:
    odd, *others = due_payments(till, 4)
    provider.replies = [answer(200, b"not JSON")]
    with pytest.raises(Unavailable):
        polling.poll(till.ledger.database, Client(provider.url).nowpayments)
    assert till.drain() == 3
    assert till.shown(odd)["status"] == "waiting"
    assert {till.shown(payment)["status"] for payment in others} == {"finished"}


def test_a_payment_that_the_provider_does_not_know_stays_as_it_is(
    till: Till, provider: ScriptedProvider
) -> None:
    [payment] = due_payments(till, 1)
    provider.replies = [answer(404, {"message": "Payment not found"})]
    assert polling.poll(till.ledger.database, Client(provider.url).nowpayments) == 1
    assert till.drain() == 0
    assert till.shown(payment)["status"] == "waiting"


def test_what_was_read_before_is_no_news(till: Till, provider: ScriptedProvider) -> None:
    [payment] = due_payments(till, 1)
    client, database = Client(provider.url).nowpayments, till.ledger.database
    assert polling.look(database, client, payment.number) is True
    assert polling.look(database, client, payment.number) is False
    assert polling.look(database, client, "refused-cp_1") is None
    assert len(provider.requests) == 2


def test_times_are_kept_to_the_microsecond(till: Till, provider: ScriptedProvider) -> None:
    """A payment that is due this very instant is taken, one a microsecond later is not."""
    now = till.ledger.clock()
    till.payment(next_poll_at=now)
    till.payment(next_poll_at=now + timedelta(microseconds=1))
    assert polling.poll(till.ledger.database, Client(provider.url).nowpayments) == 1
    assert now.tzinfo is UTC
    assert isinstance(now, datetime)
