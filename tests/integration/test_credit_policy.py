"""What payments are credited and what refunds take back, by the operators' policy (contract 6).

Behaviours 85, 88, 160, 165, 175 and 186 with the rows of the database: credits, lots, letters.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared import jobs
from shared.errors import Unavailable
from shared.models.payments import WebhookEvent
from shared.payments.intake import ASKING_BATCH, BATCH, LEASE
from shared.payments.providers.nowpayments import NowPayments
from tests.harness import make_id
from tests.ledger import Ledger
from tests.scripted_provider import Client, Handler, ScriptedProvider, answer, scripted
from tests.till import M, Payment, Till

PRICE = 25 * M
ASKED = {"pay_amount": "0.3125", "outcome_currency": "usdttrc20"}
WHOLE = {**ASKED, "actually_paid": "0.3125", "outcome_amount": "24.875"}
HALF = {**ASKED, "actually_paid": "0.15625", "outcome_amount": "12.4375"}
OVER = {**ASKED, "actually_paid": "0.46875", "outcome_amount": "37.3125"}
IN_BTC = {"outcome_currency": "btc"}
PACKS = json.dumps({"premium": {"priceMicro": PRICE, "bonusBps": 1000}})


@pytest.fixture
def till(ledger: Ledger) -> Iterator[Till]:
    ledger.configure(usd_coins="usd,usdttrc20")
    with capture_logs():
        yield Till(ledger)


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    """A provider that says 64,000 USD for each btc."""
    rate = {"currency_from": "btc", "amount_from": 1, "currency_to": "usd"}
    with scripted(lambda _: answer(200, rate | {"estimated_amount": 32})) as server:
        yield server


def asking(ledger: Ledger, provider: ScriptedProvider) -> Till:
    ledger.configure(usd_coins="usd,usdttrc20")
    return Till(ledger, Client(provider.url).nowpayments)


def credits_of(till: Till, payment: Payment) -> list[tuple[int, str]]:
    return [(int(one["amountMicro"]), one["basis"]) for one in till.shown(payment)["credits"]]


def sources(till: Till, payment: Payment) -> list[str]:
    statement = "SELECT source_id FROM credit_lots WHERE account_id = :id ORDER BY source_id"
    return [row[0] for row in till.ledger.rows(statement, id=payment.account)]


def child(till: Till, parent: Payment, status: str, **fields: Any) -> Payment:
    """Let the provider tell of another deposit to *parent*'s address; return it."""
    made = Payment(parent.id, str(int(parent.number) + 1), parent.account)
    till.told(made, status, **{"parent_payment_id": parent.number, "price_amount": "25", **fields})
    return made


def test_a_part_and_then_the_rest_are_the_price_exactly(till: Till) -> None:
    payment = till.payment()
    till.told(payment, "partially_paid", **HALF)
    assert till.ledger.balance(payment.account) == (12_437_500, 0, 0)
    till.told(payment, "confirming", **HALF)
    till.told(payment, "finished", **WHOLE)
    assert credits_of(till, payment) == [(12_437_500, "outcome"), (12_562_500, "price")]
    assert till.shown(payment)["creditedMicro"] == str(PRICE)
    assert sources(till, payment) == [f"nowpay-{payment.number}", f"nowpay-{payment.number}+1"]
    kinds = [(entry[0], entry[1]) for entry in till.ledger.entries(payment.account)]
    assert kinds == [("deposit", 12_437_500), ("deposit", 12_562_500)]
    assert till.letters() == []


@pytest.mark.parametrize("batches", [1, 3])
def test_parts_that_grow_are_credited_as_they_grow(till: Till, batches: int) -> None:
    payment = till.payment()
    parts = [("0.09375", "7.4625"), ("0.1875", "14.925"), ("0.28125", "22.3875")]
    for paid, outcome in parts:
        fields = {**ASKED, "actually_paid": paid, "outcome_amount": outcome}
        till.tell(payment, "partially_paid", **fields)
        assert batches == 1 or till.drain() == 1
    assert batches == 3 or till.drain() == 3
    assert credits_of(till, payment) == [(7_462_500, "outcome")] * 3
    assert till.ledger.balance(payment.account) == (22_387_500, 0, 0)


def test_a_part_that_is_told_late_credits_nothing_more(till: Till) -> None:
    payment = till.payment()
    bigger = {**ASKED, "actually_paid": "0.1875", "outcome_amount": "14.925"}
    till.told(payment, "partially_paid", **bigger)
    till.told(payment, "partially_paid", **HALF)
    till.told(payment, "finished", **WHOLE)
    till.tell(payment, "partially_paid", **{**HALF, "actually_paid": "0.2"})
    assert till.drain() == 1
    assert [event.outcome for event in till.events(payment)] == [
        "applied", "duplicate", "applied", "stale",
    ]  # fmt: skip
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)


