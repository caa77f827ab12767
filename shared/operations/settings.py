"""The settings of ``billing_config``: every known key, what it means, and how it is changed.

A change is checked by building all that reads the configuration from what it would be afterwards,
so values that make no sense together are refused together.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import select

from shared.alerts import rules as alerts
from shared.clock import to_wire
from shared.database import Tx, upsert_rows
from shared.errors import ArrakisError, Conflict, Invalid, NotFound
from shared.ledger.commands import Outcome
from shared.ledger.terms import read_terms, require_receivers
from shared.models.operations import ConfigRow
from shared.notifications import policy as watching
from shared.operations import retention
from shared.operations.audit import Actor, record
from shared.operations.mint_proposals import read_expiry_hours
from shared.operations.mints import read_threshold
from shared.operations.revenue_rules import read_cooldown_hours
from shared.payments.policy import read_policy

TARGET = "setting"
_FOUR_EYES = "four_eyes_threshold_micro"
VALUE_MAX_CHARACTERS = 20_000
_TABLE = ConfigRow.__table__
_LISTED_KEY = re.compile(r"(rate|tier)_[A-Za-z0-9_.:-]{1,100}")
_PRICE = re.compile(r"(0|[1-9][0-9]{0,15})(\.[0-9]{1,9})?")
_AMOUNT = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True)
class Setting:
    """One key: what it means, in which unit, what it may be, and what holds without a row."""

    key: str
    meaning: str
    unit: str
    allowed: str
    seed: str = ""
    is_read_only: bool = False


def _bps(key: str, whose: str, seed: str) -> Setting:
    allowed = "0 to 10000; the three add up to 10000; changed by a revenue rule, or by SQL"
    return Setting(key, f"The share of each charge for {whose}", "bps", allowed, seed)


def _receiver(key: str, whose: str, seed: str) -> Setting:
    allowed = "an account that exists; changed by SQL"
    return Setting(key, f"Who receives {whose} share", "account id", allowed, seed)


def _days(key: str, what: str, seed: str) -> Setting:
    return Setting(key, f"How long {what}", "days", "31 to 9999; 0: for ever", seed)


def _written(key: str, meaning: str, unit: str) -> Setting:
    return Setting(key, meaning, unit, "written by the system", is_read_only=True)


def _alert(rule: alerts.Rule) -> Setting:
    """Return the setting of an alert's limits; what a value leaves out keeps its default."""
    share = "bps" if rule.limits.is_rate else "a number"
    words = f"above ({share}), windowSeconds, sample, as JSON"
    allowed = "a part of " + alerts.limits_text(rule.limits)
    meaning = f"The alert fires at {alerts.condition(rule, rule.limits)}"
    return Setting(rule.key, meaning, words, allowed, alerts.limits_text(rule.limits))


