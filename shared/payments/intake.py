"""Intake: stored notices move payments through their states and credit them, many at a time.

One transaction carries the payment's row, its credit, and the notice's end, fenced by the lease
on the notice: so a notice can be delivered, claimed or crash twice and still credits once.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import and_, select, text, update

from shared import jobs, tracing
from shared.database import Database, DatabaseBusy, Message, Tx, patiently
from shared.errors import Unavailable
from shared.ledger.book import post
from shared.ledger.terms import TermsCache
from shared.messaging import TaskName
from shared.models.payments import CryptoPayment, WebhookEvent
from shared.observability import WEBHOOKS
from shared.operations import dlq
from shared.parameters import member_of
from shared.payments.applying import Consulted, RefundFailedError, plan, take_outcomes
from shared.payments.consulting import consult, needs_asking
from shared.payments.policy import load_policy
from shared.payments.providers.nowpayments import NowPayments
from shared.payments.recording import Step, park, save
from shared.payments.states import MONEY_STATUSES

log = structlog.get_logger()
BATCH = 250  # locks the accounts for a tenth of a second; a short queue makes a short batch
ASKING_BATCH = 8  # so many are asked about in one batch
# What a killed worker held is worked off by another one after its lease. Asking takes a minute at
# most: two rounds of four notices, each of two calls of 15 s.
LEASE = 20
ASKING_LEASE = 60 + LEASE
_ATTEMPTS_MAX = 8
_CONFIRMATIONS_MAX = 12
_ALONE_LOCK_TIMEOUT_MS = 250  # the batch has waited already; now a locked account costs little


@dataclass(frozen=True)
class Intake:
    """What notices are worked off with. With ``is_verifying`` the provider confirms each credit."""

    database: Database
    terms: TermsCache
    provider: NowPayments
    is_verifying: bool = False


def drain(intake: Intake, *, only: Sequence[str] | None = None) -> int:
    """Work off one batch of due notices, of *only* those if given; return how many were taken."""
    database = intake.database
    limit = ASKING_BATCH if intake.is_verifying else BATCH
    held = jobs.claim(database, WebhookEvent, limit=limit, only=only, lease_seconds=LEASE)
    if not held.ids:
        return 0
    taken = len(held.ids)
    try:
        told, held = _consult(intake, held)
    except Unavailable:
        _give_back(database, held)
        raise
    try:
        _work(intake, held, held.ids, told)
    except Unavailable as error:
        if not isinstance(error, DatabaseBusy) or database.is_sqlite:  # SQLite's lock is everyone's
            _give_back(database, held)
            raise
        _work_each(intake, held, told)
    except Exception:
        log.warning("intake_batch_failed", events=len(held.ids), exc_info=True)
        _work_each(intake, held, told)
    return taken


def _consult(intake: Intake, held: jobs.Claim) -> tuple[dict[str, Consulted], jobs.Claim]:
    """Ask the provider where that is needed; return its words and what can go on now."""
    database, is_verifying = intake.database, intake.is_verifying
    with database.reading() as tx:
        policy = load_policy(tx)
        events = tx.all(_CLAIMED, ids=held.ids, token=held.token)
    asking = [event for event in events if needs_asking(event, policy, is_verifying=is_verifying)]
    if not asking:
        return {}, held
    held = _take_time(database, held, left=[event.id for event in asking[ASKING_BATCH:]])
    ours = [event for event in asking[:ASKING_BATCH] if event.id in held.ids]
    asked = consult(intake.provider, policy, ours, is_verifying=is_verifying)
    if asked.away or asked.later:
        with database.transaction() as tx:
            jobs.give_back(tx, WebhookEvent, jobs.Claim(held.token, asked.away))
            for event in jobs.held_rows(tx, WebhookEvent, held, sorted(asked.later)):
                _put_off(tx, event, asked.later[event.id], attempts_max=_CONFIRMATIONS_MAX)
    return asked.told, _without(held, {*asked.away, *asked.later})


def _take_time(database: Database, held: jobs.Claim, *, left: list[str]) -> jobs.Claim:
    """Hold what is *held* for as long as asking may take, but for *left*: the next batch's."""
    with database.transaction() as tx:
        jobs.give_back(tx, WebhookEvent, jobs.Claim(held.token, left), after_seconds=0)
        mine = _without(held, set(left))
        return jobs.renew(tx, WebhookEvent, mine, lease_seconds=ASKING_LEASE)


def _without(held: jobs.Claim, others: set[str]) -> jobs.Claim:
    return jobs.Claim(held.token, [one for one in held.ids if one not in others])


def _work_each(intake: Intake, held: jobs.Claim, told: Mapping[str, Consulted]) -> None:
    for event_id in held.ids:
        _work_alone(intake, held, event_id, told)