def test_what_led_to_a_part_is_told_late_and_what_leads_to_the_rest_is_news(till: Till) -> None:
    payment = till.payment()
    till.told(payment, "partially_paid", **HALF)
    till.told(payment, "confirming", "confirmed", "sending", **HALF)
    assert till.shown(payment)["status"] == "partially_paid"
    till.told(payment, "confirming", **WHOLE)
    assert till.shown(payment)["status"] == "confirming"
    assert till.ledger.balance(payment.account) == (12_437_500, 0, 0)


def test_what_is_paid_above_the_price_is_credited_as_far_as_it_reached_us(till: Till) -> None:
    payment = till.payment()
    till.told(payment, "finished", **OVER)
    assert credits_of(till, payment) == [(37_312_500, "overpaid")]
    assert till.shown(payment)["credits"][0]["rate"] == "1"


def test_what_comes_on_top_after_finished_is_credited_once(till: Till) -> None:
    payment = till.payment()
    till.told(payment, "finished", **WHOLE)
    till.told(payment, "finished", **OVER)
    till.told(payment, "finished", **{**OVER, "actually_paid": "0.468750"})
    assert credits_of(till, payment) == [(PRICE, "price"), (12_312_500, "overpaid")]


def test_another_coin_is_worth_what_the_provider_says(
    ledger: Ledger, provider: ScriptedProvider
) -> None:
    till = asking(ledger, provider)
    payment, other = till.payment(dollars="40.00"), till.payment()
    till.told(payment, "partially_paid", **{**HALF, **IN_BTC, "outcome_amount": "0.0005"})
    assert credits_of(till, payment) == [(32 * M, "outcome")]
    assert till.shown(payment)["credits"][0]["rate"] == "64000"
    [asked] = provider.requests
    assert asked.query == {"amount": "0.0005", "currency_from": "btc", "currency_to": "usd"}
    till.told(other, "finished", **{**OVER, **IN_BTC, "outcome_amount": "0.0005"})
    assert credits_of(till, other) == [(32 * M, "overpaid")]


def test_a_rate_with_endless_digits_loses_at_most_a_micro(
    ledger: Ledger, provider: ScriptedProvider
) -> None:
    till = asking(ledger, provider)
    payment = till.payment(dollars="40.00")
    till.told(payment, "partially_paid", **{**HALF, **IN_BTC, "outcome_amount": "0.0007"})
    [(micro, _)] = credits_of(till, payment)
    assert 32 * M - 1 <= micro <= 32 * M


def test_what_the_provider_cannot_convert_waits_for_a_person(
    ledger: Ledger, provider: ScriptedProvider
) -> None:
    till = asking(ledger, provider)
    provider.replies = [answer(400, {"message": "Currency WOW was not found"})]
    payment = till.payment()
    odd = {**HALF, "outcome_currency": "wow"}
    till.told(payment, "partially_paid", **odd)
    assert (till.shown(payment)["status"], credits_of(till, payment)) == ("partially_paid", [])
    assert till.letters() == [("deposit", "manual_review", 0)]


def test_while_the_provider_cannot_say_a_rate_the_notice_waits_uncounted(
    ledger: Ledger, provider: ScriptedProvider
) -> None:
    till = asking(ledger, provider)
    till.provider = NowPayments(url="http://127.0.0.1:9/v1", api_key="key")
    payment, plain = till.payment(dollars="40.00"), till.payment()
    till.tell(payment, "partially_paid", **{**HALF, **IN_BTC, "outcome_amount": "0.0005"})
    till.tell(plain, "finished", **WHOLE)
    assert till.drain() == 2
    assert (till.event(payment).state, till.event(payment).attempts) == ("new", 0)
    assert credits_of(till, plain) == [(PRICE, "price")]
    till.provider = Client(provider.url).nowpayments
    ledger.clock.advance(seconds=2)
    assert till.drain() == 1
    assert credits_of(till, payment) == [(32 * M, "outcome")]


@pytest.mark.parametrize("order", ["parent first", "child first"])
def test_another_deposit_is_a_payment_of_its_own(till: Till, order: str) -> None:
    parent = till.payment()
    if order == "parent first":
        till.told(parent, "finished", **WHOLE)
    again = child(till, parent, "finished", **ASKED, actually_paid="0.125", outcome_amount="9.95")
    rows = "SELECT id, status, parent_payment_id FROM crypto_payments WHERE order_id IS NULL"
    [(child_id, status, parent_number)] = till.ledger.rows(rows)
    assert (status, parent_number) == ("finished", parent.number)
    assert credits_of(till, Payment(child_id, again.number, again.account)) == [
        (9_950_000, "outcome")
    ]
    if order == "child first":
        assert till.shown(parent)["status"] == "waiting"
        till.told(parent, "finished", **WHOLE)
    assert till.ledger.balance(parent.account) == (PRICE + 9_950_000, 0, 0)


