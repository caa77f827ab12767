"""Before a notice may bring a credit, the provider is asked, outside of any transaction.

A notice is signed but neither dated nor numbered, so a captured one could be sent again for ever
(protocols 1.7); what the provider itself shows now cannot.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from shared.errors import Invalid, Unavailable
from shared.money import CoinAmount
from shared.payments.applying import Consulted, arrival_of, read_notice
from shared.payments.policy import CreditPolicy, has_rate, needs_rate
from shared.payments.polling import notice_of
from shared.payments.providers.nowpayments import NowPayments
from shared.payments.recording import coin_of, text_of
from shared.payments.states import MONEY_STATUSES

_AT_ONCE = 4


@dataclass
class Consultation:
    """What was told about each notice that needed asking, and which ones must wait."""

    told: dict[str, Consulted] = field(default_factory=dict)
    later: dict[str, str] = field(default_factory=dict)
    away: list[str] = field(default_factory=list)


class _NotYetError(Exception):
    """The provider does not show yet what the notice told."""


def consult(
    provider: NowPayments, policy: CreditPolicy, events: Sequence[Any], *, is_verifying: bool
) -> Consultation:
    """Ask *provider* about *events*, all of which ``needs_asking``.

    With *is_verifying* each is read again. ``later`` are those that the provider does not confirm
    yet (with the reason), ``away`` those that could not be asked.
    """
    found = Consultation()
    if not events:
        return found

    def ask(event: Any) -> None:
        try:
            found.told[event.id] = _ask(provider, policy, event, is_verifying=is_verifying)
        except _NotYetError as reason:
            found.later[event.id] = str(reason)
        except Unavailable:
            found.away.append(event.id)

    with ThreadPoolExecutor(min(_AT_ONCE, len(events))) as threads:
        list(threads.map(ask, events))
    return found


def needs_asking(event: Any, policy: CreditPolicy, *, is_verifying: bool) -> bool:
    """Return True if *event* may bring a credit that needs a word of the provider."""
    if event.provider_payment_id is None or event.status not in MONEY_STATUSES:
        return False
    try:
        notice = read_notice(event)
    except ValueError:  # the intake puts it aside by itself
        return False
    if is_verifying and event.source == "notice":
        return True
    if has_rate(text_of(notice, "outcome_currency").lower(), policy):
        return False
    return needs_rate(arrival_of(notice, event.status, _terms(event, notice)), policy)


def _ask(
    provider: NowPayments, policy: CreditPolicy, event: Any, *, is_verifying: bool
) -> Consulted:
    notice, status = read_notice(event), event.status
    confirmed = None
    if is_verifying and event.source == "notice":
        reading = provider.read_payment(event.provider_payment_id)
        if reading is None:
            return Consulted(doubt="The provider knows no payment of this id.")
        if reading.payment_status not in MONEY_STATUSES | {"refunded"}:
            raise _NotYetError(f"The provider shows {reading.payment_status}, not {status}.")
        notice = confirmed = notice_of(reading)
        status = reading.payment_status
    arrival = arrival_of(notice, status, _terms(event, notice))
    rate = _usd_rate(provider, arrival) if needs_rate(arrival, policy) else None
    return Consulted(confirmed, rate)


def _usd_rate(provider: NowPayments, arrival: Any) -> CoinAmount | None:
    """Return what one unit of the outcome's currency is worth now, None if it is not told."""
    try:
        dollars = provider.estimate(
            arrival.outcome_amount, currency_from=arrival.outcome_currency, currency_to="usd"
        )
    except Invalid:
        return None
    return dollars / arrival.outcome_amount if dollars else None


def _terms(event: Any, notice: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a payment's terms: those of our own row, or what the notice tells if we have none."""
    if event.payment_id is not None:
        return {**event._mapping, "pack_micro": None}  # noqa: SLF001  SQLAlchemy's public name
    return {
        "parent_payment_id": text_of(notice, "parent_payment_id") or None,
        "price_currency": text_of(notice, "price_currency") or "usd",
        "price_amount": coin_of(notice, "price_amount"),
        "pack_micro": None,
        "pay_amount": None,
    }
