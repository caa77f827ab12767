"""Settlements whose outcome nobody told: the chain is asked until it is known (contract 7).

Without a node to ask, the facilitator is asked to settle the same authorization again, which moves
money once at the most; what stays unknown then is for a person.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy import select, text, update

from shared import jobs
from shared.database import patiently
from shared.errors import Conflict, Unavailable
from shared.models.x402 import Settlement
from shared.payments.quotes import Cashier
from shared.payments.settling import ask_a_person, credit, give_up
from shared.payments.x402.chain import LOG_BLOCKS_MAX, LOG_WINDOWS_MAX, Chain, TransactionFacts
from shared.payments.x402.facilitator import NONCE_USED, Rejected, Settled
from shared.payments.x402.terms import Terms
from shared.payments.x402.wire import read_payment

log = structlog.get_logger()
BATCH = 10
_GRACE_SECONDS = 60  # the chain's clock and ours may differ, and so may two nodes
_GIVE_UP_SECONDS = 3_600
_SLOWEST = 5  # looks at least every 64 s, so that it heals within two minutes (contract 8)
_BLOCKS_BEFORE = LOG_BLOCKS_MAX * 3 // 4
_BLOCKS_BEFORE_MAX = LOG_BLOCKS_MAX * (LOG_WINDOWS_MAX - 2)
_BLOCKS_A_SECOND = 4  # of the fastest chain that we know; Base has one in two seconds


@dataclass(frozen=True)
class Verdict:
    """What is known now: paid in a transaction, surely nothing, only a person can say, or wait."""

    kind: str
    reason: str = ""
    transaction: str = ""
    from_block: int | None = None


def watch(cashier: Cashier) -> int:
    """Look at due settlements, a bounded number; return how many were taken.

    Each has the whole of a lease, however slow the node is, and one that cannot be worked on does
    not stop those behind it for longer than that.
    """
    for taken in range(BATCH):
        held = jobs.claim(cashier.database, Settlement, limit=1)
        if not held.ids:
            return taken
        _look(cashier, held)
    return BATCH


def _look(cashier: Cashier, held: jobs.Claim) -> None:
    with cashier.database.reading() as tx:
        row = tx.first(_SETTLEMENT, id=held.ids[0])
        now = int(tx.now.timestamp())
    assert row is not None
    try:
        verdict = _find_out(cashier, row, now)
        if verdict.kind == "paid":
            patiently(partial(credit, cashier, held, verdict.transaction))
        elif verdict.kind == "nothing":
            patiently(partial(give_up, cashier, held, verdict.reason))
        else:
            _put_aside(cashier, held, verdict)
    except Conflict as known:  # it was credited as another payment, and is noted as such
        verdict = Verdict("nothing", known.message)
    except Unavailable as away:
        log.warning("settlement_cannot_be_looked_up", settlement_id=row.id, reason=away.message)
        _put_aside(cashier, held, Verdict("wait", away.message))
        return
    log.info(
        "settlement_looked_up", settlement_id=row.id, verdict=verdict.kind, reason=verdict.reason
    )


def _put_aside(cashier: Cashier, held: jobs.Claim, verdict: Verdict) -> None:
    """Let a settlement come back later, or, if nothing can tell, leave it to a person."""
    with cashier.database.transaction() as tx:
        for row in jobs.held_rows(tx, Settlement, held, held.ids):
            known = {"from_block": verdict.from_block or row.from_block}
            tx.run(update(Settlement).where(Settlement.id == row.id).values(**known))
            if verdict.kind == "wait":
                tries = min(row.attempts, _SLOWEST)
                jobs.put_off(tx, Settlement, row.id, attempts=tries, error=verdict.reason)
            else:
                ask_a_person(tx, row, verdict.reason)


def _find_out(cashier: Cashier, row: Any, now: int) -> Verdict:
    """Return what is known of the settlement *row* at *now* (Unix seconds). Raises Unavailable."""
    if row.phase == "reserved":
        return Verdict("nothing", "The process ended before anything was sent.")
    chain = cashier.chains.get(row.network)
    if row.phase == "confirming":
        return _of_transfer(cashier, chain, row)
    if chain is None:
        return _ask_facilitator(cashier, row, now)
    return _of_authorization(cashier, chain, row, now)


def _of_authorization(cashier: Cashier, chain: Chain, row: Any, now: int) -> Verdict:
    """Judge an authorization that may have been sent, by what the chain shows of it.

    The transaction that the facilitator named may fail or never be mined, and another one may use
    the authorization: the facilitator's next, or that of anybody who saw it on its way.
    """
    seconds = max(0, now - int(row.created_at.timestamp()))
    before = min(_BLOCKS_BEFORE + seconds * _BLOCKS_A_SECOND, _BLOCKS_BEFORE_MAX)
    from_block = row.from_block or max(0, chain.head().block - before)
    used_in = chain.authorization_used(row.payer, row.nonce, from_block=from_block)
    transaction = used_in or row.transaction_hash
    facts = chain.transfers(transaction) if transaction else None
    if facts is None or not facts.is_successful:
        return _unused(chain, row, now, from_block)
    is_paid = _moved(facts, row) >= int(row.value)
    if used_in is None and not is_paid:
        return _unused(chain, row, now, from_block)
    if facts.confirmations < cashier.networks[row.network].confirmations:
        return Verdict("wait", "Not deep enough in the chain yet.", from_block=from_block)
    if not is_paid:
        return Verdict("nothing", "The authorization was used for something else.")
    return Verdict("paid", transaction=facts.transaction)


def _unused(chain: Chain, row: Any, now: int, from_block: int) -> Verdict:
    """Judge an authorization that moved nothing that we can see: it may until its time is over."""
    head = chain.head()
    if head.timestamp <= row.valid_before + _GRACE_SECONDS:
        return Verdict("wait", "Not on the chain yet.", from_block=from_block)
    if not chain.is_authorization_spent(row.payer, row.nonce, at_block=head.block):
        return Verdict("nothing", "The authorization ran out unused.")
    if now <= row.valid_before + _GIVE_UP_SECONDS:
        return Verdict("wait", "Used, but the transaction is not seen yet.", from_block=from_block)
    return Verdict("doubt", "The authorization is used, and no transaction of it is found.")


def _of_transfer(cashier: Cashier, chain: Chain | None, row: Any) -> Verdict:
    """Judge a transfer that was seen and waits for its confirmations."""
    if chain is None:
        return Verdict("doubt", "There is no node to ask about this network any more.")
    facts = chain.transfers(row.transaction_hash)
    if facts is not None and facts.is_successful:
        if facts.confirmations < cashier.networks[row.network].confirmations:
            return Verdict("wait", "Not deep enough in the chain yet.")
        if _moved(facts, row) < int(row.value):  # mined again, in another state of the chain
            return Verdict("nothing", "The transaction brings less than it did; claim it again.")
        return Verdict("paid", transaction=row.transaction_hash)
    # By the node's own time: one that has fallen behind has not seen the transaction yet.
    if chain.head().timestamp <= row.created_at.timestamp() + _GIVE_UP_SECONDS:
        return Verdict("wait", "The chain does not show the transaction at present.")
    return Verdict("nothing", "The transaction left the chain.")


def _moved(facts: TransactionFacts, row: Any) -> int:
    return sum(one.value for one in facts.transfers if one.sender == row.payer)


def _ask_facilitator(cashier: Cashier, row: Any, now: int) -> Verdict:
    facilitator = cashier.facilitators.get(row.network)
    if facilitator is not None and now < row.valid_before:
        payment = read_payment(row.payload, version=row.version)
        outcome = facilitator.settle(payment, Terms(**json.loads(row.terms)))
        if isinstance(outcome, Settled):
            return Verdict("paid", transaction=outcome.transaction)
        if not isinstance(outcome, Rejected) or outcome.reason != NONCE_USED:
            return Verdict("wait", "The facilitator does not know yet.")
    return Verdict("doubt", "The settlement's outcome is unknown and there is no node to ask.")


_SETTLEMENT = select(*Settlement.__table__.c).where(Settlement.id == text(":id"))
