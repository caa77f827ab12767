"""One payment three ways: what the provider shows, what it told us, what we have booked. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from shared.money import CoinAmount
from shared.payments.applying import arrival_of
from shared.payments.policy import CreditPolicy, needs_rate, worth
from shared.payments.polling import notice_of
from shared.payments.providers.nowpayments_shapes import PaymentReading
from shared.payments.states import MONEY_STATUSES, Move, decide
from shared.reconciliation.findings import Finding

# A missed notice heals by itself in that time (contract 6).
HEALING = timedelta(minutes=15)


@dataclass(frozen=True)
class Told:
    """A notice as it was stored: ``source`` is ``notice`` or, if we asked for it, ``poll``."""

    source: str
    status: str | None
    state: str


@dataclass(frozen=True)
class Booked:
    """What a payment was credited, on what ground, and at which rate."""

    amount_micro: int
    basis: str
    rate: CoinAmount | None


@dataclass(frozen=True)
class Case:
    """One payment: our row (a mapping of its columns), its notices and its credits."""

    row: Mapping[str, Any]
    notices: Sequence[Told]
    credits: Sequence[Booked]

    @property
    def credited_micro(self) -> int:
        """What it was credited in all."""
        return sum(credit.amount_micro for credit in self.credits)


def judge(
    case: Case, reading: PaymentReading | None, policy: CreditPolicy, now: datetime
) -> Finding | None:
    """Return the difference between our books and what the provider shows; None if they agree.

    *reading* was made after our row was read, so it may be ahead of it by what is on its way.
    """
    if reading is None:
        return _unknown_to_provider(case)
    if case.row["status"] == "manual_review" and reading.payment_status in MONEY_STATUSES:
        return _waits_for_a_person(case)
    move = decide(case.row["status"], reading.payment_status)
    if move in (Move.APPLY, Move.REVIEW):
        return _behind(case, reading, now)
    is_paid = reading.payment_status in MONEY_STATUSES | {"refunded"}
    if case.credits and not is_paid and not _is_by_hand(case):
        return _finding(
            case,
            "credited_but_not_finished",
            "error",
            f"It was credited {case.credited_micro} micro-USD, but the provider shows"
            f" {reading.payment_status}.",
            "Look: arrakis payments show {id}. If it was never paid, give it back: POST"
            " /admin/billing/payments/{id}/refund",
        )
    if reading.payment_status in MONEY_STATUSES:
        difference = _amounts(case, reading, policy)
        if difference is not None:
            return difference
    return _healed(case)


def _unknown_to_provider(case: Case) -> Finding:
    return _finding(
        case,
        "unknown_to_provider",
        "error" if case.credits else "warn",
        f"The provider knows no payment {case.row['provider_payment_id']}.",
        "Look at what told us of it: arrakis payments show {id}. Is NOWPAYMENTS_API_KEY that of"
        " the account that made it?",
    )


def _behind(case: Case, reading: PaymentReading, now: datetime) -> Finding | None:
    """Return what is missing here although the provider shows it; None while it may be coming."""
    shown, ours = reading.payment_status, case.row["status"]
    since = reading.updated_at or case.row["updated_at"]
    if now - since < HEALING:
        return None
    if any(one.status == shown for one in case.notices):
        is_money = shown in MONEY_STATUSES
        return _finding(
            case,
            "not_credited" if is_money else "missed_webhook",
            "error" if is_money else "warn",
            f"The provider told us {shown}, and it is still {ours} here.",
            "arrakis payments replay {id}",
        )
    return _finding(
        case,
        "missed_webhook",
        "warn",
        f"The provider shows {shown}, it is {ours} here, and no notice came.",
        "It is read again within minutes; at once: arrakis payments replay {id}",
    )


def _amounts(case: Case, reading: PaymentReading, policy: CreditPolicy) -> Finding | None:
    """Compare what was credited with what the provider shows it is worth by the policy."""
    if _is_by_hand(case):
        return None  # a person has decided what it is worth (runbook 6)
    other_price = _price_differs(case, reading)
    if other_price is not None:
        return other_price
    rate = next((one.rate for one in reversed(case.credits) if one.rate is not None), None)
    arrival = arrival_of(notice_of(reading), reading.payment_status, case.row, rate)
    has_rate = rate is not None or not needs_rate(arrival, policy)
    due = worth(arrival, policy)
    if not case.credits and (due is not None or not has_rate):
        return _not_credited(case, reading)
    if has_rate and due is not None and due.amount_micro != case.credited_micro:
        return _finding(
            case,
            "amount_differs",
            "warn",
            f"It was credited {case.credited_micro} micro-USD and is worth {due.amount_micro} by"
            " what the provider shows and today's policy.",
            "Look: arrakis payments show {id}; what is missing is credited by arrakis payments"
            " replay {id}",
        )
    return None


def _price_differs(case: Case, reading: PaymentReading) -> Finding | None:
    ours, theirs = case.row["price_amount"], reading.price_amount
    is_told = case.row["parent_payment_id"] is None and ours is not None and theirs is not None
    if not is_told or ours == theirs:
        return None
    return _finding(
        case,
        "amount_differs",
        "error",
        f"Its price is {ours} here and {theirs} at the provider.",
        "Look: arrakis payments show {id}",
    )


def _waits_for_a_person(case: Case) -> Finding:
    return _finding(
        case,
        "not_credited",
        "warn",
        f"It waits for a person: {case.row['review_reason'] or 'no rule says what it is worth'}",
        "arrakis dlq list, then arrakis mint ACCOUNT AMOUNT --source-type deposit"
        " --payment-id {id}",
    )


def _not_credited(case: Case, reading: PaymentReading) -> Finding:
    return _finding(
        case,
        "not_credited",
        "error",
        f"The provider shows {reading.payment_status}, and nothing was credited.",
        "arrakis payments replay {id}",
    )


def _healed(case: Case) -> Finding | None:
    """Tell of a notice that never came, when what it would have told is booked already."""
    status = case.row["status"]
    sources = {one.source for one in case.notices if one.status == status}
    if sources != {"poll"}:
        return None
    return _finding(
        case,
        "missed_webhook",
        "info",
        f"No notice of {status} came; it was read at the provider instead.",
        "It has healed by itself: nothing has to be done.",
        is_healed=True,
    )


def _is_by_hand(case: Case) -> bool:
    return any(credit.basis == "admin" for credit in case.credits)


def _finding(
    case: Case, kind: str, severity: str, message: str, proposal: str, *, is_healed: bool = False
) -> Finding:
    row = case.row
    facts = {
        "providerPaymentId": row["provider_payment_id"],
        "accountId": row["account_id"],
        "status": row["status"],
        "creditedMicro": str(case.credited_micro),
        "isHealed": is_healed,
    }
    advice = proposal.replace("{id}", row["id"])
    return Finding(kind, severity, row["id"], f"{row['id']}: {message}", advice, facts)
