"""Long lists of grants: in chunks, stopped, resumed, killed, raced (behaviours 176-178, W57)."""

import os
import signal
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.workers.schedule import beat_schedule
from shared.campaigns import granting, working
from shared.campaigns.lists import Wish
from shared.campaigns.states import Action
from shared.database import Database, DatabaseBusy
from shared.jobs import LEASE_SECONDS
from shared.messaging import TaskName
from shared.operations import ticks
from tests.campaigns import Campaigns, M
from tests.harness import service, service_environment, wait_until, worker
from tests.ledger import Ledger
from tests.ledger_processes import race
from tests.till import work_of


@pytest.fixture
def desk(ledger: Ledger) -> Campaigns:
    return Campaigns(ledger)


@pytest.fixture
def present(desk: Campaigns) -> Campaigns:
    """A desk that lives in the present, as other processes do."""
    desk.ledger.clock.now = Database(desk.ledger.url).clock()
    return desk


def state(desk: Campaigns, campaign: str, batch: str) -> tuple[str, int, int]:
    told = desk.batch(campaign, batch)
    return told["status"], told["done"], told["totalGranted"]


def test_a_list_is_worked_off_in_chunks_with_progress(desk: Campaigns) -> None:
    campaign, wallets = desk.active(), desk.wallets(1200)
    batch = desk.queue(campaign, [Wish(w, 1000) for w in wallets])
    with desk.ledger.database.reading() as tx:
        assert ("ledger", "grant_lists", 1) in [
            (lag.queue, lag.kind, lag.rows) for lag in ticks.lags(tx)
        ]
    seen = [state(desk, campaign, batch)]
    for _ in range(3):
        assert desk.work() > 0
        seen.append(state(desk, campaign, batch))
    assert seen == [
        ("queued", 0, 0),
        ("running", 500, 500),
        ("running", 1000, 1000),
        ("completed", 1200, 1200),
    ]
    assert desk.work() == 0
    assert desk.spent(campaign) == 1_200_000
    assert desk.show(campaign)["committedMicro"] == "0"
    assert desk.audited(campaign)[-2:] == ["batch_grant", "grant_list_done"]


def test_a_list_that_is_taken_has_its_budget_for_sure(desk: Campaigns) -> None:
    """W57: what waits is committed; what another list has named takes nothing."""
    campaign, wallets = desk.active(budget_micro=5 * M), desk.wallets(5)
    first = desk.queue(campaign, [Wish(w, M) for w in wallets[:3]])
    assert desk.show(campaign)["committedMicro"] == "3000000"
    refused = desk.refusal(campaign, *(Wish(w, M) for w in wallets[3:]), Wish("other", M))
    assert refused.code == "budget_exceeded"
    again = desk.queue(campaign, [Wish(w, M) for w in wallets])
    desk.work_all()
    told = [desk.batch(campaign, one) for one in (first, again)]
    assert [(t["totalGranted"], t["totalExisting"]) for t in told] == [(3, 0), (2, 3)]
    assert desk.spent(campaign) == 5 * M


@pytest.mark.parametrize("is_by_sql", [True, False])
def test_a_pause_stops_a_running_list_and_an_activation_lets_it_go_on(
    desk: Campaigns, *, is_by_sql: bool
) -> None:
    """Behaviour 178, W58, runbook R21."""
    campaign, wallets = desk.active(), desk.wallets(1100)
    batch = desk.queue(campaign, [Wish(w, 1000) for w in wallets])
    desk.work()
    if is_by_sql:
        desk.ledger.sql("UPDATE credit_campaigns SET status = 'paused' WHERE id = :i", i=campaign)
    else:
        desk.move(campaign, Action.PAUSE).unwrap()
    for _ in range(5):
        desk.work_all()
        desk.ledger.clock.advance(seconds=30)
    assert state(desk, campaign, batch) == ("paused", 500, 500)
    assert desk.spent(campaign) == 500_000
    desk.work_all()
    desk.move(campaign, Action.ACTIVATE).unwrap()
    assert [desk.work() for _ in range(3)] == [500, 100, 0]
    assert state(desk, campaign, batch) == ("completed", 1100, 1100)


