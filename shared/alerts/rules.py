"""When an alert fires and when it clears: figures in, decision out. Pure, nothing is read here.

The nine alerts of runbook 3 and ours. Each has a key ``alert_<name>`` in ``billing_config``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Literal

Severity = Literal["critical", "warning"]
CLEAR_SECONDS_KEY, CLEAR_SECONDS = "alert_clear_seconds", 60
DEMOTE_KEY, DEMOTE = "demote_on_402_spike", "no"
_BPS = 10_000
_HOUR, _DAY = 3_600, 86_400
_HIGHEST = {"above": 10**9, "windowSeconds": 7 * _DAY, "sample": 10**6}
_LOWEST = {"above": 0, "windowSeconds": 60, "sample": 1}
_FIELDS = {"above": "above", "windowSeconds": "window_seconds", "sample": "sample"}


@dataclass(frozen=True)
class Limits:
    """What may be reached without alert: a number, or bps of at least ``sample`` things.

    ``window_seconds`` is how far a rate looks back, or for how long a thing may last.
    """

    above: int
    window_seconds: int | None = None
    sample: int | None = None

    @property
    def is_rate(self) -> bool:
        """True if ``above`` is a share in bps."""
        return self.sample is not None


@dataclass(frozen=True)
class Rule:
    """One alert: ``counted`` is what its figures count, ``command`` what to do first."""

    name: str
    severity: Severity
    limits: Limits
    counted: str
    meaning: str
    command: str
    clears: str

    @property
    def key(self) -> str:
        """The setting that holds its limits."""
        return f"alert_{self.name}"


@dataclass(frozen=True)
class Figure:
    """What was found of one subject: a number, or so many out of ``out_of``."""

    value: int
    out_of: int | None = None
    subject: str = ""
    detail: str = ""


class Move(Enum):
    """What an evaluation does to the state of an alert."""

    FIRE = "fire"
    KEEP = "keep"
    CLEAR = "clear"
    NONE = "none"


def is_above(limits: Limits, figure: Figure) -> bool:
    """Tell whether *figure* is above its threshold; a rate needs its sample first."""
    if limits.sample is None or figure.out_of is None:
        return figure.value > limits.above
    return figure.out_of >= limits.sample and figure.value * _BPS > figure.out_of * limits.above


def decide(
    *, above: bool, firing: bool, above_at: datetime | None, now: datetime, clear_seconds: int
) -> Move:
    """Return the transition. It fires at once, and clears after *clear_seconds* below."""
    if above:
        return Move.KEEP if firing else Move.FIRE
    if not firing:
        return Move.NONE
    assert above_at is not None
    is_calm = (now - above_at).total_seconds() >= clear_seconds
    return Move.CLEAR if is_calm else Move.KEEP


def condition(rule: Rule, limits: Limits) -> str:
    """Return in words when *rule* fires."""
    seconds = limits.window_seconds
    if limits.is_rate:
        span = f" in {seconds} s" if seconds is not None else ""
        least = f"at least {limits.sample} " if limits.sample != 1 else ""
        return f"> {_percent(limits.above)} of {least}{rule.counted}{span}"
    span = f" for longer than {seconds} s" if seconds is not None else ""
    return f"> {limits.above} {rule.counted}{span}"


def message(rule: Rule, limits: Limits, figure: Figure) -> str:
    """Return in words what was found, of whom, and what may be reached."""
    found = str(figure.value)
    if figure.out_of is not None:
        bps = figure.value * _BPS // figure.out_of if figure.out_of else 0
        found = f"{figure.value} of {figure.out_of} ({_percent(bps)})"
    where = f" {figure.subject}" if figure.subject else ""
    detail = f": {figure.detail}" if figure.detail else ""
    return f"{rule.name}{where} is {found}, alert at {condition(rule, limits)}{detail}"


def read_limits(rule: Rule, text: str) -> Limits:
    """Read the limits of *rule*, a JSON object; what it leaves out keeps its default.

    Raises ValueError that names the key.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{rule.key} is not JSON") from error
    known = json.loads(limits_text(rule.limits))
    if not isinstance(given, dict) or not given.keys() <= known.keys():
        raise ValueError(f"{rule.key} must be a JSON object of {', '.join(known)}")
    for name, value in given.items():
        highest = _BPS if name == "above" and rule.limits.is_rate else _HIGHEST[name]
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not _LOWEST[name] <= value <= highest:
            raise ValueError(
                f"{name} of {rule.key} must be a whole number, {_LOWEST[name]} to {highest}"
            )
    changes: dict[str, Any] = {_FIELDS[name]: value for name, value in given.items()}
    return replace(rule.limits, **changes)


def limits_text(limits: Limits) -> str:
    """Write *limits* as its setting holds them."""
    named = {name: getattr(limits, field) for name, field in _FIELDS.items()}
    return json.dumps({name: value for name, value in named.items() if value is not None})