_ALL = (
    Setting(
        "billing_mode",
        "What a reserve does from now on; a hold keeps the mode that it began in",
        "mode",
        "shadow, soft or live; changed by `arrakis mode set`",
        "shadow",
    ),
    _bps("commons_rate_bps", "the commons", "500"),
    _bps("community_rate_bps", "the community", "7000"),
    _bps("foundation_rate_bps", "the foundation, which takes the rest of a division", "2500"),
    _receiver("commons_account_id", "the commons'", "sys-commons"),
    _receiver("community_account_id", "the community's", "sys-community-pool"),
    _receiver("foundation_account_id", "the foundation's", "sys-foundation"),
    Setting("safety_multiplier", "Estimates are multiplied by it", "factor", "1 to 100", "1.1"),
    Setting(
        "model_prices",
        "What models cost, for estimates",
        "micro-USD for 1,000 tokens, as JSON",
        '{"MODEL": {"inputMicroPer1k": N, "outputMicroPer1k": N}}',
        "{}",
    ),
    Setting(
        "reserve_ttl_seconds", "The life of a hold that names none", "seconds", "1 to 86400", "300"
    ),
    Setting(
        "late_finalize_grace_seconds",
        "How long after its end a hold is still settled",
        "seconds",
        "0 to 2592000",
        "3600",
    ),
    Setting(
        "ceiling_micro",
        "The largest amount of one request; BILLING_CEILING_MICRO may be lower",
        "micro-USD",
        "1 to 1000000000000000",
        "100000000000",
    ),
    Setting(
        "overrun_alert_threshold_pct",
        "A cost that exceeds its hold by more is alerted",
        "percent",
        "0 to 1000000",
        "5",
    ),
    Setting(
        _FOUR_EYES,
        "What one person may mint to one account in a day; to all together a hundred times that",
        "micro-USD",
        "a whole number; it can be lowered, and is raised only by SQL",
        "1000000000",
    ),
    Setting(
        "mint_proposal_expiry_hours",
        "How long a mint that needs a second person waits for one",
        "hours",
        "1 to 9999",
        "168",
    ),
    Setting(
        "revenue_rule_cooldown_hours",
        "How long an approved revenue rule waits before it is in force",
        "hours",
        "0 to 9999",
        "48",
    ),
    Setting(
        "partial_payment_policy",
        "What becomes of a payment that is only partly paid",
        "word",
        "credit (what arrived) or review (by a person)",
        "credit",
    ),
    Setting(
        "overpaid_tolerance_bps",
        "What is paid above a price by no more is not credited",
        "bps",
        "0 to 10000",
        "100",
    ),
    Setting(
        "usd_coins",
        "Currencies of a provider's outcome that are worth one US dollar",
        "tickers",
        "lower case, with commas between them",
        "usd",
    ),
    Setting(
        "credit_packs",
        "What packs are sold",
        "micro-USD and bps, as JSON",
        '{"PACK": {"priceMicro": N, "bonusBps": N}}',
        "{}",
    ),
    Setting(
        "credit_pack_markup",
        "A pack's credits are its price divided by this",
        "factor",
        "1 to 10",
        "1",
    ),
    Setting(
        "low_balance_threshold_micro",
        "An account whose available credits fall below it is told of by webhook",
        "micro-USD",
        "a whole number; 0: none is",
        "0",
    ),
    Setting(
        "expiry_notice_hours",
        "How long before its end a lot with credits left is told of by webhook",
        "hours",
        "0 to 9999; 0: never",
        "0",
    ),
    _days(retention.BODY_KEY, "a worked-off notice keeps its body", retention.BODY_DAYS),
    _days(retention.LETTER_KEY, "a healed dead letter is kept", retention.LETTER_DAYS),
    _days(retention.EVENT_KEY, "an event told by webhook is kept", retention.EVENT_DAYS),
    *(_alert(rule) for rule in alerts.RULES.values()),
    Setting(
        alerts.CLEAR_SECONDS_KEY,
        "How long an alert must be below its threshold to clear",
        "seconds",
        "0 to 3600",
        str(alerts.CLEAR_SECONDS),
    ),
    Setting(
        alerts.DEMOTE_KEY,
        "Whether the alert refusals_402 sets the mode from live to soft",
        "word",
        "yes or no",
        alerts.DEMOTE,
    ),
    _written("last_reconciliation_at", "When the books were last compared", "time"),
    _written("last_reconciliation_result", "What the last comparison found", "JSON"),
    _written("reconciliation_generation", "How many comparisons there were", "count"),
)
KNOWN: Mapping[str, Setting] = {setting.key: setting for setting in _ALL}
_REVENUE = {
    f"{who}_{what}"
    for who in ("commons", "community", "foundation")
    for what in ("rate_bps", "account_id")
}


def list_settings(tx: Tx) -> dict[str, Any]:
    """Return every known setting and every row, by key.

    ``fault`` says why running processes keep earlier values, if the rows make no sense together.
    """
    rows = {row.key: row for row in tx.all(_ROWS)}
    keys = sorted(KNOWN.keys() | rows.keys())
    return {"settings": [_describe(key, rows.get(key)) for key in keys], "fault": fault(tx, rows)}


def show_setting(tx: Tx, key: str) -> dict[str, Any]:
    """Return one setting. Raises NotFound (``setting_not_found``)."""
    row = next((row for row in tx.all(_ROWS) if row.key == key), None)
    if row is None and key not in KNOWN:
        raise NotFound(f"There is no setting {key}.", code="setting_not_found")
    return _describe(key, row)


def change_settings(tx: Tx, actor: Actor, values: Mapping[str, str], reason: str) -> Outcome:
    """Set *values* together, or refuse them all; both are audited, so the caller commits either.

    The answer names what changed, with old and new values. Running processes obey within five
    seconds (contract 2). Refusals: Invalid ``unknown_setting``, ``setting_read_only`` and
    ``setting_refused``, Conflict ``mode_by_itself`` for the mode, which asks for evidence, and
    ``revenue_rules_only`` for shares and their receivers, which ask for a second person (ADR 11).
    """
    # All rows, in the order in which activations lock the rates: what is valid with the others
    # must still be so when it is written.
    rows = {row.key: row for row in tx.all(_ROWS.with_for_update())}
    tx.restart_clock()
    changes = {
        key: {"old": rows[key].value if key in rows else None, "new": value}
        for key, value in values.items()
        if key not in rows or rows[key].value != value
    }
    details: dict[str, Any] = {"reason": reason, "changes": changes}
    target = ",".join(sorted(values))[:200]
    try:
        _require_allowed(tx, rows, values)
    except ArrakisError as refusal:
        details["refusedBecause"] = refusal.code
        record(
            tx,
            actor,
            "config_set_refused",
            target_type=TARGET,
            target_id=target,
            details=details | {"message": refusal.message},
        )
        return Outcome(error=refusal)
    new = [{"key": key, "value": one["new"], "updated_at": tx.now} for key, one in changes.items()]
    if new:
        upsert_rows(tx, _TABLE, new, key=("key",))
        record(tx, actor, "config_set", target_type=TARGET, target_id=target, details=details)
    return Outcome({"changed": changes, "actsWithinSeconds": 5})


