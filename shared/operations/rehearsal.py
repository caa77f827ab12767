"""The rehearsal of a mode: what the runbook wants verified, done on a sandbox account (runbook 2).

The real rules on the real database, each check in one transaction with its evidence, so a crash
leaves nothing behind. Nothing is finalized, so no revenue flows and nobody else's row is touched;
what a check made is neutral when it commits, or the check has failed and nothing of it is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import delete, func, select

from shared.clock import add_seconds, to_wire
from shared.database import Database, Tx, patiently
from shared.errors import ArrakisError, NotFound, Refused, Unavailable
from shared.ids import new_id
from shared.ledger import queries
from shared.ledger.accounts import create_account
from shared.ledger.book import post
from shared.ledger.commands import Command, Mint, Outcome, Refund, Release, Reserve
from shared.ledger.terms import Mode, Terms, TermsCache
from shared.models.ledger import REHEARSAL_ACCOUNT, Account, Entry, Lot, Reservation
from shared.models.operations import DeadLetter
from shared.operations import dlq
from shared.operations.audit import Actor, record

ALL_MODES: tuple[Mode, ...] = ("shadow", "soft", "live")
ACTION, TARGET = "mode_rehearsed", "mode"
AMOUNT_MICRO = 1_000
HELD_MICRO = 400
_POOL = "rehearsal"
_LETTER = "refund"
_LATEST_RETRY = 1.1  # a retry may come 10 % later than its delay


class _CheckError(Exception):
    """What a check found is not what the mode says."""


@dataclass(frozen=True)
class _Stage:
    """The transaction of one check, and the terms with the mode that is rehearsed."""

    tx: Tx
    terms: Terms

    def do(self, command: Command) -> Outcome:
        """Carry out *command* as the executor does."""
        return post(self.tx, [command], self.terms)[0]

    def balance(self) -> Mapping[str, str]:
        """Return the balance of the sandbox as callers see it."""
        return queries.balance(self.tx, REHEARSAL_ACCOUNT, _POOL)

    def mint(self, lot_id: str) -> None:
        """Give the sandbox a small lot."""
        self.do(
            Mint(
                REHEARSAL_ACCOUNT,
                lot_id,
                AMOUNT_MICRO,
                "grant",
                source_id=f"rehearsal-{lot_id}",
                pool_id=_POOL,
                description="Rehearsal",
            )
        ).unwrap()

    def reserve(self, amount_micro: int) -> tuple[str, Outcome]:
        """Ask for a hold; return its id and what became of it."""
        hold_id = new_id(self.tx.now)
        command = Reserve(
            REHEARSAL_ACCOUNT, hold_id, amount_micro, pool_id=_POOL, description="Rehearsal"
        )
        return hold_id, self.do(command)


def rehearse(
    database: Database, terms: TermsCache, actor: Actor, modes: Sequence[Mode]
) -> dict[str, Any]:
    """Try every check in each of *modes*, whatever mode is in force, and record what was found.

    Safe at any time and any number of times. Returns the checks with their figures.
    """
    found = [
        patiently(partial(_rehearse, database, replace(terms.current(), mode=mode), actor, check))
        for mode in modes
        for check in CHECKS
    ]
    return {
        "accountId": REHEARSAL_ACCOUNT,
        "passed": all(one["passed"] for one in found),
        "checks": found,
    }


def _rehearse(database: Database, terms: Terms, actor: Actor, check: str) -> dict[str, Any]:
    facts: dict[str, Any]
    try:
        with database.transaction() as tx:
            facts = {"passed": True, **_play(_Stage(tx, terms), check)}
            return _record(tx, actor, terms.mode, check, facts)
    except Unavailable:
        raise
    except (_CheckError, ArrakisError) as failure:
        facts = {"passed": False, "because": str(failure)}
    with database.transaction() as tx:
        return _record(tx, actor, terms.mode, check, facts)


def _record(
    tx: Tx, actor: Actor, mode: Mode, check: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    details = {"check": check, **facts}
    record(tx, actor, ACTION, target_type=TARGET, target_id=mode, details=details)
    return {"mode": mode, **details, "at": to_wire(tx.now)}


def _play(stage: _Stage, check: str) -> dict[str, Any]:
    """Do one check; afterwards the sandbox owns, holds and owes what it did before."""
    create_account(
        stage.tx, entity_type="protocol", entity_id="rehearsal", account_id=REHEARSAL_ACCOUNT
    )
    stage.tx.all(_SANDBOX)
    stage.tx.restart_clock()
    before = stage.balance(), _open_holds(stage.tx)
    figures = CHECKS[check](stage)
    after = stage.balance(), _open_holds(stage.tx)
    _require(before == after, f"the sandbox is not as it was: {before} became {after}")
    return figures


def _overspend(stage: _Stage) -> dict[str, Any]:
    """A reserve above the balance: 402 in live, overdraft in soft, would-be in shadow."""
    before = stage.balance()
    asked = max(0, int(before["availableMicro"])) + AMOUNT_MICRO
    hold_id, outcome = stage.reserve(asked)
    if stage.terms.mode == "live":
        refusal = outcome.error
        is_402 = isinstance(refusal, Refused) and refusal.code == "insufficient_credits"
        _require(is_402, "a reserve above the balance was not refused")
        return {"askedMicro": str(asked), "answer": "402 insufficient_credits"}
    outcome.unwrap()
    hold = stage.tx.first(_HOLD.where(Reservation.id == hold_id))
    assert hold is not None
    types = [
        row.entry_type for row in stage.tx.all(_ENTRIES.where(Entry.reservation_id == hold_id))
    ]
    if stage.terms.mode == "soft":
        _require(hold.overdraft_micro > 0, "a reserve above the balance has no overdraft")
        _require(types == ["reserve"], f"its entries are {types}, not a reserve")
    else:
        _require(stage.balance() == before, "a reserve has moved the balance in shadow")
        _require(types == ["shadow_reserve"], f"its entries are {types}, not a shadow_reserve")
    released = stage.do(Release(hold_id, REHEARSAL_ACCOUNT, "Rehearsal")).unwrap()
    _require(released["releasedMicro"] == str(asked), "not all of the hold was released")
    return {
        "askedMicro": str(asked),
        "answer": "granted",
        "overdraftMicro": str(hold.overdraft_micro),
        "reservationId": hold_id,
    }


def _claw_back(stage: _Stage) -> dict[str, Any]:
    """A lot with a hold on it is taken back: what is held follows when the hold ends (W28).

    In shadow nothing is held, so all of it comes back at once.
    """
    lot_id = new_id(stage.tx.now)
    stage.mint(lot_id)
    hold_id, outcome = stage.reserve(HELD_MICRO)
    outcome.unwrap()
    held = 0 if stage.terms.mode == "shadow" else HELD_MICRO
    answer = stage.do(Refund(REHEARSAL_ACCOUNT, lot_id, description="Rehearsal")).unwrap()
    told = (answer["clawedBackMicro"], answer["heldMicro"], answer["debtMicro"])
    _require(
        told == (str(AMOUNT_MICRO - held), str(held), "0"),
        f"clawed back, held and owed are {told}",
    )
    stage.do(Release(hold_id, REHEARSAL_ACCOUNT, "Rehearsal")).unwrap()
    _require_taken_back(stage.tx, lot_id)
    return {"lotId": lot_id, "clawedBackMicro": str(AMOUNT_MICRO), "heldMicro": str(held)}


def _fail_and_heal(stage: _Stage) -> dict[str, Any]:
    """A clawback fails, fails again when its retry is due, and is healed by the next retry.

    The queue is asked at the times when the retries are due: the same transaction, looked at
    later. The letter is gone before the commit, so no worker, alert or person ever meets it.
    """
    tx, lot_id = stage.tx, new_id(stage.tx.now)
    subject = f"rehearsal-{stage.terms.mode}"
    work = Refund(REHEARSAL_ACCOUNT, lot_id, description="Rehearsal")
    _fail(stage, tx, work, subject)
    first = replace(tx, now=add_seconds(tx.now, dlq.DELAYS_SECONDS[0] * _LATEST_RETRY))
    _require(dlq.take_due(tx, _LETTER, only=subject) == [], "a retry came before its time")
    _require_claimed_once(first, subject)
    _fail(stage, first, work, subject)
    second = replace(tx, now=add_seconds(first.now, dlq.DELAYS_SECONDS[1] * _LATEST_RETRY))
    _require_claimed_once(second, subject)
    stage.mint(lot_id)
    stage.do(work).unwrap()
    _require_taken_back(tx, lot_id)
    dlq.complete(tx, _LETTER, subject_id=subject)
    letter = tx.first(select(*DeadLetter.__table__.c).where(*_is_letter(subject)))
    assert letter is not None
    _require(letter.status == "completed", f"the healed letter is {letter.status}")
    _require(letter.retry_count == 1, f"{letter.retry_count} failed retries were counted, not 1")
    tx.run(delete(DeadLetter).where(*_is_letter(subject)))
    return {"lotId": lot_id, "failures": 2, "letterId": letter.id}


def _fail(stage: _Stage, tx: Tx, work: Refund, subject: str) -> None:
    """Try what cannot work yet, and put it in the queue as a worker does."""
    failure = stage.do(work).error
    if not isinstance(failure, NotFound):
        raise _CheckError("a clawback of no lot was not refused")
    facts = {"lotId": work.lot_id, "billingMode": stage.terms.mode}
    status = dlq.enter(tx, _LETTER, subject_id=subject, payload=facts, error=failure.message)
    _require(status == "pending", f"the letter is {status}, not pending")


def _require_claimed_once(tx: Tx, subject: str) -> None:
    taken = dlq.take_due(tx, _LETTER, only=subject), dlq.take_due(tx, _LETTER, only=subject)
    _require(taken == ([subject], []), f"two workers took {taken} when the retry was due")


def _require_taken_back(tx: Tx, lot_id: str) -> None:
    lot = tx.first(_LOT.where(Lot.id == lot_id))
    assert lot is not None
    parts = tuple(lot)
    _require(parts == (0, 0, AMOUNT_MICRO), f"available, held and clawed back are {parts}")


def _require(is_so: bool, otherwise: str) -> None:  # noqa: FBT001  the condition comes first, as in assert
    if not is_so:
        raise _CheckError(otherwise)


def _open_holds(tx: Tx) -> int:
    return int(tx.scalar(_OPEN_HOLDS))


def _is_letter(subject: str) -> tuple[Any, Any]:
    return DeadLetter.operation_type == _LETTER, DeadLetter.subject_id == subject


CHECKS: Mapping[str, Callable[[_Stage], dict[str, Any]]] = {
    "402": _overspend,
    "refund": _claw_back,
    "dlq": _fail_and_heal,
}
_SANDBOX = select(Account.id).where(Account.id == REHEARSAL_ACCOUNT).with_for_update(key_share=True)
_OPEN_HOLDS = select(func.count()).where(
    Reservation.account_id == REHEARSAL_ACCOUNT, Reservation.status == "pending"
)
_HOLD = select(Reservation.overdraft_micro)
_ENTRIES = select(Entry.entry_type).order_by(Entry.id)
_LOT = select(Lot.available_micro, Lot.reserved_micro, Lot.clawed_back_micro)
