"""The daily run: what each check finds, where it is told, and that it is a job (behaviour 10)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.workers.schedule import EVERY_SECONDS
from shared.database import Database
from shared.errors import Unavailable
from shared.jobs import LEASE_SECONDS, claim
from shared.ledger import sweeps
from shared.messaging import TaskName
from shared.models.reconciliation import ReconciliationRun
from shared.operations.audit import Actor
from shared.reconciliation import runs, views
from shared.reconciliation.desk import Check
from tests.campaigns import Campaigns, Wish
from tests.command import arrakis, told
from tests.ledger import Ledger
from tests.reconciliation import NO_REDIS, Reconciling, verdicts
from tests.till import M, Till, work_of

ADA = Actor("admin", "ada")


@pytest.fixture
def desk(ledger: Ledger, redis_url: str) -> Iterator[Reconciling]:
    made = Reconciling(ledger, redis_url)
    yield made
    made.database.dispose()


def stored(desk: Reconciling, key: str) -> str:
    """Return a setting as the runbook's SQL reads it."""
    found = desk.ledger.rows("SELECT value FROM billing_config WHERE key = :key", key=key)
    return str(found[0][0]) if found else ""


def test_a_healthy_system_passes_every_check_and_the_result_is_stored(desk: Reconciling) -> None:
    """Behaviours 115 and 174 (W54): charges are split as they should be, and that is no breach."""
    ledger = desk.ledger
    account = ledger.funded(10 * M)
    for cost in (M, 3, 0):
        ledger.finalize(ledger.reserve(account, M), cost)
    sweeps.roll_up_revenue(ledger.database)
    Campaigns(ledger).granted(Campaigns(ledger).active(), Wish(account, 5))
    done = desk.run()
    assert done["passed"] is True
    found = verdicts(done)
    assert found.pop("provider_three_way") is None  # no key is set
    assert found == dict.fromkeys(
        (
            "balance_cache",
            "operator_repairs",
            "lot_balance_invariant",
            "zero_sum_distribution",
            "campaign_spent_grants",
            "orphan_reservations",
            "webhook_deposit_match",
            "ledger_sums",
        ),
        True,
    )
    result = json.loads(stored(desk, "last_reconciliation_result"))
    assert result == done["result"]
    assert result["notChecked"] == ["provider_three_way"]
    assert result["timestamp"] == stored(desk, "last_reconciliation_at") == done["doneAt"]
    assert result.keys() >= {"timestamp", "passed", "checks", "durationMs", "generation"}
    assert all(one.keys() >= {"name", "passed", "details", "severity"} for one in result["checks"])


def test_a_finished_payment_without_a_lot_is_found(desk: Reconciling) -> None:
    """Behaviours 116 and 175 (W55): with an amount and without."""
    till = Till(desk.ledger)
    till.paid()
    one = till.payment(status="finished", amount_usd_micro=5 * M)
    other = till.payment(status="finished")
    check = desk.check("webhook_deposit_match")
    assert (check["passed"], check["severity"], check["count"]) == (False, "warn", 2)
    assert {found["place"] for found in check["findings"]} == {one.id, other.id}
    assert check["findings"][0]["proposal"].startswith("arrakis payments replay cp_")
    desk.ledger.sql("UPDATE crypto_payments SET status = 'failed' WHERE id = :id", id=other.id)
    assert desk.check("webhook_deposit_match")["count"] == 1


def test_the_generation_counts_the_daily_runs(desk: Reconciling) -> None:
    """Behaviour 119: 1, 2, 3; persisted, and in the stored result."""
    assert stored(desk, "reconciliation_generation") == ""
    seen = []
    for number in (1, 2, 3):
        done = desk.run()
        desk.run("cache")
        assert stored(desk, "reconciliation_generation") == str(number)
        assert json.loads(stored(desk, "last_reconciliation_result"))["generation"] == number
        seen.append(done["generation"])
    assert seen == [1, 2, 3]


