"""An operator's repair by SQL is noticed, explained and booked; no corruption is (contract 2)."""

from collections.abc import Iterator

import pytest

from shared.errors import Refused
from shared.ledger.commands import Refund, Reserve
from tests.harness import make_id
from tests.ledger import CAMPAIGN, Ledger
from tests.reconciliation import Reconciling

RUNBOOK = (
    "UPDATE credit_lots SET available_micro = 0, consumed_micro = original_micro WHERE id = :id"
)
KEEPING_HOLD = (
    "UPDATE credit_lots SET available_micro = 0, consumed_micro = original_micro - reserved_micro"
    " WHERE id = :id"
)
WITH_HOLD = (
    "UPDATE credit_lots SET available_micro = 0, reserved_micro = 0,"
    " consumed_micro = original_micro WHERE id = :id"
)


@pytest.fixture
def desk(ledger: Ledger, redis_url: str) -> Iterator[Reconciling]:
    made = Reconciling(ledger, redis_url)
    yield made
    made.database.dispose()


def test_the_runbooks_repair_is_explained_and_the_books_sum_again(desk: Reconciling) -> None:
    """Runbook 4, Double-Credit: what it took is booked once, and the cache tells it at once."""
    ledger = desk.ledger
    account = ledger.funded(100)
    doubled = ledger.mint(account, 40)
    ledger.mint(account, 7, pool_id=CAMPAIGN)
    desk.fill(account, "general", CAMPAIGN)
    ledger.sql(RUNBOOK, id=doubled)
    assert len(ledger.breaches()) == 1
    done = desk.run()
    assert (done["passed"], ledger.breaches()) == (True, [])
    [check] = [one for one in done["result"]["checks"] if one["name"] == "operator_repairs"]
    [finding] = check["findings"]
    assert (check["passed"], check["severity"]) == (True, "info")
    assert (finding["kind"], finding["place"]) == ("operator_repair", doubled)
    assert finding["facts"]["takenMicro"] == "40"
    assert ledger.balance(account) == (100, 0, 0)
    assert ledger.entries(account)[-1] == ("adjust", -40, 140, 100)
    newest = ledger.history(account)["entries"][0]
    assert (newest["lotId"], newest["description"]) == (
        doubled,
        "Operator repair: the lot was changed by hand.",
    )
    assert desk.cached(account) == {
        "available_micro": 100, "reserved_micro": 0, "debt_micro": 0,
    }  # fmt: skip
    assert desk.cached(account, CAMPAIGN) == {
        "available_micro": 107, "reserved_micro": 0, "debt_micro": 0,
    }  # fmt: skip
    assert desk.audited("operator_repair_booked") == [("system", "reconciliation", account)]
    before = ledger.everything()
    again = desk.check("operator_repairs")
    assert (again["count"], ledger.everything()) == (0, before)


def test_what_happened_between_the_repair_and_the_run_does_not_matter(desk: Reconciling) -> None:
    ledger = desk.ledger
    account = ledger.funded(100)
    doubled = ledger.mint(account, 40, expires_at=None, pool_id=CAMPAIGN)
    ledger.finalize(ledger.reserve(account, 10, pool_id=CAMPAIGN), 10)
    ledger.sql(RUNBOOK, id=doubled)
    ledger.finalize(ledger.reserve(account, 50, pool_id=CAMPAIGN), 45)
    held = ledger.reserve(account, 20)
    assert ledger.refusal(Reserve(account, make_id(), 36)) == (Refused, "insufficient_credits")
    [finding] = desk.check("operator_repairs")["findings"]
    assert finding["facts"]["takenMicro"] == "30"
    assert ledger.breaches() == []
    assert ledger.balance(account, CAMPAIGN) == (35, 20, 0)
    ledger.release(held)
    assert ledger.balance(account, CAMPAIGN) == (55, 0, 0)


def test_a_repair_beside_a_pending_hold_leaves_the_hold_alone(desk: Reconciling) -> None:
    ledger = desk.ledger
    account = ledger.account()
    doubled = ledger.mint(account, 100)
    held = ledger.reserve(account, 40)
    assert ledger.sql(KEEPING_HOLD, id=doubled) == 1
    [finding] = desk.check("operator_repairs")["findings"]
    assert (finding["facts"]["takenMicro"], finding["facts"]["heldMicro"]) == ("60", "0")
    assert (ledger.balance(account), ledger.breaches()) == ((0, 40, 0), [])
    assert ledger.finalize(held, 30)["finalizedMicro"] == "30"
    assert (ledger.balance(account), ledger.lots(account)) == ((10, 0, 0), [(10, 0, 90)])


