"""The terms of business that operators set in ``billing_config``; at most seconds old."""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal, TypeVar, cast

import structlog
from sqlalchemy import select

from shared.database import Database, Tx
from shared.errors import Unavailable
from shared.ledger.estimates import ModelPrice, read_multiplier, read_prices
from shared.models.ledger import MODES, Account
from shared.models.operations import ConfigRow
from shared.money import BPS_WHOLE, MAX_AMOUNT_MICRO

V = TypeVar("V")
Mode = Literal["shadow", "soft", "live"]

log = structlog.get_logger()
_DIGITS = re.compile(r"[0-9]{1,20}")
_STALE_SECONDS = 1.0  # the contract allows five


@dataclass(frozen=True, slots=True)
class Terms:
    """What the rules need to know of the configuration. Rates are in bps and add up to 10,000."""

    mode: Mode = "shadow"
    reserve_ttl_seconds: int = 300
    late_finalize_grace_seconds: int = 3600
    ceiling_micro: int = 100_000_000_000
    overrun_alert_threshold_pct: int = 5
    commons_rate_bps: int = 500
    community_rate_bps: int = 7000
    foundation_rate_bps: int = 2500
    commons_account_id: str = "sys-commons"
    community_account_id: str = "sys-community-pool"
    foundation_account_id: str = "sys-foundation"
    safety_multiplier: Fraction = Fraction(11, 10)
    model_prices: Mapping[str, ModelPrice] = field(default_factory=dict)


class TermsError(ValueError):
    """A row of ``billing_config`` makes no sense."""


def read_terms(values: dict[str, str]) -> Terms:
    """Build the terms from rows of ``billing_config``; a missing row means its seed.

    Raises TermsError naming the key at fault.
    """
    mode = values.get("billing_mode", "shadow")
    if mode not in MODES:
        raise TermsError(f"billing_mode is {mode!r}, not one of {', '.join(MODES)}")
    terms = Terms(
        mode=cast("Mode", mode),
        reserve_ttl_seconds=_whole(values, "reserve_ttl_seconds", 300, 1, 86_400),
        late_finalize_grace_seconds=_whole(
            values, "late_finalize_grace_seconds", 3600, 0, 30 * 86_400
        ),
        ceiling_micro=_whole(values, "ceiling_micro", 100_000_000_000, 1, MAX_AMOUNT_MICRO),
        overrun_alert_threshold_pct=_whole(values, "overrun_alert_threshold_pct", 5, 0, 1_000_000),
        commons_rate_bps=_whole(values, "commons_rate_bps", 500, 0, BPS_WHOLE),
        community_rate_bps=_whole(values, "community_rate_bps", 7000, 0, BPS_WHOLE),
        foundation_rate_bps=_whole(values, "foundation_rate_bps", 2500, 0, BPS_WHOLE),
        commons_account_id=values.get("commons_account_id") or "sys-commons",
        community_account_id=values.get("community_account_id") or "sys-community-pool",
        foundation_account_id=values.get("foundation_account_id") or "sys-foundation",
        safety_multiplier=_read(read_multiplier, values, "safety_multiplier", "1.1"),
        model_prices=_read(read_prices, values, "model_prices", "{}"),
    )
    rates = (terms.commons_rate_bps, terms.community_rate_bps, terms.foundation_rate_bps)
    if sum(rates) != BPS_WHOLE:
        raise TermsError(f"the three *_rate_bps are {rates} and do not add up to {BPS_WHOLE}")
    return terms


def _read(reader: Callable[[str], V], values: dict[str, str], key: str, seed: str) -> V:
    try:
        return reader(values.get(key, seed))
    except ValueError as error:
        raise TermsError(f"{key} makes no sense: {error}") from error


def _whole(values: dict[str, str], key: str, seed: int, lowest: int, highest: int) -> int:
    text = values.get(key, str(seed)).strip()
    if not _DIGITS.fullmatch(text) or not lowest <= int(text) <= highest:
        raise TermsError(f"{key} is {text!r}, not a whole number from {lowest} to {highest}")
    return int(text)


def load_terms(tx: Tx) -> Terms:
    """Read the terms. Raises TermsError, also if an account that they name does not exist."""
    terms = read_terms({row.key: row.value for row in tx.all(_CONFIG)})
    require_receivers(tx, terms)
    return terms


def require_receivers(tx: Tx, terms: Terms) -> None:
    """Raise TermsError if an account that *terms* names for revenue does not exist."""
    named = {terms.commons_account_id, terms.community_account_id, terms.foundation_account_id}
    unknown = named - {row.id for row in tx.all(_ACCOUNTS.where(Account.id.in_(named)))}
    if unknown:
        raise TermsError(f"no such account for revenue: {', '.join(sorted(unknown))}")


_CONFIG = select(ConfigRow.key, ConfigRow.value)
_ACCOUNTS = select(Account.id)


class TermsCache:
    """The terms of one process, read again when older than a second.

    A senseless change by hand is logged and the last good terms stay in force.
    """

    def __init__(self, database: Database, *, ceiling_micro: int = MAX_AMOUNT_MICRO) -> None:
        self._database = database
        self._ceiling_micro = ceiling_micro  # the environment's; the lower of the two holds
        self._lock = threading.Lock()
        self._terms: Terms | None = None
        self._read_at = 0.0

    def current(self) -> Terms:
        """Return the terms in force. Raises Unavailable if there never were good ones."""
        if self._terms is not None and time.monotonic() - self._read_at < _STALE_SECONDS:
            return self._terms
        with self._lock:
            if self._terms is None or time.monotonic() - self._read_at >= _STALE_SECONDS:
                self._refresh()
            assert self._terms is not None
            return self._terms

    def _refresh(self) -> None:
        try:
            with self._database.reading() as tx:
                terms = load_terms(tx)
            ceiling = min(terms.ceiling_micro, self._ceiling_micro)
            self._terms = replace(terms, ceiling_micro=ceiling)
        except TermsError as error:
            log.error("config_refused", reason=str(error))  # noqa: TRY400  the sentence is enough
            if self._terms is None:
                raise Unavailable(str(error), code="config_invalid") from error
        self._read_at = time.monotonic()