def test_another_deposit_is_not_taken_for_the_payment_whose_number_we_do_not_know(
    till: Till,
) -> None:
    """It carries the order of the first: credited as that it would be worth the whole price."""
    parent = till.payment(provider_payment_id=None, status="creating")
    child(till, parent, "finished", **ASKED, actually_paid="0.125", outcome_amount="9.95")
    assert till.ledger.balance(parent.account) == (9_950_000, 0, 0)
    assert till.shown(parent)["status"] == "creating"
    till.told(parent, "finished", **WHOLE)
    assert till.shown(parent)["providerPaymentId"] == parent.number
    assert till.ledger.balance(parent.account) == (PRICE + 9_950_000, 0, 0)


def test_a_payment_that_an_admin_credited_is_finished_without_another_credit(till: Till) -> None:
    """Behaviour 186, after a part was left to a person: the decision ends the letter."""
    till.ledger.configure(partial_payment_policy="review")
    payment = till.payment()
    till.told(payment, "partially_paid", **HALF)
    assert till.letters() == [("deposit", "manual_review", 0)]
    till.admin_mint(payment, 20 * M).unwrap()
    assert till.letters() == [("deposit", "completed", 0)]
    assert till.shown(payment)["reviewReason"] is None
    till.told(payment, "finished", **OVER)
    assert credits_of(till, payment) == [(20 * M, "admin")]
    assert till.events(payment)[-1].outcome == "already_credited"


def test_a_finished_payment_without_an_account_waits_for_a_person(till: Till) -> None:
    """Behaviour 165 (W36): stored, in the queue; an admin says whose it is, and it is theirs."""
    payment = till.payment(account="")
    till.ledger.sql("UPDATE crypto_payments SET account_id = NULL")
    till.told(payment, "finished", **WHOLE)
    shown = till.shown(payment)
    assert (shown["status"], shown["reviewReason"]) == ("manual_review", "No account is known.")
    assert till.letters() == [("deposit", "manual_review", 0)]
    account = till.ledger.account()
    till.admin_mint(payment, PRICE, account=account).unwrap()
    shown = till.shown(payment)
    assert (shown["status"], shown["accountId"]) == ("finished", account)
    assert till.letters() == [("deposit", "completed", 0)]
    till.told(payment, "refunded")
    assert till.ledger.balance(account) == (0, 0, 0)


@pytest.mark.parametrize("status", ["finished", "partially_paid"])
def test_what_waited_for_a_person_is_credited_by_a_replay_once_the_rules_are_right(
    ledger: Ledger, provider: ScriptedProvider, status: str
) -> None:
    till = asking(ledger, provider)
    provider.replies = [answer(400)]  # a coin that it cannot convert
    ledger.configure(usd_coins="usd", partial_payment_policy="review")
    parent = till.payment()
    paid = {**ASKED, "actually_paid": "0.125", "outcome_amount": "9.95"}
    if status == "finished":
        payment = child(till, parent, status, **paid)
    else:
        payment = parent
        till.told(payment, status, **paid)
    waiting = "manual_review" if status == "finished" else status
    row = "SELECT status, lot_id, review_reason FROM crypto_payments WHERE provider_payment_id = :n"
    [(found, lot, reason)] = till.ledger.rows(row, n=payment.number)
    assert (found, lot, reason is None) == (waiting, None, False)
    assert till.letters() == [("deposit", "manual_review", 0)]
    till.ledger.configure(usd_coins="usd,usdttrc20", partial_payment_policy="credit")
    for _ in range(2):
        till.replay(payment)
        assert till.ledger.balance(payment.account) == (9_950_000, 0, 0)
        [(found, lot, reason)] = till.ledger.rows(row, n=payment.number)
        assert (found, lot is None, reason) == (status, False, None)
        assert till.letters() == [("deposit", "completed", 0)]


BAD_ROWS = {
    "usd_coins": "usd, btc",
    "partial_payment_policy": "perhaps",
    "overpaid_tolerance_bps": "1%",
    "credit_packs": "{",
    "credit_pack_markup": "0",
}


@pytest.mark.parametrize("key", BAD_ROWS)
def test_a_senseless_setting_stops_no_notice_for_ever(till: Till, key: str) -> None:
    [(good,)] = till.ledger.rows("SELECT value FROM billing_config WHERE key = :key", key=key)
    payment = till.payment()
    till.tell(payment, "confirming", "finished", **WHOLE)
    till.ledger.configure(**{key: BAD_ROWS[key]})
    for _ in range(12):  # more often than a notice may fail
        with pytest.raises(Unavailable, match=key) as refused:
            till.drain()
        assert refused.value.code == "config_invalid"
        assert [(one.state, one.attempts) for one in till.events(payment)] == [("new", 0)] * 2
        assert till.drain() == 0
        till.ledger.clock.advance(seconds=2)
    till.ledger.configure(**{key: good})
    assert till.drain() == 2
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)
    assert till.letters() == []