def test_a_repair_that_took_the_cover_of_a_hold_leaves_it_to_other_lots_and_debt(
    desk: Reconciling,
) -> None:
    ledger = desk.ledger
    account = ledger.account()
    doubled = ledger.mint(account, 100)
    held, second = ledger.reserve(account, 40), ledger.reserve(account, 20)
    assert ledger.sql(WITH_HOLD, id=doubled) == 1
    ledger.mint(account, 25)
    done = desk.run()
    [finding] = next(
        one["findings"] for one in done["result"]["checks"] if one["name"] == "operator_repairs"
    )
    assert (finding["facts"]["takenMicro"], finding["facts"]["heldMicro"]) == ("100", "60")
    assert (done["passed"], ledger.breaches()) == (True, [])
    assert (ledger.balance(account), ledger.entries(account)[-1]) == (
        (25, 0, 0),
        ("adjust", -40, 65, 25),
    )
    ledger.release(second)
    assert ledger.balance(account) == (25, 0, 0)
    assert ledger.finalize(held, 30)["debtMicro"] == "5"
    assert (ledger.balance(account), ledger.breaches()) == ((-5, 0, 5), [])


def test_a_refund_after_the_repair_takes_nothing_twice(desk: Reconciling) -> None:
    """What the operator took back is not owed when the provider pays the payer back, too."""
    ledger = desk.ledger
    account = ledger.account()
    doubled = ledger.mint(account, 40, "deposit", source_id="nowpay-1")
    ledger.finalize(ledger.reserve(account, 10), 10)
    ledger.sql(RUNBOOK, id=doubled)
    desk.run()
    refunded = ledger.answer(Refund(account, doubled))
    assert (refunded["clawedBackMicro"], refunded["debtMicro"]) == ("0", "10")


CORRUPTIONS = {
    "a balance without its lots": "UPDATE credit_balances SET available_micro = 140"
    " WHERE account_id = :id",
    "a balance beside a repair": "UPDATE credit_balances SET available_micro = 90"
    " WHERE account_id = :id",
    "held credits": "UPDATE credit_balances SET reserved_micro = 3 WHERE account_id = :id",
    "a lot that grew": "UPDATE credit_lots SET available_micro = 50, original_micro = 150,"
    " consumed_micro = 100 WHERE account_id = :id AND original_micro = 100",
    "spent credits that came back": "UPDATE credit_lots SET available_micro = 100,"
    " consumed_micro = 0 WHERE account_id = :id AND original_micro = 100",
    "a debt": "INSERT INTO credit_debts (id, account_id, debt_micro)"
    " SELECT 'd', id, 5 FROM credit_accounts WHERE id = :id",
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_stays_an_error_and_is_never_absorbed(desk: Reconciling, name: str) -> None:
    ledger = desk.ledger
    account = ledger.funded(100)
    ledger.finalize(ledger.reserve(account, 30), 30)
    if name == "a balance beside a repair":
        ledger.sql(RUNBOOK, id=ledger.mint(account, 40))
    ledger.sql(CORRUPTIONS[name], id=account)
    before, broken = ledger.everything(), ledger.breaches()
    done = desk.run()
    checks = {one["name"]: one for one in done["result"]["checks"]}
    assert checks["operator_repairs"]["count"] == 0
    assert (done["passed"], checks["ledger_sums"]["severity"]) == (False, "error")
    assert checks["ledger_sums"]["count"] == len(broken) > 0
    assert all(one["proposal"] for one in checks["ledger_sums"]["findings"])
    assert ledger.everything() == before
    ledger.is_sound_at_end = False


def test_the_proposal_for_a_changed_balance_mends_it(desk: Reconciling) -> None:
    ledger = desk.ledger
    account = ledger.funded(100)
    ledger.sql("UPDATE credit_balances SET available_micro = 7 WHERE account_id = :a", a=account)
    found = desk.check("ledger_sums")["findings"]
    [proposal] = [
        one["proposal"] for one in found if one["kind"] == "lots_minus_debts_equal_balances"
    ]
    ledger.sql(proposal[proposal.index("UPDATE") :])
    assert desk.run()["passed"] is True