def _work_alone(
    intake: Intake, held: jobs.Claim, event_id: str, told: Mapping[str, Consulted]
) -> None:
    database = intake.database
    try:
        _work(intake, held, [event_id], told, lock_timeout_ms=_ALONE_LOCK_TIMEOUT_MS)
    except Unavailable:
        _give_back(database, jobs.Claim(held.token, [event_id]))
    except RefundFailedError as failure:
        log.warning("refund_failed", event_id=event_id, reason=str(failure))
        with database.transaction() as tx:
            for event in jobs.held_rows(tx, WebhookEvent, held, [event_id]):
                park(tx, event, str(failure), needs_person=False, operation="refund")
    except Exception as error:
        log.exception("intake_failed", event_id=event_id)
        with database.transaction() as tx:
            for event in jobs.held_rows(tx, WebhookEvent, held, [event_id]):
                _put_off(tx, event, repr(error), attempts_max=_ATTEMPTS_MAX)


def _put_off(tx: Tx, event: Any, reason: str, *, attempts_max: int) -> None:
    if event.attempts < attempts_max:
        jobs.put_off(tx, WebhookEvent, event.id, attempts=event.attempts, error=reason)
    else:
        park(tx, event, reason, needs_person=False)


def _give_back(database: Database, held: jobs.Claim) -> None:
    """Let notices wait for the database, uncounted; if it is away altogether the lease lapses."""
    with suppress(Unavailable), database.transaction() as tx:
        jobs.give_back(tx, WebhookEvent, held)


def _work(
    intake: Intake,
    held: jobs.Claim,
    ids: list[str],
    told: Mapping[str, Consulted],
    *,
    lock_timeout_ms: int | None = None,
) -> None:
    terms = intake.terms.current()

    def once() -> list[Step]:
        with intake.database.transaction(lock_timeout_ms=lock_timeout_ms) as tx:
            events = jobs.held_rows(tx, WebhookEvent, held, ids, columns=_READ)
            steps = plan(tx, events, load_policy(tx), told)
            commands = [command for step in steps for command in step.commands]
            outcomes = iter(post(tx, commands, terms) if commands else [])
            for step in steps:
                if step.commands:
                    take_outcomes(step, [next(outcomes) for _ in step.commands])
            save(tx, steps)
            return steps

    steps = patiently(once)
    for (provider, outcome), count in Counter((s.event.provider, s.outcome) for s in steps).items():
        WEBHOOKS.labels(provider, outcome).inc(count)
    for step in steps:
        _trace(step)
        log.info(
            "notice_processed",
            event_id=step.event.id,
            provider_payment_id=step.event.provider_payment_id,
            status=step.event.status,
            source=step.event.source,
            outcome=step.outcome,
            payment_id=step.payment["id"] if step.payment else None,
            account_id=step.payment["account_id"] if step.payment else None,
            lot_ids=[command.lot_id for command in step.commands],
        )


def _trace(step: Step) -> None:
    """Tell in the trace of the notice's request what became of it, and by which run."""
    if not tracing.is_on():
        return
    with tracing.span(
        "notice processed",
        kind="consumer",
        parent=step.event.traceparent,
        links=[tracing.here()],
        event_id=step.event.id,
        outcome=step.outcome,
        payment_id=step.payment["id"] if step.payment else None,
        lot_ids=[command.lot_id for command in step.commands],
    ):
        pass


def retry_parked(database: Database) -> int:
    """Give notices whose dead letter is due another try; return how many."""
    with database.transaction() as tx:
        due = [*dlq.take_due(tx, "webhook"), *dlq.take_due(tx, "refund")]
        if due:
            rearm(tx, due)
        return len(due)


def rearm(tx: Tx, event_ids: list[str]) -> int:
    """Let stored notices be worked off once more, now; return how many there are.

    That is safe at any time: what they brought once they do not bring again.
    """
    again = (
        update(WebhookEvent)
        .where(member_of(WebhookEvent.id, "ids"), WebhookEvent.state != "new")
        .values(state="new", due_at=tx.now, attempts=0, done_at=None)
    )
    count = tx.run(again, ids=event_ids)
    if count:
        tx.messages.append(Message(TaskName.DRAIN_WEBHOOKS))
    return count


# Not the body as it came over the wire: it is the longest, and only people look at it.
_READ = (
    WebhookEvent.id,
    WebhookEvent.provider,
    WebhookEvent.source,
    WebhookEvent.provider_payment_id,
    WebhookEvent.status,
    WebhookEvent.notice,
    WebhookEvent.traceparent,
    WebhookEvent.outcome,
    WebhookEvent.attempts,
)
_CLAIMED = (
    select(
        WebhookEvent.id,
        WebhookEvent.provider_payment_id,
        WebhookEvent.status,
        WebhookEvent.source,
        WebhookEvent.notice,
        CryptoPayment.id.label("payment_id"),
        CryptoPayment.parent_payment_id,
        CryptoPayment.price_amount,
        CryptoPayment.price_currency,
        CryptoPayment.pay_amount,
    )
    .outerjoin(
        CryptoPayment,
        and_(
            CryptoPayment.provider == WebhookEvent.provider,
            CryptoPayment.provider_payment_id == WebhookEvent.provider_payment_id,
        ),
    )
    .where(
        member_of(WebhookEvent.id, "ids"),
        WebhookEvent.lease_token == text(":token"),
        WebhookEvent.status.in_(sorted(MONEY_STATUSES)),
    )
    .order_by(WebhookEvent.id)
)