@pytest.mark.parametrize("ends_by_time", [True, False])
def test_what_is_left_of_a_list_is_not_granted_when_its_campaign_ends(
    desk: Campaigns, *, ends_by_time: bool
) -> None:
    """Behaviour 178."""
    campaign, wallets = desk.active(lasts_seconds=100), desk.wallets(600)
    batch = desk.queue(campaign, [Wish(w, 1000) for w in wallets])
    desk.work()
    if ends_by_time:
        desk.ledger.clock.advance(seconds=100)
    else:
        desk.move(campaign, Action.COMPLETE).unwrap()
    desk.work_all()
    told = desk.batch(campaign, batch)
    reason = "campaign_expired" if ends_by_time else "campaign_completed"
    assert (told["status"], told["stopReason"], told["totalGranted"]) == ("stopped", reason, 500)
    assert (desk.spent(campaign), desk.show(campaign)["committedMicro"]) == (500_000, "0")
    assert desk.audited(campaign)[-1] == "grant_list_stopped"


def test_failures_are_named_and_stop_nobody(desk: Campaigns) -> None:
    campaign, wallets = desk.active(), desk.wallets(3)
    wishes = [Wish("nobody", 7), *(Wish(w, 1000) for w in wallets)]
    batch = desk.queue(campaign, wishes)
    desk.work_all()
    told = desk.batch(campaign, batch)
    assert told["failures"] == [
        {"accountId": "nobody", "amountMicro": "7", "error": "account_not_found"}
    ]
    assert (told["totalGranted"], told["totalFailed"]) == (3, 1)
    again = desk.queue(campaign, wishes)
    desk.work_all()
    assert desk.batch(campaign, again)["totalExisting"] == 3
    assert desk.spent(campaign) == 3000


