"""Large mints: proposed by one person, approved by another, minted exactly once (contract 5)."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from shared.errors import NotFound
from shared.ledger.commands import Outcome
from shared.messaging import TaskName
from shared.operations import mint_proposals, mints
from shared.operations.audit import Actor, record
from shared.operations.mint_orders import MintOrder
from shared.operations.mint_proposals import ProposalFilter
from tests.harness import make_id, unique
from tests.ledger import Ledger
from tests.till import work_of

ADA, BOB = Actor("admin", "ada"), Actor("admin", "bob")
THRESHOLD, LARGE = 1_000_000_000, 2_000_000_000


def order(
    ledger: Ledger, account: str, amount: int = LARGE, by: Actor = ADA, **more: Any
) -> tuple[Outcome, bool]:
    fields = {"source_type": "grant", "pool_id": "general", **more}
    wanted = MintOrder(account_id=account, lot_id=make_id(), amount_micro=amount, **fields)
    return mints.mint(ledger.database, ledger.terms, by, wanted)


def proposed(ledger: Ledger, account: str, **more: Any) -> str:
    """Propose a large mint as ada and return the proposal's id."""
    outcome, is_proposal = order(ledger, account, **more)
    assert is_proposal
    return str(outcome.unwrap()["proposalId"])


def approve(ledger: Ledger, proposal: str, by: Actor = BOB) -> Outcome:
    return mint_proposals.approve(ledger.database, ledger.terms, by, proposal)


def decide(ledger: Ledger, how: Callable[..., Outcome], *arguments: Any) -> Outcome:
    with ledger.database.transaction() as tx:
        return how(tx, *arguments)


def shown(ledger: Ledger, proposal: str) -> dict[str, Any]:
    with ledger.database.reading() as tx:
        return mint_proposals.show(tx, proposal)


def listed(ledger: Ledger, **wanted: Any) -> list[str]:
    with ledger.database.reading() as tx:
        found = mint_proposals.list_proposals(tx, ProposalFilter(**wanted))
    return [one["proposalId"] for one in found["mintProposals"]]