def test_a_hold_that_was_left_over_is_found_ten_minutes_after_its_end(desk: Reconciling) -> None:
    ledger = desk.ledger
    held = ledger.reserve(ledger.funded(100), 40, ttl_seconds=60)
    ledger.clock.advance(seconds=60 + 600)
    assert desk.check("orphan_reservations")["passed"] is True
    ledger.clock.advance(seconds=1)
    check = desk.check("orphan_reservations")
    assert (check["passed"], check["severity"]) == (False, "warn")
    assert [one["place"] for one in check["findings"]] == [held]
    assert check["counts"] == {"holds": 1}
    ledger.sweep()
    assert desk.check("orphan_reservations")["passed"] is True


def test_a_campaign_that_says_it_spent_other_than_it_granted_is_found(desk: Reconciling) -> None:
    ledger, campaigns = desk.ledger, Campaigns(desk.ledger)
    campaign = campaigns.active()
    campaigns.granted(campaign, *(Wish(one, 1000) for one in campaigns.wallets(2)))
    assert desk.check("campaign_spent_grants")["passed"] is True
    ledger.sql("UPDATE credit_campaigns SET spent_micro = 2001 WHERE id = :id", id=campaign)
    [finding] = desk.check("campaign_spent_grants")["findings"]
    assert (finding["place"], finding["facts"]) == (campaign, {"expected": "2000", "found": "2001"})
    assert [breach.invariant for breach in ledger.breaches()] == ["campaigns_spent_equal_grants"]
    ledger.is_sound_at_end = False