def test_an_item_that_breaks_its_chunk_fails_alone(
    desk: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, wallets = desk.active(), desk.wallets(4)
    batch = desk.queue(campaign, [Wish(w, 1000) for w in wallets])
    usual = granting.post

    def broken(tx: object, mints: list, terms: object) -> list:
        if any(mint.account_id == wallets[1] for mint in mints):
            raise RuntimeError("a bug")
        return usual(tx, mints, terms)

    monkeypatch.setattr(granting, "post", broken)
    with capture_logs():
        for _ in range(10):
            desk.work_all()
            desk.ledger.clock.advance(seconds=60)
    told = desk.batch(campaign, batch)
    assert (told["status"], told["totalGranted"]) == ("completed", 3)
    assert [one["accountId"] for one in told["failures"]] == [wallets[1]]
    assert desk.spent(campaign) == 3000


def test_a_database_that_is_busy_costs_a_list_no_attempt(
    desk: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign, wallets = desk.active(), desk.wallets(2)
    batch = desk.queue(campaign, [Wish(w, 1000) for w in wallets])

    def busy(*_: object) -> None:
        raise DatabaseBusy("busy")

    with monkeypatch.context() as patched:
        patched.setattr(granting, "post", busy)
        with pytest.raises(DatabaseBusy):
            desk.work()
    assert desk.ledger.rows("SELECT attempts, lease_token FROM grant_batches") == [(0, None)]
    desk.ledger.clock.advance(seconds=3)
    desk.work_all()
    assert state(desk, campaign, batch) == ("completed", 2, 2)


def test_who_has_lost_the_lease_grants_nothing(
    desk: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that slept past its lease finds another one at work."""
    campaign, wallets = desk.active(), desk.wallets(3)
    batch = desk.queue(campaign, [Wish(w, 1000) for w in wallets])
    usual = working.claim

    def slow(*args: object, **more: object) -> object:
        held = usual(*args, **more)
        desk.ledger.clock.advance(seconds=LEASE_SECONDS)
        monkeypatch.setattr(working, "claim", usual)
        desk.work_all()
        return held

    monkeypatch.setattr(working, "claim", slow)
    assert desk.work() == 0
    assert state(desk, campaign, batch) == ("completed", 3, 3)
    assert desk.spent(campaign) == 3000


def test_two_processes_never_exceed_one_budget(present: Campaigns) -> None:
    """Behaviour 177, W57: 20 of 60 fit, whoever comes first."""
    campaign = present.active(budget_micro=20_000)
    wallets = present.wallets(60)
    reports = race(
        present.ledger.url,
        *[("granting", campaign, "1000", *wallets[half::2]) for half in (0, 1)],
    )
    counts = {code: sum(one.get(code, 0) for one in reports) for code in reports[0] | reports[1]}
    assert counts == {"ok": 20, "budget_exceeded": 40}
    assert present.spent(campaign) == 20_000


def test_two_processes_with_the_same_wallets_grant_each_once(present: Campaigns) -> None:
    """Behaviours 176 and 177: batches at once, and lists beside each other."""
    campaign, wallets = present.active(), present.wallets(200)
    race(present.ledger.url, *[("granting", campaign, "1000", *wallets[:30])] * 2)
    reports = race(present.ledger.url, *[("listing", campaign, "1000", *wallets)] * 2)
    assert [code for code, _ in reports] == ["ok", "ok"]
    present.ledger.clock.now = Database(present.ledger.url).clock()
    present.work_all()
    assert present.spent(campaign) == 200_000
    assert len(present.ledger.rows("SELECT 1 FROM credit_lots")) == 200


def test_a_worker_that_is_killed_in_the_middle_loses_and_doubles_nothing(
    present: Campaigns, redis_url: str, tmp_path: Path
) -> None:
    """A real worker, kill -9, and another one: each of 5,000 wallets is granted once."""
    campaign, wallets = present.active(budget_micro=5_000_000), present.wallets(5000)
    batch = present.queue(campaign, [Wish(w, 1000) for w in wallets])
    environment = service_environment(present.ledger.url, redis_url)
    with service(worker("ledger"), environment, None, tmp_path / "first.log") as first:
        wait_until("a chunk", lambda: state(present, campaign, batch)[1] >= 500, seconds=40)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(10)
    status, done, granted = state(present, campaign, batch)
    assert (status, granted) == ("running", done)
    assert 500 <= done < 5000
    assert present.spent(campaign) == done * 1000
    # As if the lease of the killed one had lapsed, which takes a minute.
    present.ledger.sql("UPDATE grant_batches SET lease_until = created_at")
    with service(worker("ledger"), environment, None, tmp_path / "second.log"):
        wait_until(
            "the rest",
            lambda: state(present, campaign, batch) == ("completed", 5000, 5000),
            seconds=60,
        )
    assert present.spent(campaign) == 5_000_000
    assert present.ledger.rows("SELECT COUNT(*), SUM(original_micro) FROM credit_lots") == [
        (5000, 5_000_000)
    ]


def test_a_list_as_long_as_may_be_is_taken_at_once_and_worked_off_as_it_comes(
    desk: Campaigns,
) -> None:
    """The length of the time is told by docs/campaigns.md; here the list is smaller."""
    count = int(os.environ.get("GRANT_WALLETS", "5000"))
    campaign, wallets = desk.active(config={"amountMicro": "50"}), desk.wallets(count)
    began = time.monotonic()
    batch = desk.queue(campaign, [Wish(w) for w in wallets])
    taken = time.monotonic()
    desk.work_all()
    print(f"{count} wallets: taken {taken - began:.1f} s, {time.monotonic() - taken:.1f} s")  # noqa: T201
    assert state(desk, campaign, batch) == ("completed", count, count)
    assert desk.spent(campaign) == 50 * count


def test_lists_are_on_the_schedule_of_the_ledgers_workers(desk: Campaigns) -> None:
    planned = beat_schedule()["ledger.grant_lists"]
    assert (planned["schedule"] <= 5, planned["options"]["queue"]) == (True, "ledger")
    campaign, [wallet] = desk.active(), desk.wallets(1)
    desk.queue(campaign, [Wish(wallet, M)])
    assert work_of(desk.ledger.database).run(TaskName.GRANT_LISTS) == 1
    assert desk.spent(campaign) == M
