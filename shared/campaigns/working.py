"""Lists of grants worked off: a short one at once, a long one by the workers, chunk by chunk.

A chunk is one transaction, so a worker that is killed leaves the list where its last chunk ended,
and another one goes on after the lease (ADR 0005). Each chunk looks at the campaign anew: a pause,
by SQL too, stops a running list, and an activation lets it go on (W58, runbook R21).
"""

from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Row, select, text, update

from shared.campaigns import granting, lifecycle, lists, views
from shared.campaigns.lists import GrantList
from shared.database import Database, Tx, patiently
from shared.errors import Unavailable
from shared.jobs import Claim, claim, give_back, held_rows, put_off, release
from shared.ledger.commands import Outcome
from shared.ledger.terms import Terms, TermsCache
from shared.models.campaigns import GrantBatch
from shared.operations.audit import Actor

log = structlog.get_logger()
CHUNK = 500
_PAUSED_SECONDS = 5
_TRIED_TOGETHER = 1


def grant_now(
    database: Database, terms: TermsCache, actor: Actor, campaign_id: str, wanted: GrantList
) -> Outcome:
    """Check and grant a whole list in one transaction; the answer is behaviour 9.6's.

    Totals count what is new, so those of a repeat are zero (W56). Refuses as ``submit`` does.
    """
    return patiently(partial(_grant_now, database, terms, actor, campaign_id, wanted))


def _grant_now(
    database: Database, terms: TermsCache, actor: Actor, campaign_id: str, wanted: GrantList
) -> Outcome:
    current = terms.current()
    with database.transaction() as tx:
        outcome = lists.submit(tx, actor, campaign_id, wanted)
        if outcome.answer is None:
            return outcome
        batch_id = outcome.answer["batchId"]
        if not outcome.is_replay:
            tx.messages.clear()  # nothing is left for a worker
            while _grant_chunk(tx, campaign_id, batch_id, current):
                pass
            granting.finish(tx, _row(tx, batch_id))
        told = views.show_result(tx, campaign_id, batch_id)
        if not outcome.is_replay:
            _audit_list(tx, actor, "batch_grant", _row(tx, batch_id))
        return Outcome(told, is_replay=outcome.is_replay)


def enlist(database: Database, actor: Actor, campaign_id: str, wanted: GrantList) -> Outcome:
    """Check a whole list and keep it for the workers; the answer is the job as it stands.

    Refuses as ``submit`` does.
    """
    return patiently(partial(_enlist, database, actor, campaign_id, wanted))


def _enlist(database: Database, actor: Actor, campaign_id: str, wanted: GrantList) -> Outcome:
    with database.transaction() as tx:
        outcome = lists.submit(tx, actor, campaign_id, wanted)
        if outcome.answer is None:
            return outcome
        batch_id = outcome.answer["batchId"]
        if not outcome.is_replay:
            _audit_list(tx, actor, "batch_grant", _row(tx, batch_id))
        return Outcome(views.show_batch(tx, campaign_id, batch_id), is_replay=outcome.is_replay)


def work_off(database: Database, terms: TermsCache, *, only: str | None = None) -> int:
    """Work off one chunk of the list that is due first; return its size, 0 if none is due.

    A chunk that fails is tried again item by item, so that one wallet stops no other.
    """
    current = terms.current()
    held = claim(database, GrantBatch, limit=1, only=None if only is None else [only])
    if not held.ids:
        return 0
    try:
        with database.transaction() as tx:
            return _work_chunk(tx, held, current)
    except Unavailable:
        with suppress(Unavailable), database.transaction() as tx:
            give_back(tx, GrantBatch, held)
        raise
    except Exception as error:
        log.exception("grant_chunk_failed", batch_id=held.ids[0])
        with database.transaction() as tx:
            _note_failure(tx, held, repr(error))
        return 1


def _work_chunk(tx: Tx, held: Claim, terms: Terms) -> int:
    rows = held_rows(tx, GrantBatch, held, held.ids)
    if not rows:  # the lease has lapsed, and somebody else goes on
        return 0
    [batch] = rows
    campaign = lifecycle.lock(tx, batch.campaign_id)
    if campaign.status == "paused":
        tx.run(_PROGRESS.values(attempts=0), batch=batch.id)
        release(tx, GrantBatch, batch.id, after_seconds=_PAUSED_SECONDS)
        return 1
    if campaign.status != "active":
        granting.finish(tx, batch, stop_reason=f"campaign_{campaign.status}")
        _audit_list(tx, granting.WORKER, "grant_list_stopped", _row(tx, batch.id))
        return 1
    size = CHUNK if batch.attempts <= _TRIED_TOGETHER else 1
    done = granting.grant_next(tx, campaign, batch, terms, size=size)
    after = _row(tx, batch.id)
    if after.position >= after.total:
        granting.finish(tx, after)
        _audit_list(tx, granting.WORKER, "grant_list_done", _row(tx, batch.id))
    else:
        # Item by item until the chunk that failed has ended; then together again.
        is_past = size == CHUNK or after.position % CHUNK == 0
        attempts = 0 if is_past else batch.attempts
        tx.run(_PROGRESS.values(attempts=attempts, updated_at=tx.now), batch=batch.id)
        release(tx, GrantBatch, batch.id, after_seconds=0)
    return max(done, 1)


def _note_failure(tx: Tx, held: Claim, error: str) -> None:
    """Put a list off whose chunk failed; an item that failed alone is passed."""
    for batch in held_rows(tx, GrantBatch, held, held.ids):
        if batch.attempts > _TRIED_TOGETHER:
            granting.fail_next(tx, batch, error)
            release(tx, GrantBatch, batch.id, after_seconds=0)
        else:
            put_off(tx, GrantBatch, batch.id, attempts=batch.attempts, error=error)


def _grant_chunk(tx: Tx, campaign_id: str, batch_id: str, terms: Terms) -> int:
    # Both are read anew: what the chunk before has spent and done counts.
    campaign, batch = lifecycle.lock(tx, campaign_id), _row(tx, batch_id)
    return granting.grant_next(tx, campaign, batch, terms, size=CHUNK)


def _row(tx: Tx, batch_id: str) -> Row[Any]:
    row = tx.first(_BATCH, id=batch_id)
    assert row is not None
    return row


def _audit_list(tx: Tx, actor: Actor, action: str, batch: Row[Any]) -> None:
    details = {
        "batchId": batch.id,
        "wallets": batch.total,
        "granted": batch.granted,
        "failed": batch.failed,
        "amountMicro": str(batch.granted_micro),
        "stopReason": batch.stop_reason,
    }
    lifecycle.audit(tx, actor, action, batch.campaign_id, details)


_BATCH = select(*GrantBatch.__table__.c).where(GrantBatch.id == text(":id"))
_PROGRESS = update(GrantBatch).where(GrantBatch.id == text(":batch"))