def test_a_check_that_fails_says_why_and_stops_no_other(
    desk: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError("no such thing")

    checks = (Check("broken", breaks), *runs.CHECKS["daily"][-2:])
    monkeypatch.setitem(runs.CHECKS, "daily", checks)
    done = desk.run()
    first, *others = done["result"]["checks"]
    assert (first["passed"], first["severity"]) == (False, "error")
    assert first["details"] == "The check failed: ZeroDivisionError('no such thing')"
    assert [one["passed"] for one in others] == [True, None]
    assert done["passed"] is False


def test_a_check_that_ends_its_process_is_given_up(desk: Reconciling) -> None:
    job = runs.request(desk.database, ADA, "daily").unwrap()
    for _ in range(4):
        assert claim(desk.database, ReconciliationRun, limit=1).ids == [job["runId"]]
        desk.ledger.clock.advance(seconds=LEASE_SECONDS + 1)
    assert runs.work_off(desk.desk) == 1
    [first] = desk.show(job["runId"])["result"]["checks"]
    assert (first["name"], first["passed"]) == ("balance_cache", False)
    desk.run()  # finishes the one that is open
    assert desk.show(job["runId"])["status"] == "completed"


def test_who_lost_the_lease_notes_nothing(
    desk: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> None:
        desk.ledger.clock.advance(seconds=LEASE_SECONDS + 1)
        assert claim(desk.database, ReconciliationRun, limit=1).ids

    monkeypatch.setitem(runs.CHECKS, "daily", (Check("slow", slow),))
    job = runs.request(desk.database, ADA, "daily").unwrap()
    runs.work_off(desk.desk)
    assert desk.show(job["runId"])["result"] == {}


def test_a_database_that_is_away_ends_no_run(
    desk: Reconciling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("gone", code="database_unavailable")

    job = runs.request(desk.database, ADA, "cache").unwrap()
    with monkeypatch.context() as patched:
        patched.setitem(runs.CHECKS, "cache", (Check("balance_cache", away),))
        with pytest.raises(Unavailable):
            runs.work_off(desk.desk)
    desk.ledger.clock.advance(seconds=2)
    assert runs.work_off(desk.desk) == 1
    assert desk.show(job["runId"])["passed"] is True


def test_one_run_of_a_kind_is_open_at_a_time(desk: Reconciling) -> None:
    first = runs.request(desk.database, ADA, "daily")
    second = runs.request(desk.database, Actor("admin", "ben"), "daily")
    other = runs.request(desk.database, ADA, "cache")
    assert first.unwrap()["runId"] == second.unwrap()["runId"] != other.unwrap()["runId"]
    assert (first.is_replay, second.is_replay) == (False, True)
    assert [row[1] for row in desk.audited("reconciliation_requested")] == ["ada", "ben", "ada"]
    with desk.database.reading() as tx:
        page = views.list_runs(tx, views.RunFilter(limit=1))
        rest = views.list_runs(tx, views.RunFilter(limit=1, after=page["nextCursor"]))
    assert [one["kind"] for one in page["runs"] + rest["runs"]] == ["cache", "daily"]
    assert rest["nextCursor"] is None


def test_the_clock_opens_the_runs(desk: Reconciling) -> None:
    """The cache every five minutes, the daily run a day after the last, first after the install."""
    ledger, work = desk.ledger, replace(work_of(desk.database), desk=desk.desk)
    ledger.clock.now = Database(ledger.url).clock()

    def done(kind: str) -> int:
        work.run(TaskName.RECONCILE_CACHE if kind == "cache" else TaskName.RECONCILE_DAILY)
        [[count]] = ledger.rows(
            "SELECT COUNT(*) FROM reconciliation_runs WHERE kind = :kind AND state = 'done'",
            kind=kind,
        )
        return int(count)

    assert EVERY_SECONDS[TaskName.RECONCILE_CACHE] == 300
    assert (done("cache"), done("cache"), done("daily")) == (1, 1, 0)
    ledger.clock.advance(seconds=300)
    assert (done("cache"), done("daily")) == (2, 0)
    ledger.clock.advance(hours=24)
    assert (done("daily"), done("daily")) == (1, 1)
    ledger.clock.advance(hours=23.9)
    assert done("daily") == 1
    ledger.clock.advance(hours=0.2)
    assert done("daily") == 2
    [[by]] = ledger.rows("SELECT DISTINCT requested_by FROM reconciliation_runs")
    assert by == "reconciliation"


def test_old_runs_are_forgotten_and_open_ones_never(desk: Reconciling) -> None:
    ledger = desk.ledger
    for _ in range(3):
        desk.run("cache")
    open_one = runs.request(desk.database, ADA, "daily").unwrap()["runId"]
    ledger.clock.now += timedelta(days=29)
    assert runs.sweep(desk.database) == 0
    kept = desk.run("cache")["runId"]
    ledger.clock.now += timedelta(days=2)
    assert (runs.sweep(desk.database), runs.sweep(desk.database)) == (3, 0)
    left = {row[0] for row in ledger.rows("SELECT id FROM reconciliation_runs")}
    assert left == {open_one, kept}


def command(desk: Reconciling, *words: str, redis_url: str | None = None) -> tuple[int, Any]:
    """Run the command in this process; return its exit code and what it told."""
    at = {"DATABASE_URL": desk.ledger.url, "REDIS_URL": redis_url or desk.redis_url}
    return told("reconcile", *words, **at)


def test_the_command_runs_it_here_and_its_exit_tells(desk: Reconciling) -> None:
    """Behaviour 138; exit 0 if all is right, 1 if not, 3 if only a dependency was away."""
    ledger = desk.ledger
    ledger.clock.now = Database(ledger.url).clock()
    assert command(desk, "show") == (0, {"lastReconciliationAt": None, "result": {}})
    code, shown = command(desk, "run", "--no-provider")
    assert (code, shown["passed"], shown["generation"]) == (0, True, 1)
    code, shown = command(desk, "run", "--no-provider", redis_url=NO_REDIS)
    assert (code, shown["result"]["notChecked"][0]) == (3, "balance_cache")
    payment = Till(ledger).payment(status="finished")
    code, shown = command(desk, "run", "--no-provider")
    assert (code, shown["passed"]) == (1, False)
    code, last = command(desk, "show")
    assert (code, last["result"]) == (1, shown["result"])
    assert command(desk, "show", shown["runId"]) == (1, shown)
    _, for_people, _ = arrakis("reconcile", "show", DATABASE_URL=ledger.url)
    assert f"arrakis payments replay {payment.id}" in for_people
    assert for_people.endswith("Something is wrong. Not checked: provider_three_way.\n")
    assert command(desk, "run", "--cache")[0] == 0
