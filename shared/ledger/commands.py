"""Commands: every change of money, as data. Ids are made by the caller, so a repeat is the same."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.compact import compact
from shared.errors import ArrakisError
from shared.models.ledger import GENERAL_POOL


@dataclass(frozen=True, slots=True)
class Mint:
    """Create a lot of *amount_micro*; it pays the account's open debts first (contract 4.3).

    ``source_id`` names where the credits come from and is unique for ever within its type.
    Money that has arrived is credited whatever its amount: then ``is_received`` is true.
    """

    account_id: str
    lot_id: str
    amount_micro: int
    source_type: str
    source_id: str | None = None
    pool_id: str = GENERAL_POOL
    expires_at: datetime | None = None
    description: str | None = None
    idempotency_key: str | None = None
    is_received: bool = False

    operation = "mint"

    @property
    def key(self) -> str:
        """The key under which the answer is remembered: the caller's, the source, or the id."""
        return self.idempotency_key or self.source_id or self.lot_id

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        expires = self.expires_at.isoformat() if self.expires_at else None
        return _fingerprint(
            self.amount_micro, self.source_type, self.source_id, self.pool_id, expires
        )


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold *amount_micro* before a model runs. ``details`` is JSON text kept with the entry.

    ``basis`` says what the amount was estimated from: then a repeat must have the same basis,
    whatever prices have become meanwhile. ``refusal`` is why it could not be estimated.
    """

    account_id: str
    reservation_id: str
    amount_micro: int
    pool_id: str = GENERAL_POOL
    ttl_seconds: int | None = None
    idempotency_key: str | None = None
    description: str | None = None
    details: str | None = None
    basis: str | None = None
    refusal: ArrakisError | None = None

    operation = "reserve"

    @property
    def key(self) -> str:
        """The caller's key, or the reservation's own id."""
        return self.idempotency_key or self.reservation_id

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        return _fingerprint(
            self.basis or self.amount_micro,
            self.pool_id,
            self.ttl_seconds,
            self.description,
            self.details,
        )


@dataclass(frozen=True, slots=True)
class Extend:
    """Hold *additional_micro* more on a pending hold, and longer if ``ttl_seconds`` says so."""

    reservation_id: str
    additional_micro: int
    extension_id: str
    ttl_seconds: int | None = None
    account_id: str | None = None
    idempotency_key: str | None = None

    operation = "extend"

    @property
    def key(self) -> str:
        """The caller's key, or the extension's own id."""
        return self.idempotency_key or self.extension_id

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        return _fingerprint(self.reservation_id, self.additional_micro, self.ttl_seconds)


@dataclass(frozen=True, slots=True)
class Finalize:
    """Settle a hold at its actual cost. ``account_id``, if given, must be the hold's.

    ``details`` is a JSON object to keep on the entry (model, tokens …); it is no content.
    """

    reservation_id: str
    actual_cost_micro: int
    account_id: str | None = None
    idempotency_key: str | None = None
    details: str | None = None

    operation = "finalize"

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have: the requested cost, also after a cap."""
        return _fingerprint(self.reservation_id, self.actual_cost_micro)


@dataclass(frozen=True, slots=True)
class Release:
    """Give a hold back. Repeating it gives the same answer."""

    reservation_id: str
    account_id: str | None = None
    reason: str | None = None

    operation = "release"


@dataclass(frozen=True, slots=True)
class ExpireHold:
    """End a hold whose time is over; does nothing to another one."""

    reservation_id: str

    operation = "expire_hold"


@dataclass(frozen=True, slots=True)
class ExpireLot:
    """Take what is left available in a lot whose time is over; does nothing to another one."""

    account_id: str
    lot_id: str

    operation = "expire_lot"


@dataclass(frozen=True, slots=True)
class Refund:
    """Take back what a lot gave, because its payment went back to the payer (contract 6).

    ``payment_id`` is kept with the debt. A lot is refunded once; a repeat gets the same answer.
    """

    account_id: str
    lot_id: str
    payment_id: str | None = None
    description: str | None = None

    operation = "refund"

    @property
    def key(self) -> str:
        """The lot itself: it can be refunded once."""
        return self.lot_id

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        return _fingerprint(self.lot_id)


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take back what is unspent of a granted lot, and end the lot's time.

    What was spent stays spent, so no debt arises. A lot is revoked once; a repeat gets the same
    answer.
    """

    account_id: str
    lot_id: str
    description: str | None = None

    operation = "revoke"

    @property
    def key(self) -> str:
        """The lot itself: it can be revoked once."""
        return self.lot_id

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        return _fingerprint(self.lot_id)


@dataclass(frozen=True, slots=True)
class Adjust:
    """An operator's correction by *amount_micro*, of either sign, with its *reason*."""

    account_id: str
    adjustment_id: str
    amount_micro: int
    reason: str
    pool_id: str = GENERAL_POOL
    idempotency_key: str | None = None

    operation = "adjust"

    @property
    def key(self) -> str:
        """The caller's key, or the adjustment's own id."""
        return self.idempotency_key or self.adjustment_id

    @property
    def fingerprint(self) -> str:
        """The content that a repeat must have."""
        return _fingerprint(self.amount_micro, self.reason, self.pool_id)


Command = (
    Mint | Reserve | Extend | Finalize | Release | Refund | Revoke | Adjust | ExpireHold | ExpireLot
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one command: an answer as callers see it, or a typed refusal.

    ``is_replay`` says that the answer is an earlier one, given again.
    """

    answer: dict[str, Any] | None = None
    error: ArrakisError | None = None
    is_replay: bool = False

    def unwrap(self) -> dict[str, Any]:
        """Return the answer, or raise the refusal."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


def _fingerprint(*parts: object) -> str:
    return compact(parts)
