"""The figures that alerts look at, each one read by a bounded statement with an index."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, bindparam, case, column, func, or_, select, text

from shared.alerts import counts, money
from shared.alerts.rules import Figure, Limits
from shared.clock import add_seconds
from shared.database import Tx
from shared.models.campaigns import Campaign
from shared.models.ledger import Lot, Reservation
from shared.models.operations import OPEN_LETTER, DeadLetter
from shared.models.payments import CryptoPayment
from shared.models.types import UtcTime
from shared.operations import ticks
from shared.reconciliation import views as reconciliation

_NEWEST = 10_000  # so many rows tell a rate; of more the window's older part is left out
_LOTS_FOUND, _LOTS_NAMED = 1_000, 20
_CREATING_SECONDS = 600


def measure(tx: Tx, limits: Mapping[str, Limits]) -> dict[str, Sequence[Figure]]:
    """Return the figures of every alert, by its name; one without subjects has none."""
    return {name: read(tx, limits[name]) for name, read in _READERS.items()}


def _dlq_depth(tx: Tx, _limits: Limits) -> list[Figure]:
    return [Figure(int(tx.scalar(_LETTERS, status="pending")))]


def _dlq_manual_review(tx: Tx, _limits: Limits) -> list[Figure]:
    return [Figure(int(tx.scalar(_LETTERS, status="manual_review")))]


def _unhandled_events(tx: Tx, limits: Limits) -> list[Figure]:
    return [Figure(int(tx.scalar(_UNHANDLED, before=_since(tx, limits))))]


def _reconciliation_drift(tx: Tx, _limits: Limits) -> list[Figure]:
    drift = reconciliation.latest_drift(tx)
    return [] if drift is None else [Figure(drift.accounts_drifted, drift.accounts_checked)]


def _overrun_rate(tx: Tx, limits: Limits) -> list[Figure]:
    row = tx.first(_ENDED, since=_since(tx, limits))
    assert row is not None
    return [Figure(int(row.overruns or 0), int(row.finalized or 0))]


def _reservation_expiry_rate(tx: Tx, limits: Limits) -> list[Figure]:
    since = _since(tx, limits)
    row = tx.first(_ENDED, since=since)
    assert row is not None
    if row.ended == _NEWEST:
        since = row.oldest
    expired = int(tx.scalar(_EXPIRED, since=since, now=tx.now))
    return [Figure(expired, expired + int(row.ended))]


def _payment_failure_rate(tx: Tx, limits: Limits) -> list[Figure]:
    parameters = {
        "since": _since(tx, limits),
        "patience": add_seconds(tx.now, -_CREATING_SECONDS),
    }
    rows = tx.all(_TOP_UPS, **parameters)
    failed, ended = sum(int(row.failed) for row in rows), sum(int(row.ended) for row in rows)
    detail = ", ".join(f"{row.provider} {row.failed} of {row.ended}" for row in rows)
    return [Figure(failed, ended, detail=detail)]


def _lot_invariant(tx: Tx, _limits: Limits) -> list[Figure]:
    """Read the lots only where a lot could break the rule: it is enforced on PostgreSQL.

    SQLite can be told by any connection not to look at constraints.
    """
    is_postgres = tx.connection.dialect.name == "postgresql"
    if is_postgres and tx.scalar(_ENFORCED) == len(_CONSTRAINTS):
        return [Figure(0)]
    broken = sorted(row.id for row in tx.all(_BROKEN_LOTS))
    named = ", ".join(broken[:_LOTS_NAMED]) + (", ..." if len(broken) > _LOTS_NAMED else "")
    return [Figure(len(broken), detail=named)]


def _balance_cache_miss_rate(tx: Tx, limits: Limits) -> list[Figure]:
    since = _since(tx, limits)
    missed, hit = (counts.total(tx, n, since) for n in (counts.CACHE_MISS, counts.CACHE_HIT))
    return [Figure(missed, missed + hit)]


def _refusals_402(tx: Tx, limits: Limits) -> list[Figure]:
    since = _since(tx, limits)
    refused = counts.total(tx, counts.REFUSED_402, since)
    return [Figure(refused, refused + counts.total(tx, counts.RESERVE_GRANTED, since))]


def _provider_down(tx: Tx, limits: Limits) -> list[Figure]:
    return [
        Figure(made.failed, made.failed + made.answered, provider)
        for provider, made in counts.calls(tx, _since(tx, limits)).items()
    ]


def _campaign_budget(tx: Tx, _limits: Limits) -> list[Figure]:
    return [
        Figure(row.spent_micro, row.budget_micro, row.id, row.name) for row in tx.all(_CAMPAIGNS)
    ]


def _tick_missing(tx: Tx, _limits: Limits) -> list[Figure]:
    return [
        Figure(ticks.missed_intervals(tick), subject=tick.name, detail=tick.error or "")
        for tick in ticks.list_ticks(tx)
    ]


def _queue_lag(tx: Tx, _limits: Limits) -> list[Figure]:
    return [
        Figure(int(lag.seconds), subject=f"{lag.queue}/{lag.kind}", detail=f"{lag.rows} due")
        for lag in ticks.lags(tx)
    ]


def _money_uncredited(tx: Tx, limits: Limits) -> list[Figure]:
    owed = money.uncredited(tx, before=_since(tx, limits))
    named = ", ".join(sorted(owed)[:_LOTS_NAMED])
    detail = f"{sum(owed.values())} micro-USD, {named}" if owed else ""
    return [Figure(len(owed), detail=detail)]


def _since(tx: Tx, limits: Limits) -> Any:
    assert limits.window_seconds is not None
    return add_seconds(tx.now, -limits.window_seconds)


def _number_where(*conditions: Any) -> Any:
    return func.sum(case((and_(*conditions), 1), else_=0))


_READERS: Mapping[str, Callable[[Tx, Limits], list[Figure]]] = {
    "dlq_depth": _dlq_depth,
    "reconciliation_drift": _reconciliation_drift,
    "overrun_rate": _overrun_rate,
    "payment_failure_rate": _payment_failure_rate,
    "lot_invariant": _lot_invariant,
    "dlq_manual_review": _dlq_manual_review,
    "balance_cache_miss_rate": _balance_cache_miss_rate,
    "reservation_expiry_rate": _reservation_expiry_rate,
    "campaign_budget": _campaign_budget,
    "tick_missing": _tick_missing,
    "queue_lag": _queue_lag,
    "provider_down": _provider_down,
    "unhandled_events": _unhandled_events,
    "refusals_402": _refusals_402,
    "money_uncredited": _money_uncredited,
}
_SINCE, _NOW = bindparam("since", type_=UtcTime()), bindparam("now", type_=UtcTime())
# The conditions of partial indexes are spelled out: a parameter would hide the index.
_LETTERS = (
    select(func.count())
    .select_from(DeadLetter)
    .where(OPEN_LETTER, DeadLetter.status == bindparam("status"))
)
_UNHANDLED = (
    select(func.count())
    .select_from(DeadLetter)
    .where(
        OPEN_LETTER,
        DeadLetter.operation_type == "webhook",
        DeadLetter.created_at <= bindparam("before", type_=UtcTime()),
    )
)
_ENDED_LATELY = (
    select(
        Reservation.status,
        Reservation.finalized_at,
        (Reservation.overrun_micro + Reservation.uncharged_micro).label("excess_micro"),
    )
    .where(Reservation.finalized_at >= _SINCE)
    .order_by(Reservation.finalized_at.desc())
    .limit(_NEWEST)
    .subquery()
)
_ENDED = select(
    func.count().label("ended"),
    func.min(_ENDED_LATELY.c.finalized_at, type_=UtcTime()).label("oldest"),
    _number_where(_ENDED_LATELY.c.status == "finalized").label("finalized"),
    _number_where(_ENDED_LATELY.c.status == "finalized", _ENDED_LATELY.c.excess_micro > 0).label(
        "overruns"
    ),
)
_EXPIRED = select(func.count()).select_from(
    select(Reservation.id)
    .where(
        text("status = 'expired'"), Reservation.expires_at >= _SINCE, Reservation.expires_at <= _NOW
    )
    .limit(_NEWEST)
    .subquery()
)
_RECENT = (
    select(CryptoPayment.provider, CryptoPayment.status, CryptoPayment.created_at)
    .where(CryptoPayment.created_at >= _SINCE)
    .order_by(CryptoPayment.created_at.desc())
    .limit(_NEWEST)
    .subquery()
)
_HAS_FAILED = or_(
    _RECENT.c.status.in_(("failed", "manual_review")),
    and_(
        _RECENT.c.status == "creating",
        _RECENT.c.created_at < bindparam("patience", type_=UtcTime()),
    ),
)
# One that expired was never paid: that is the customer's choice, no failure.
_HAS_ENDED = or_(_HAS_FAILED, _RECENT.c.status.in_(("finished", "partially_paid", "refunded")))
_TOP_UPS = (
    select(
        _RECENT.c.provider,
        _number_where(_HAS_FAILED).label("failed"),
        _number_where(_HAS_ENDED).label("ended"),
    )
    .group_by(_RECENT.c.provider)
    .order_by(_RECENT.c.provider)
)
_CONSTRAINTS = ("ck_credit_lots_lot_invariant", "ck_credit_lots_lot_balance")
_ENFORCED = (
    select(func.count())
    .select_from(text("pg_constraint"))
    .where(
        text("conrelid = 'credit_lots'::regclass AND convalidated"),
        column("conname").in_(_CONSTRAINTS),
    )
)
_BROKEN_LOTS = (
    select(Lot.id)
    .where(
        or_(
            Lot.available_micro + Lot.reserved_micro + Lot.consumed_micro != Lot.original_micro,
            Lot.available_micro < 0,
            Lot.reserved_micro < 0,
            Lot.consumed_micro < 0,
        )
    )
    .limit(_LOTS_FOUND)
)
_CAMPAIGNS = (
    select(Campaign.id, Campaign.name, Campaign.spent_micro, Campaign.budget_micro)
    .where(text("status IN ('active', 'paused')"))
    .order_by(Campaign.id)
)