def fault(tx: Tx, rows: Mapping[str, Any]) -> str | None:
    """Return what makes no sense in *rows* (by key, with their ``value``), or None."""
    values = {key: row.value for key, row in rows.items()}
    try:
        _check(tx, values)
    except (ValueError, RecursionError) as error:  # TermsError is a ValueError
        return str(error)
    return None


def _require_allowed(tx: Tx, rows: Mapping[str, Any], values: Mapping[str, str]) -> None:
    for key, value in values.items():
        setting = KNOWN.get(key)
        if setting is None and _LISTED_KEY.fullmatch(key) is None:
            raise Invalid(
                f"There is no setting {key[:100]!r}; only rate_… and tier_… may be new.",
                code="unknown_setting",
            )
        if setting is not None and setting.is_read_only:
            raise Invalid(f"{key} is written by the system.", code="setting_read_only")
        if key == "billing_mode":
            raise Conflict(
                "The mode is changed by `arrakis mode set` or POST /admin/billing/mode, "
                "which look at the evidence.",
                code="mode_by_itself",
            )
        if key in _REVENUE:
            raise Conflict(
                f"{key} is not one person's to change. Shares are changed by a revenue rule (POST "
                "/admin/billing/revenue-rules), their receivers by SQL.",
                code="revenue_rules_only",
            )
        if len(value) > VALUE_MAX_CHARACTERS:
            raise Invalid(f"{key} is too long.", code="setting_refused")
    _refuse_to_raise_threshold(rows, values)
    try:
        _check(tx, {key: row.value for key, row in rows.items()} | dict(values))
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{error}.", code="setting_refused") from error


def _refuse_to_raise_threshold(rows: Mapping[str, Any], values: Mapping[str, str]) -> None:
    """Four eyes: who may not mint an amount alone must not be able to allow it to himself.

    Raises Invalid. Only who owns the database raises it, by SQL.
    """
    if _FOUR_EYES not in values:
        return
    seed = KNOWN[_FOUR_EYES].seed
    written = rows[_FOUR_EYES].value if _FOUR_EYES in rows else seed
    try:
        is_raised = read_threshold(values[_FOUR_EYES]) > _threshold_or(seed, written)
    except ValueError as error:
        raise Invalid(f"{error}.", code="setting_refused") from error
    if is_raised:
        raise Invalid(
            f"{_FOUR_EYES} can only be lowered here: one person must not raise what one person "
            "may mint. It is raised by SQL.",
            code="setting_refused",
        )


def _threshold_or(seed: str, written: str) -> int:
    """Return the threshold; the seed if SQL has left it senseless, so that it can be mended."""
    try:
        return read_threshold(written)
    except ValueError:
        return read_threshold(seed)


def _check(tx: Tx, values: dict[str, str]) -> None:
    """Read all that reads the configuration. Raises ValueError naming the key at fault."""
    require_receivers(tx, read_terms(values))
    stripped = {key: value.strip() for key, value in values.items()}
    read_policy({key: one.seed for key, one in KNOWN.items()} | stripped)
    for key, reader in _OTHERS.items():
        reader(values.get(key, KNOWN[key].seed))
    for key, value in values.items():
        form = _PRICE if key.startswith("rate_") else _AMOUNT if key.startswith("tier_") else None
        if form is not None and form.fullmatch(value) is None:
            raise ValueError(f"{key} is {value[:40]!r}, not a plain number")


def _describe(key: str, row: Any) -> dict[str, Any]:
    setting = KNOWN.get(key)
    if setting is None:
        is_listed = _LISTED_KEY.fullmatch(key) is not None
        setting = Setting(
            key,
            "Shown in the price list" if is_listed else "Nothing reads it",
            "as written",
            "a plain number" if is_listed else "nothing",
            is_read_only=not is_listed,
        )
    return {
        "key": key,
        "value": row.value if row is not None else setting.seed,
        "isSeed": row is None,
        "meaning": setting.meaning,
        "unit": setting.unit,
        "allowed": setting.allowed,
        "isReadOnly": setting.is_read_only,
        "updatedAt": to_wire(row.updated_at) if row is not None else None,
    }


_OTHERS: Mapping[str, Callable[[str], object]] = {
    _FOUR_EYES: read_threshold,
    "mint_proposal_expiry_hours": read_expiry_hours,
    "revenue_rule_cooldown_hours": read_cooldown_hours,
    alerts.CLEAR_SECONDS_KEY: alerts.read_clear_seconds,
    alerts.DEMOTE_KEY: alerts.read_demote,
    **{rule.key: partial(alerts.read_limits, rule) for rule in alerts.RULES.values()},
    "low_balance_threshold_micro": watching.read_threshold,
    "expiry_notice_hours": watching.read_hours,
    retention.BODY_KEY: partial(retention.read_days, retention.BODY_KEY),
    retention.LETTER_KEY: partial(retention.read_days, retention.LETTER_KEY),
    retention.EVENT_KEY: partial(retention.read_days, retention.EVENT_KEY),
}
_ROWS = select(*_TABLE.c).order_by(ConfigRow.key)