def read_clear_seconds(text: str) -> int:
    """Read for how long an alert must be below its threshold to clear. Raises ValueError."""
    is_short = len(text) <= len(str(_HOUR))  # of thousands of digits int() makes no number
    if not (text.isascii() and text.isdigit() and is_short and int(text) <= _HOUR):
        raise ValueError(f"{CLEAR_SECONDS_KEY} must be a whole number, 0 to {_HOUR}")
    return int(text)


def read_demote(text: str) -> bool:
    """Read whether a spike of 402s falls back from live to soft. Raises ValueError."""
    if text not in ("yes", "no"):
        raise ValueError(f"{DEMOTE_KEY} must be yes or no")
    return text == "yes"


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02d} %"


def _by_name(*rules: Rule) -> Mapping[str, Rule]:
    return {rule.name: rule for rule in rules}


RULES = _by_name(
    Rule(
        "dlq_depth",
        "critical",
        Limits(50),
        "pending dead letters",
        "Work fails faster than it is retried",
        "arrakis dlq list --status pending",
        "retries succeed, or letters are resolved",
    ),
    Rule(
        "reconciliation_drift",
        "critical",
        Limits(100, sample=1),
        "accounts",
        "Cached balances differ from the books at the last reconciliation",
        "arrakis reconcile run",
        "a later reconciliation finds less drift",
    ),
    Rule(
        "overrun_rate",
        "critical",
        Limits(500, _HOUR, 20),
        "finalizations",
        "Costs exceed their holds: the estimates are too low",
        "arrakis config get safety_multiplier",
        "estimates cover the costs again",
    ),
    Rule(
        "payment_failure_rate",
        "critical",
        Limits(1_000, 6 * _HOUR, 10),
        "top-ups",
        "Top-ups of NOWPayments and x402 fail, hang while created, or wait for a person",
        "arrakis doctor",
        "later top-ups succeed, or the failed ones leave the window",
    ),
    Rule(
        "lot_invariant",
        "critical",
        Limits(0),
        "lots",
        "Parts of a lot do not add up; the mode was set to shadow when this fired",
        "arrakis ledger verify",
        "every lot adds up again; the mode stays until somebody sets it",
    ),
    Rule(
        "dlq_manual_review",
        "warning",
        Limits(0),
        "dead letters that wait for a person",
        "No rule can settle these",
        "arrakis dlq list --status manual_review",
        "they are retried with success, or resolved",
    ),
    Rule(
        "balance_cache_miss_rate",
        "warning",
        Limits(5_000, 300, 50),
        "reads of cached balances",
        "Balances are not found in Redis, or it is away; the database answers",
        "arrakis doctor",
        "reads hit the cache again",
    ),
    Rule(
        "reservation_expiry_rate",
        "warning",
        Limits(2_000, _HOUR, 20),
        "holds that ended",
        "Holds run out unsettled: a longer life is needed, or callers time out",
        "arrakis config get reserve_ttl_seconds",
        "holds are settled in time again",
    ),
    Rule(
        "campaign_budget",
        "warning",
        Limits(9_000, sample=1),
        "a campaign's budget",
        "A campaign's budget is nearly spent: tell its owner",
        "arrakis campaign list",
        "the budget grows, or the campaign ends",
    ),
    Rule(
        "tick_missing",
        "critical",
        Limits(4),
        "intervals (15 s at least) without success",
        "A kind of the workers' work is not done",
        "arrakis status",
        "it succeeds again",
    ),
    Rule(
        "queue_lag",
        "warning",
        Limits(120),
        "seconds of the oldest due row",
        "A queue is worked off too slowly",
        "arrakis status",
        "the oldest due row is younger again",
    ),
    Rule(
        "provider_down",
        "critical",
        Limits(5_000, 300, 5),
        "calls",
        "NOWPayments, an x402 facilitator or a chain's node does not answer",
        "arrakis doctor",
        "it answers again, or nobody calls it",
    ),
    Rule(
        "unhandled_events",
        "warning",
        Limits(0, 300),
        "notices in the dead letters",
        "Providers tell what nobody can handle: unknown payments, words or amounts",
        "arrakis dlq list",
        "they are handled by a retry, or resolved",
    ),
    Rule(
        "refusals_402",
        "warning",
        Limits(2_000, 300, 50),
        "reserves",
        "Many reserves are refused for want of credits in live mode",
        "arrakis mode show",
        "fewer are refused, or the mode is soft",
    ),
    Rule(
        "money_uncredited",
        "critical",
        Limits(0, 1_800),
        "payments paid and not credited",
        "Customers have paid and have no credits yet",
        "arrakis payments poll",
        "they are credited, refunded or refused",
    ),
)