def code(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.code


def acts(ledger: Ledger, target: str) -> list[tuple[str, str]]:
    """Return who did what to a proposal or an account."""
    return [
        (actor, action)
        for actor, action in ledger.rows(
            "SELECT actor_id, action FROM admin_audit_log WHERE target_id = :id ORDER BY id",
            id=target,
        )
    ]


def audit_mint(ledger: Ledger, by: Actor, amount_micro: int) -> None:
    """Let *by* have minted already, to some other account."""
    with ledger.database.transaction() as tx:
        details = {"amountMicro": str(amount_micro)}
        record(tx, by, "admin_mint", target_type="account", target_id="other", details=details)


def test_a_second_person_approves_what_is_too_large_for_one(ledger: Ledger) -> None:
    account = ledger.account()
    outcome, is_proposal = order(ledger, account, description="a season's prize", by=ADA)
    told = outcome.unwrap()
    assert (is_proposal, told["status"], told["proposedBy"]) == (True, "pending", "ada")
    assert ledger.balance(account) == (0, 0, 0)
    done = approve(ledger, told["proposalId"]).unwrap()
    assert (done["status"], done["approvedBy"]) == ("approved", "bob")
    assert ledger.rows(
        "SELECT id, original_micro FROM credit_lots WHERE account_id = :a", a=account
    )
    assert ledger.balance(account) == (LARGE, 0, 0)
    assert ledger.history(account)["entries"][0]["description"] == "a season's prize"
    assert acts(ledger, told["proposalId"]) == [
        ("ada", "mint_proposal_propose"),
        ("bob", "mint_proposal_approve"),
    ]
    [(actor, action, details)] = ledger.rows(
        "SELECT actor_id, action, details FROM admin_audit_log WHERE target_id = :a", a=account
    )
    facts = json.loads(details)
    assert (actor, action, facts["proposedBy"]) == ("bob", "admin_mint", "ada")
    assert facts["proposalId"] == facts["lotId"] == done["lotId"] == told["proposalId"]


def test_who_proposed_cannot_approve_whatever_they_act_by(ledger: Ledger) -> None:
    account = ledger.account()
    proposal = proposed(ledger, account)
    for same in (ADA, Actor("admin", "ada", address="10.0.0.9"), Actor("operator", "ada")):
        assert code(approve(ledger, proposal, same)) == "four_eyes_violation"
    assert (shown(ledger, proposal)["status"], ledger.balance(account)[0]) == ("pending", 0)
    assert acts(ledger, proposal)[1:] == [("ada", "mint_proposal_approve_refused")] * 3


def test_approvals_at_once_and_again_mint_exactly_once(ledger: Ledger) -> None:
    account, count = ledger.account(), 4
    proposal, start = proposed(ledger, account), Barrier(count)

    def try_it(number: int) -> Outcome:
        start.wait()
        return approve(ledger, proposal, Actor("admin", f"bob-{number // 2}"))

    with ThreadPoolExecutor(count) as threads:
        outcomes = list(threads.map(try_it, range(count)))
    done = [one for one in outcomes if one.error is None]
    # The other request of the one who came first is a repeat, those of the other person are late.
    assert sorted(one.is_replay for one in done) == [False, True]
    assert [code(one) for one in outcomes if one.error] == ["mint_proposal_state"] * 2
    assert done[0].answer == done[1].answer
    assert ledger.balance(account) == (LARGE, 0, 0)


def test_small_mints_to_many_accounts_need_a_second_person_above_a_hundred_times_the_threshold(
    ledger: Ledger,
) -> None:
    ledger.configure(four_eyes_threshold_micro="10")
    accounts = [ledger.account() for _ in range(4)]
    audit_mint(ledger, ADA, 10 * mints.ALL_ACCOUNTS_FACTOR - 20)
    assert not order(ledger, accounts[0], 10)[1]
    approve(ledger, proposed(ledger, accounts[0])).unwrap()  # two persons' mints count for neither
    assert not order(ledger, accounts[1], 10)[1]
    assert order(ledger, accounts[2], 1)[1]
    assert not order(ledger, accounts[2], 10, by=BOB)[1]
    ledger.clock.advance(hours=24)
    assert not order(ledger, accounts[3], 10)[1]
    assert [ledger.balance(one)[0] for one in accounts] == [10 + LARGE, 10, 10, 10]


def test_mints_at_once_to_many_accounts_are_summed_one_after_another(ledger: Ledger) -> None:
    ledger.configure(four_eyes_threshold_micro="1")
    count, accounts = 4, [ledger.account() for _ in range(4)]
    start = Barrier(count)
    audit_mint(ledger, ADA, mints.ALL_ACCOUNTS_FACTOR - 1)

    def try_it(account: str) -> bool:
        start.wait()
        return order(ledger, account, 1)[1]

    with ThreadPoolExecutor(count) as threads:
        assert sorted(threads.map(try_it, accounts)) == [False, True, True, True]
    assert sum(ledger.balance(one)[0] for one in accounts) == 1


def test_the_same_key_gives_the_same_proposal_also_after_its_end(ledger: Ledger) -> None:
    account, key = ledger.account(), unique("key")
    first, _ = order(ledger, account, idempotency_key=key)
    again, is_proposal = order(ledger, account, idempotency_key=key)
    assert (again.answer, again.is_replay, is_proposal) == (first.answer, True, True)
    other, _ = order(ledger, account, LARGE + 1, idempotency_key=key)
    assert code(other) == "idempotency_conflict"
    proposal = first.unwrap()["proposalId"]
    approve(ledger, proposal)
    ledger.configure(four_eyes_threshold_micro=str(2 * LARGE))  # even if one could do it now
    last, is_proposal = order(ledger, account, idempotency_key=key)
    assert (is_proposal, last.unwrap()["status"], last.is_replay) == (True, "approved", True)
    assert ledger.balance(account) == (LARGE, 0, 0)
    assert acts(ledger, proposal)[1] == ("ada", "mint_proposal_propose_refused")


def test_a_large_mint_in_small_parts_needs_a_second_person_too(ledger: Ledger) -> None:
    account, other, part = ledger.account(), ledger.account(), THRESHOLD // 2
    assert [order(ledger, account, part)[1] for _ in range(3)] == [False, False, True]
    assert order(ledger, account, 1, Actor("operator", "ada"))[1]
    assert not order(ledger, account, part, BOB)[1]  # each has their own part
    assert not order(ledger, other, part)[1]
    assert ledger.balance(account)[0] == 3 * part
    ledger.clock.advance(hours=24, seconds=1)
    assert not order(ledger, account, part)[1]


def test_what_a_second_person_approved_counts_for_nobodys_part(ledger: Ledger) -> None:
    account = ledger.account()
    approve(ledger, proposed(ledger, account)).unwrap()
    assert not order(ledger, account, THRESHOLD, BOB)[1]


def test_parts_at_the_same_time_are_counted_one_by_one(ledger: Ledger) -> None:
    account, count = ledger.account(), 4
    start = Barrier(count)

    def try_it(_: int) -> bool:
        start.wait()
        return order(ledger, account, THRESHOLD // 2)[1]

    with ThreadPoolExecutor(count) as threads:
        assert sorted(threads.map(try_it, range(count))) == [False, False, True, True]
    assert ledger.balance(account)[0] == THRESHOLD


def test_what_could_not_be_minted_is_not_proposed(ledger: Ledger) -> None:
    outcome, is_proposal = order(ledger, unique("nobody"))
    assert (code(outcome), is_proposal) == ("account_not_found", False)
    ledger.configure(ceiling_micro=str(LARGE - 1))
    assert code(order(ledger, ledger.account())[0]) == "amount_above_ceiling"
    assert listed(ledger) == []


def fail_by_ceiling(ledger: Ledger, _account: str) -> str:
    ledger.configure(ceiling_micro=str(LARGE - 1))
    return "amount_above_ceiling"


def fail_by_payment(ledger: Ledger, account: str) -> str:
    minted, _ = order(ledger, account, 5, payment_id="5745459419")
    minted.unwrap()
    return "already_credited"


def fail_by_key(ledger: Ledger, account: str) -> str:
    [proposal] = listed(ledger)
    ledger.configure(four_eyes_threshold_micro=str(LARGE))
    fields = {"source_type": "deposit", "payment_id": "5745459419", "idempotency_key": proposal}
    order(ledger, account, by=BOB, **fields)[0].unwrap()
    return "already_minted"


@pytest.mark.parametrize("spoil", [fail_by_ceiling, fail_by_payment, fail_by_key])
def test_an_approval_that_the_ledger_refuses_ends_the_proposal(
    ledger: Ledger, spoil: Callable[[Ledger, str], str]
) -> None:
    account = ledger.account()
    proposal = proposed(ledger, account, source_type="deposit", payment_id="5745459419")
    why = spoil(ledger, account)
    before = ledger.balance(account)
    assert code(approve(ledger, proposal)) == why
    ended = shown(ledger, proposal)
    assert (ended["status"], ended["reason"], ended["approvedBy"]) == ("failed", why, "bob")
    assert (ended["lotId"], ledger.balance(account)) == (None, before)
    assert code(approve(ledger, proposal)) == "mint_proposal_state"
    assert [action for _, action in acts(ledger, proposal)[1:]] == [
        "mint_proposal_fail",
        "mint_proposal_approve_refused",
    ]


def test_a_proposal_is_rejected_with_a_reason_or_withdrawn_by_who_made_it(ledger: Ledger) -> None:
    account = ledger.account()
    first, second = proposed(ledger, account), proposed(ledger, account)
    rejected = decide(ledger, mint_proposals.reject, BOB, first, "no such prize").unwrap()
    assert (rejected["status"], rejected["rejectedBy"]) == ("rejected", "bob")
    assert rejected["reason"] == "no such prize"
    assert code(decide(ledger, mint_proposals.withdraw, BOB, second)) == "not_the_proposer"
    assert decide(ledger, mint_proposals.withdraw, ADA, second).unwrap()["status"] == "withdrawn"
    for proposal in (first, second):
        assert code(approve(ledger, proposal)) == "mint_proposal_state"
        assert code(decide(ledger, mint_proposals.reject, BOB, proposal, "x")) == (
            "mint_proposal_state"
        )
    assert ledger.balance(account) == (0, 0, 0)
    assert acts(ledger, second)[1:3] == [
        ("bob", "mint_proposal_withdraw_refused"),
        ("ada", "mint_proposal_withdraw"),
    ]


def test_what_nobody_approves_in_time_expires_swept_or_not(ledger: Ledger) -> None:
    account = ledger.account()
    ledger.configure(mint_proposal_expiry_hours="1")
    late, never = proposed(ledger, account), proposed(ledger, account)
    work = work_of(ledger.database)
    assert work.run(TaskName.EXPIRE_MINT_PROPOSALS) == 0
    ledger.clock.advance(hours=1)
    assert [shown(ledger, one)["status"] for one in (late, never)] == ["expired"] * 2
    assert (listed(ledger, status="pending"), listed(ledger, status="expired")) == (
        [],
        [late, never],
    )
    assert code(approve(ledger, late)) == "mint_proposal_state"
    assert work.run(TaskName.EXPIRE_MINT_PROPOSALS) == 1
    assert listed(ledger, status="expired") == [late, never]
    assert acts(ledger, never)[1:] == [("mint-proposal-expirer", "mint_proposal_expire")]
    assert ledger.balance(account) == (0, 0, 0)


def test_the_list_is_filtered_and_paged_without_overlap(ledger: Ledger) -> None:
    account, other = ledger.account(), ledger.account()
    made = [proposed(ledger, one) for one in (account, other, account)]
    approve(ledger, made[0])
    assert listed(ledger) == made
    assert listed(ledger, status="pending") == made[1:]
    assert listed(ledger, account_id=account) == [made[0], made[2]]
    with ledger.database.reading() as tx:
        page = mint_proposals.list_proposals(tx, ProposalFilter(limit=2))
    assert page["nextCursor"] == made[1]
    assert listed(ledger, after=page["nextCursor"]) == made[2:]


def test_what_does_not_exist_is_not_found_and_the_attempt_is_audited(ledger: Ledger) -> None:
    nothing = unique("proposal")
    assert code(approve(ledger, nothing)) == "mint_proposal_not_found"
    with pytest.raises(NotFound):
        shown(ledger, nothing)
    assert acts(ledger, nothing) == [("bob", "mint_proposal_approve_refused")]


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("status = 'approved', approved_by = 'ada', decided_at = proposed_at", "four_eyes"),
        ("status = 'approved', decided_at = proposed_at", "approved_by"),
        ("status = 'rejected', decided_at = proposed_at", "rejected_by"),
        ("status = 'withdrawn'", "decided_at"),
        ("amount_micro = 0", "amount_micro"),
    ],
)
def test_the_database_itself_refuses_a_wrong_decision(
    ledger: Ledger, change: str, broken: str
) -> None:
    proposal = proposed(ledger, ledger.account())
    with pytest.raises(DBAPIError, match=f"ck_mint_proposals_{broken}"):
        ledger.sql(f"UPDATE mint_proposals SET {change}")
    assert shown(ledger, proposal)["expiresAt"] == (
        (ledger.clock.now + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%S.123Z")
    )