def purchases(ledger: Ledger) -> list[tuple[Any, ...]]:
    columns = "account_id, pack_id, payment_reference, lot_id, amount_micro"
    return ledger.rows(f"SELECT {columns} FROM credit_lot_purchases")


@pytest.mark.parametrize("first", [None, HALF], ids=["at once", "after a part"])
def test_a_pack_is_sold_once_for_each_payment(till: Till, first: dict[str, str] | None) -> None:
    """Behaviours 98 and 172: the premium pack gives 27.5 for 25, and more for more."""
    till.ledger.configure(credit_packs=PACKS)
    payment = till.payment(pack_id="premium", pack_micro=27_500_000)
    if first is not None:
        till.told(payment, "partially_paid", **first)
        assert purchases(till.ledger) == []
    till.told(payment, "finished", **WHOLE)
    till.told(payment, "finished", **OVER)
    assert till.ledger.balance(payment.account) == (27_500_000 + 12_312_500, 0, 0)
    lots = [one["lotId"] for one in till.shown(payment)["credits"] if one["basis"] == "pack"]
    assert purchases(till.ledger) == [
        (payment.account, "premium", payment.number, lots[0], 27_500_000)
    ]


def test_another_deposit_to_a_packs_address_is_no_pack(till: Till) -> None:
    payment = till.payment(pack_id="premium", pack_micro=27_500_000)
    child(till, payment, "finished", **ASKED, actually_paid="0.3125", outcome_amount="24.875")
    assert till.ledger.balance(payment.account) == (24_875_000, 0, 0)
    assert purchases(till.ledger) == []


@pytest.mark.parametrize("word", ["under_review", "FINISHED", "finish\u0435d", "x" * 40])
def test_a_status_that_no_document_names_waits_for_a_person_and_moves_nothing(
    till: Till, word: str
) -> None:
    """W38: it silently became ``waiting``."""
    payment, before = till.payment(), till.ledger.everything()
    till.told(payment, "confirmed", **WHOLE)
    till.told(payment, word, **WHOLE)
    assert till.shown(payment)["status"] == "confirmed"
    assert till.letters() == [("webhook", "manual_review", 0)]
    assert till.ledger.everything() == before
    till.told(payment, "finished", **WHOLE)
    assert till.shown(payment)["creditedMicro"] == str(PRICE)
    assert till.shown(payment)["reviewReason"] is None


def test_a_payment_of_a_lot_that_cannot_be_made_is_for_a_person(till: Till) -> None:
    """The account is not there: refused by the ledger, kept by us (W36, W41)."""
    payment = till.payment()
    till.ledger.sql("UPDATE crypto_payments SET account_id = :id", id=f"no-{make_id()}")
    till.told(payment, "finished", **WHOLE)
    shown = till.shown(payment)
    assert (shown["status"], shown["lotId"]) == ("manual_review", None)
    assert till.letters() == [("deposit", "manual_review", 0)]
    till.ledger.sql("UPDATE crypto_payments SET account_id = :id", id=payment.account)
    till.replay(payment)
    assert till.ledger.balance(payment.account) == (PRICE, 0, 0)
    assert till.letters() == [("deposit", "completed", 0)]


def test_rates_are_asked_for_a_few_at_a_time_under_a_lease_that_lasts(
    ledger: Ledger, provider: ScriptedProvider
) -> None:
    """While the provider is slow nobody else works off what is being asked about."""
    till, taken = asking(ledger, provider), []

    def slow(handler: Handler) -> None:
        ledger.clock.advance(seconds=LEASE + 1)
        others = jobs.claim(ledger.database, WebhookEvent, limit=BATCH)
        taken.append(len(others.ids))
        provider.usual(handler.request_seen)(handler)

    plain, *parts = (till.payment(dollars="40.00") for _ in range(ASKING_BATCH + 3))
    for payment in parts:
        till.tell(payment, "partially_paid", **{**HALF, **IN_BTC, "outcome_amount": "0.0005"})
    till.tell(plain, "finished", **WHOLE)
    provider.replies = [slow]
    assert till.drain() == len(parts) + 1
    assert (taken, len(provider.requests)) == ([2], ASKING_BATCH)
    assert [len(credits_of(till, one)) for one in (plain, *parts)] == [1] * 9 + [0] * 2
    ledger.clock.advance(seconds=jobs.LEASE_SECONDS)
    assert [till.drain(), till.drain()] == [2, 0]
    assert {till.ledger.balance(one.account)[0] for one in parts} == {32 * M}
