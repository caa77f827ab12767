"""The rehearsal of the modes: real rules, a sandbox, evidence, nothing left behind (runbook 2)."""

import json
from typing import Any

import pytest

from shared.alerts import counts
from shared.ledger.commands import Mint
from shared.ledger.terms import Mode
from shared.models.ledger import REHEARSAL_ACCOUNT
from shared.operations import modes, rehearsal
from shared.operations.audit import Actor
from shared.operations.rehearsal import ALL_MODES, CHECKS
from tests.command import arrakis, told
from tests.harness import make_id
from tests.ledger import Ledger

OPERATOR = Actor("operator", "ops")
EVERYTHING = [(mode, check) for mode in ALL_MODES for check in CHECKS]


def rehearse(ledger: Ledger, *wanted: Mode) -> dict[str, Any]:
    return rehearsal.rehearse(ledger.database, ledger.terms, OPERATOR, wanted or ALL_MODES)


def items(ledger: Ledger) -> dict[str, dict[str, Any]]:
    with ledger.database.reading() as tx:
        return {one["id"]: one for one in modes.show_readiness(tx)["items"]}


def of_others(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of money that is not the sandbox's, and all dead letters."""
    mine = f"WHERE account_id <> '{REHEARSAL_ACCOUNT}'"
    tables = (
        "credit_lots", "credit_balances", "credit_ledger", "credit_reservations", "credit_debts",
    )  # fmt: skip
    found = {name: sorted(ledger.rows(f"SELECT * FROM {name} {mine}"), key=repr) for name in tables}
    return found | {"letters": ledger.rows("SELECT * FROM billing_dlq")}


def entries(ledger: Ledger) -> list[tuple[str, int]]:
    return [(kind, amount) for kind, amount, *_ in ledger.entries(REHEARSAL_ACCOUNT, "rehearsal")]


def test_each_mode_answers_as_it_says_and_the_sandbox_is_neutral_afterwards(
    ledger: Ledger,
) -> None:
    """Behaviour 6.1: 402, clawback and dead letters verified in each mode."""
    ledger.configure(billing_mode="shadow")
    account = ledger.funded(5_000)
    ledger.finalize(ledger.reserve(account, 100), 90)
    before = of_others(ledger)
    found = rehearse(ledger)
    assert found["passed"]
    assert [(one["mode"], one["check"]) for one in found["checks"]] == EVERYTHING
    by = {(one["mode"], one["check"]): one for one in found["checks"]}
    assert by["shadow", "402"]["overdraftMicro"] == "0"
    assert by["soft", "402"]["overdraftMicro"] == "1000"
    assert by["live", "402"]["answer"] == "402 insufficient_credits"
    assert [by[mode, "refund"]["heldMicro"] for mode in ALL_MODES] == ["0", "400", "400"]
    assert of_others(ledger) == before
    assert ledger.balance(REHEARSAL_ACCOUNT, "rehearsal") == (0, 0, 0)
    assert sum(amount for kind, amount in entries(ledger) if "shadow" not in kind) == 0
    assert {status for (status,) in ledger.rows(
        "SELECT status FROM credit_reservations WHERE account_id = 'rehearsal'"
    )} == {"released"}  # fmt: skip
    assert ledger.rows("SELECT COUNT(*) FROM credit_lots WHERE account_id LIKE 'sys-%'") == [(0,)]
    assert ledger.breaches() == []


def test_the_entries_of_each_mode_are_those_of_its_rules(ledger: Ledger) -> None:
    rehearse(ledger, "live")
    healed = [("grant", 1_000), ("refund", -1_000)]
    held = [("grant", 1_000), ("reserve", -400), ("refund", -600), ("release", 400),
            ("refund", -400)]  # fmt: skip
    assert entries(ledger) == [*held, *healed]
    rehearse(ledger, "soft")
    assert entries(ledger)[7:] == [("reserve", 0), *held, *healed]
    rehearse(ledger, "shadow")
    in_shadow = [("grant", 1_000), ("shadow_reserve", 400), ("refund", -1_000)]
    assert entries(ledger)[15:] == [("shadow_reserve", 1_000), *in_shadow, *healed]


def test_a_rehearsal_may_be_repeated_and_is_the_checklists_evidence(ledger: Ledger) -> None:
    ledger.configure(billing_mode="shadow")
    assert {items(ledger)[f"{mode}_{check}"]["met"] for mode, check in EVERYTHING} == {"no"}
    rehearse(ledger, "live")
    found = items(ledger)
    assert [found[f"live_{check}"]["met"] for check in CHECKS] == ["yes"] * 3
    assert [found[f"soft_{check}"]["met"] for check in CHECKS] == ["no"] * 3
    [evidence] = found["live_402"]["evidence"]
    assert (evidence["from"], evidence["by"], evidence["passed"]) == ("rehearsal", "ops", True)
    assert rehearse(ledger)["passed"]
    assert rehearse(ledger)["passed"]
    found = items(ledger)
    assert {found[f"{mode}_{check}"]["met"] for mode, check in EVERYTHING} == {"yes"}
    assert found["shadow_days"]["figures"] == {"daysWithHolds": 0, "holds": 0}  # it is no usage
    assert found["dead_letters_worked_off"]["figures"] == {"byStatus": {}}
    ledger.clock.advance(hours=31 * 24)
    assert items(ledger)["live_402"]["met"] == "no"


def test_every_check_is_audited_with_its_mode_and_what_it_made(ledger: Ledger) -> None:
    rehearse(ledger, "soft")
    found = ledger.rows(
        "SELECT actor_id, target_type, target_id, details FROM admin_audit_log"
        " WHERE action = 'mode_rehearsed' ORDER BY id"
    )
    assert [row[:3] for row in found] == [("ops", "mode", "soft")] * 3
    details = [json.loads(row[3]) for row in found]
    assert [(one["check"], one["passed"]) for one in details] == [(c, True) for c in CHECKS]
    lots = {row[0] for row in ledger.rows("SELECT id FROM credit_lots")}
    assert {details[1]["lotId"], details[2]["lotId"]} == lots


def test_a_check_that_fails_keeps_nothing_but_the_evidence_and_is_told(ledger: Ledger) -> None:
    """A ceiling below the rehearsal's amounts stands for a ledger that does not do as it should."""
    ledger.configure(billing_mode="shadow")
    assert rehearse(ledger)["passed"]
    before = ledger.everything()
    ledger.configure(ceiling_micro="999")
    found = rehearse(ledger, "soft")
    assert [(one["check"], one["passed"]) for one in found["checks"]] == [
        ("402", False), ("refund", False), ("dlq", False),
    ]  # fmt: skip
    assert "ceiling" in found["checks"][0]["because"]
    assert ledger.everything() == before
    assert ledger.rows("SELECT * FROM billing_dlq") == []
    item = items(ledger)["soft_402"]
    assert (item["met"], item["value"]) == ("no", "rehearsal failed")
    ledger.configure(ceiling_micro="100000000000")
    rehearse(ledger, "soft")
    assert items(ledger)["soft_402"]["met"] == "yes"


class CrashError(Exception):
    """The process dies."""


class Dying:
    """An operator who dies while the evidence of a check is written, after *lives* others."""

    kind, id, address, user_agent = "operator", "ops", None, None

    def __init__(self, lives: int) -> None:
        self.lives = lives

    @property
    def correlation_id(self) -> None:
        if self.lives == 0:
            raise CrashError
        self.lives -= 1


@pytest.mark.parametrize("lives", range(3))
def test_a_crash_before_the_commit_leaves_nothing_for_the_next_run_to_clean(
    ledger: Ledger, lives: int
) -> None:
    with pytest.raises(CrashError):
        rehearsal.rehearse(ledger.database, ledger.terms, Dying(lives), ["soft"])
    assert len(ledger.rows("SELECT id FROM admin_audit_log")) == lives
    # A check that died has left no lot, no hold and no letter: one lot for each that committed.
    assert len(ledger.rows("SELECT id FROM credit_lots")) == max(0, lives - 1)
    assert ledger.rows("SELECT * FROM billing_dlq") == []
    assert rehearse(ledger)["passed"]
    assert ledger.balance(REHEARSAL_ACCOUNT, "rehearsal") == (0, 0, 0)


def test_what_somebody_put_into_the_sandbox_stays_theirs(ledger: Ledger) -> None:
    rehearse(ledger, "live")
    ledger.answer(Mint(REHEARSAL_ACCOUNT, make_id(), 5_000, "grant"))
    hold = ledger.reserve(REHEARSAL_ACCOUNT, 700)
    found = rehearse(ledger)
    assert found["passed"]
    assert found["checks"][0]["askedMicro"] == "5300"
    assert ledger.balance(REHEARSAL_ACCOUNT) == (4_300, 700, 0)
    ledger.release(hold)


def test_real_events_are_evidence_on_days_of_one_mode_only(ledger: Ledger) -> None:
    for mode in ("shadow", "soft"):
        ledger.configure(billing_mode=mode)
        ledger.clock.advance(hours=24)
        account = ledger.funded(100)
        ledger.release(ledger.reserve(account, 101))
        ledger.sql(
            "INSERT INTO billing_dlq (id, operation_type, payload, status, completed_at)"
            " VALUES (:id, 'webhook', '{}', 'completed', :now)",
            id=f"dlq_{mode}",
            now=str(ledger.clock.now.date()),
        )
    found = items(ledger)
    for one in ("shadow_402", "shadow_dlq", "soft_402", "soft_dlq"):
        assert (found[one]["met"], found[one]["evidence"]) == (
            "yes", [{"from": "events", "count": 1}],
        )  # fmt: skip
    assert [found[f"{mode}_refund"]["met"] for mode in ALL_MODES] == ["no"] * 3
    assert found["live_402"]["met"] == "no"
    with ledger.database.transaction() as tx:
        counts.add(tx, counts.REFUSED_402, 3)  # as the API does for what leaves no row
    assert items(ledger)["live_402"]["evidence"] == [{"from": "events", "count": 3}]
    ledger.configure(billing_mode="live")
    ledger.reserve(account, 1)  # now the day has two modes, and its letter tells of neither
    assert (items(ledger)["soft_dlq"]["met"], items(ledger)["shadow_dlq"]["met"]) == ("no", "yes")
    ledger.sql(
        "INSERT INTO admin_audit_log (id, actor_type, actor_id, action, target_type, target_id)"
        " VALUES ('a', 'operator', 'ops', 'dlq_resolve', 'dead_letter', 'dlq_shadow')"
    )
    assert items(ledger)["shadow_dlq"]["met"] == "no"  # a person closed it, not a retry


def test_the_command_and_the_api_rehearse(ledger: Ledger, redis_url: str, api_of: Any) -> None:
    at = {"DATABASE_URL": ledger.url, "REDIS_URL": redis_url}
    code, output, _ = arrakis("mode", "rehearse", "--mode", "live", **at)
    assert (code, output.splitlines()[1].split()) == (0, ["passed", "live", "402"])
    assert told("mode", "rehearse", **at)[1]["passed"] is True
    assert "the rehearsal of 2" in arrakis("mode", "readiness", **at)[1]
    assert arrakis("mode", "rehearse", "--mode", "free", **at)[0] == 2
    ledger.configure(ceiling_micro="5")
    code, output, _ = arrakis("mode", "rehearse", **at)
    assert (code, output.count("FAILED")) == (1, 9)
    ledger.configure(ceiling_micro="100000000000")
    api, path = api_of(ledger.url), "/admin/billing/mode/rehearse"
    assert api.post(path, {}, headers=api.admin(scopes=["billing:read"])).status_code == 403
    assert api.post(path, {"mode": "free"}, headers=api.admin()).status_code == 400
    done = api.post(path, {"mode": "soft"}, headers=api.admin())
    assert (done.status_code, done.json()["passed"], len(done.json()["checks"])) == (200, True, 3)
