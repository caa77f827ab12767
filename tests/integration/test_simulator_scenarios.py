"""The simulator's named stories: which notices they send, with which amounts, in which order."""

from decimal import Decimal

import pytest

from tests.provider_harness import HALF, HAPPY, LATE, PAID, until


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("happy", HAPPY),
        ("finished-twice", [*HAPPY, "finished"]),
        ("out-of-order", LATE),
        ("partial", HALF),
        ("partial-then-finished", HALF + PAID),
        ("repeated-deposit", HAPPY),
        ("wrong-asset", ["waiting"]),
        ("late-after-expired", ["waiting", "expired", *PAID]),
        ("refunded", [*HAPPY, "refunded"]),
        ("failed", ["waiting", "confirming", "failed"]),
        ("expired", ["waiting", "expired"]),
        ("refunded-before-finished", ["waiting", "confirming", "confirmed", "refunded"]),
        ("failed-then-finished", ["waiting", "confirming", "failed", "finished"]),
        ("unknown-status", [*HAPPY[:3], "under_review", "finished"]),
        ("over-payment", HAPPY),
        ("finished-less", HAPPY),
        ("partial-twice", ["waiting", *["confirming", "partially_paid"] * 2]),
        ("wrong-asset-unprocessed", ["waiting"]),
        ("missed", []),
    ],
)
def test_a_scenario_sends_its_notices_and_leaves_its_state(simulator, receiver, name, sent):
    payment_id = simulator.new_id()
    deliveries = simulator.play(payment_id, name)["deliveries"]
    assert receiver.statuses_of(payment_id) == sent
    assert [one["status"] for one in deliveries] == [one.status for one in receiver.arrivals]
    assert {one["http_status"] for one in deliveries} <= {200}
    assert all(one.is_signed for one in receiver.arrivals)
    final = sent[-1] if sent else "finished"
    assert simulator.read(payment_id)["payment_status"] == final
    assert simulator.get("/sim/scenarios").json()[name].endswith(".")


def test_a_repeated_or_late_notice_is_the_old_one(simulator, receiver):
    payment_id = simulator.new_id()
    simulator.play(payment_id, "out-of-order")
    _, first, *_, second = receiver.arrivals
    assert first.raw == second.raw
    by_status = {one.status: one.notice for one in receiver.arrivals}
    times = [by_status[status]["updated_at"] for status in PAID]
    assert times == sorted(set(times))
    assert by_status["waiting"]["actually_paid"] == 0


def test_a_partial_payment_has_an_outcome_in_proportion(simulator, receiver):
    payment_id = simulator.new_id(pay_currency="ltc")
    simulator.play(payment_id, "partial-then-finished")
    outcomes = {one.status: one.notice["outcome_amount"] for one in receiver.arrivals}
    assert (outcomes["partially_paid"], outcomes["finished"]) == (
        Decimal("12.4375"),
        Decimal("24.875"),
    )


@pytest.mark.parametrize(
    ("name", "paid", "outcome"),
    [
        ("over-payment", ["0.46875"], ["37.3125"]),
        ("finished-less", ["0.28125"], ["22.3875"]),
        ("partial-twice", ["0.09375", "0.1875"], ["7.4625", "14.925"]),
    ],
)
def test_what_arrives_can_be_more_or_less_than_was_asked(simulator, receiver, name, paid, outcome):
    payment_id = simulator.new_id(pay_currency="ltc")  # 0.3125 ltc for 25 USD
    simulator.play(payment_id, name)
    end = receiver.arrivals[-1].status
    told = [one.notice for one in receiver.arrivals if one.status == end]
    assert [one["actually_paid"] for one in told] == [Decimal(one) for one in paid]
    assert [one["outcome_amount"] for one in told] == [Decimal(one) for one in outcome]
    read = simulator.read(payment_id)
    assert (read["actually_paid"], read["price_amount"]) == (Decimal(paid[-1]), 25)


def test_a_wrong_asset_can_be_left_alone_by_the_provider(simulator, receiver):
    parent_id = simulator.new_id(pay_currency="sol")
    simulator.play(parent_id, "wrong-asset-unprocessed")
    _, notice = (one.notice for one in receiver.arrivals)
    assert (notice["payment_status"], notice["parent_payment_id"]) == ("partially_paid", parent_id)
    assert (notice["pay_currency"], notice["actually_paid"]) == ("ltc", Decimal("0.3125"))
    assert simulator.read(notice["payment_id"])["payment_status"] == "partially_paid"


@pytest.mark.parametrize(
    ("name", "amounts"),
    [
        ("repeated-deposit", ("sol", Decimal("0.0625"), Decimal("9.95"))),
        ("wrong-asset", ("ltc", Decimal("0.3125"), Decimal("24.875"))),
    ],
)
def test_another_deposit_is_a_new_payment_with_a_parent(simulator, receiver, name, amounts):
    parent_id = simulator.new_id(pay_currency="sol", order_id=name)
    simulator.play(parent_id, name)
    confirming, child = (one.notice for one in receiver.arrivals[-2:])
    assert (confirming["payment_status"], child["payment_status"]) == ("confirming", "finished")
    assert child["payment_id"] == confirming["payment_id"] != parent_id
    assert (child["pay_currency"], child["actually_paid"], child["outcome_amount"]) == amounts
    assert (child["order_id"], child["price_amount"]) == (name, 25)
    assert simulator.read(child["payment_id"])["parent_payment_id"] == parent_id
    assert child["parent_payment_id"] == parent_id


def test_scenarios_in_the_background_do_not_mix(simulator, receiver):
    ids = [simulator.new_id() for _ in range(20)]
    for payment_id in ids:
        assert simulator.play(payment_id, "happy", wait=False)["started"] is True
    until(lambda: all(receiver.statuses_of(payment_id) == HAPPY for payment_id in ids))
