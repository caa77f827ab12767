"""Ledger tables: accounts, lots, holds, entries, debts and remembered answers (behaviour 3.1)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, one_of
from shared.models.types import Flag, Micro, UtcTime

GENERAL_POOL = "general"
# The conditions of partial indexes, word for word, so that both databases know their index.
OPEN_LOT = text("credit_lots.is_open")
PENDING_HOLD = text("credit_reservations.status = 'pending'")
UNPOSTED_REVENUE = text("NOT credit_reservations.is_revenue_posted")
# Where modes are rehearsed: what happens there is nobody's usage, and no figure counts it.
REHEARSAL_ACCOUNT = "rehearsal"

ENTITY_TYPES = ("agent", "person", "community", "mod", "protocol", "foundation", "commons")
SOURCE_TYPES = ("deposit", "grant", "purchase", "transfer_in", "commons_dividend")
MODES = ("shadow", "soft", "live")
# The fifteen types of the earlier system, then ours.
ENTRY_TYPES = (
    "deposit",
    "reserve",
    "finalize",
    "release",
    "refund",
    "grant",
    "shadow_charge",
    "shadow_reserve",
    "shadow_finalize",
    "commons_contribution",
    "revenue_share",
    "marketplace_sale",
    "marketplace_purchase",
    "escrow",
    "escrow_release",
    "expire",
    "adjust",
)


class Account(Base):
    """Who owns credits. Its row is the lock of everything the account owns."""

    __tablename__ = "credit_accounts"
    __table_args__ = (
        one_of("entity_type", *ENTITY_TYPES),
        UniqueConstraint("entity_type", "entity_id"),
        {**STRICT, "postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    entity_type: Mapped[str]
    entity_id: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Lot(Base):
    """One bucket of credits with its source, pool and expiry.

    ``consumed_micro`` is all that left for good: spent, expired, clawed back or taken for a debt;
    the middle two are counted apart. ``is_open`` says that something is left (available or held).
    """

    __tablename__ = "credit_lots"
    __table_args__ = (
        one_of("source_type", *SOURCE_TYPES),
        CheckConstraint(
            "available_micro >= 0 AND reserved_micro >= 0 AND consumed_micro >= 0",
            name="lot_balance",
        ),
        CheckConstraint(
            "available_micro + reserved_micro + consumed_micro = original_micro",
            name="lot_invariant",
        ),
        CheckConstraint("expired_micro >= 0 AND clawed_back_micro >= 0", name="lot_parts"),
        Index(
            "uq_credit_lots_source",
            "source_type",
            "source_id",
            unique=True,
            postgresql_where=text("source_id IS NOT NULL"),
            sqlite_where=text("source_id IS NOT NULL"),
        ),
        Index(
            "ix_credit_lots_open",
            "account_id",
            "pool_id",
            "expires_at",
            "created_at",
            "id",
            postgresql_where=text("is_open"),
            sqlite_where=text("is_open"),
        ),
        Index(
            "ix_credit_lots_expiring",
            "expires_at",
            "account_id",
            postgresql_where=text("is_open AND expires_at IS NOT NULL"),
            sqlite_where=text("is_open AND expires_at IS NOT NULL"),
        ),
        Index("ix_credit_lots_account", "account_id", "created_at", "id"),
        {**STRICT, "postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    pool_id: Mapped[str] = mapped_column(server_default=GENERAL_POOL)
    source_type: Mapped[str]
    source_id: Mapped[str | None]
    original_micro: Mapped[int] = mapped_column(Micro)
    available_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    reserved_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    consumed_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    expired_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    clawed_back_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    is_open: Mapped[bool] = mapped_column(Flag, server_default=text("true"))
    refunded_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Balance(Base):
    """What an account owns in one pool: a cache of its lots (and debts, in ``general``).

    Rows of one account add up to its available credits; the view of pool P is P plus general.
    """

    __tablename__ = "credit_balances"
    __table_args__ = ({**STRICT, "postgresql_with": {"fillfactor": 60}},)

    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"), primary_key=True)
    pool_id: Mapped[str] = mapped_column(primary_key=True, server_default=GENERAL_POOL)
    available_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    reserved_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    debt_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    version: Mapped[int] = mapped_column(Micro, server_default="0")
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AccountSeq(Base):
    """The next sequence number of an account's entries in one pool."""

    __tablename__ = "credit_account_seq"
    __table_args__ = ({**STRICT, "postgresql_with": {"fillfactor": 60}},)

    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"), primary_key=True)
    pool_id: Mapped[str] = mapped_column(primary_key=True, server_default="__all__")
    next_seq: Mapped[int] = mapped_column(Micro, server_default="1")


class Entry(Base):
    """A row of the append-only ledger.

    For every account the sum of its entries other than ``shadow_*`` is what it has available.
    Revenue rows of the system accounts carry no sequence and no balance: writing them must not
    make all payers wait for one counter (contract 4.7).
    """

    __tablename__ = "credit_ledger"
    __table_args__ = (
        one_of("entry_type", *ENTRY_TYPES),
        UniqueConstraint("account_id", "pool_id", "entry_seq"),
        Index("ix_credit_ledger_account", "account_id", "created_at", "id"),
        Index(
            "ix_credit_ledger_reservation",
            "reservation_id",
            postgresql_where=text("reservation_id IS NOT NULL"),
            sqlite_where=text("reservation_id IS NOT NULL"),
        ),
        Index(
            "ix_credit_ledger_revenue",
            "created_at",
            "entry_type",
            postgresql_where=text("entry_type IN ('commons_contribution', 'revenue_share')"),
            sqlite_where=text("entry_type IN ('commons_contribution', 'revenue_share')"),
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    pool_id: Mapped[str] = mapped_column(server_default=GENERAL_POOL)
    lot_id: Mapped[str | None] = mapped_column(ForeignKey("credit_lots.id"))
    reservation_id: Mapped[str | None] = mapped_column(ForeignKey("credit_reservations.id"))
    entry_seq: Mapped[int | None] = mapped_column(Micro)
    entry_type: Mapped[str]
    amount_micro: Mapped[int] = mapped_column(Micro)
    idempotency_key: Mapped[str | None]
    description: Mapped[str | None]
    # "metadata" is taken by the declarative API, so only the column bears the name.
    details: Mapped[str | None] = mapped_column("metadata")
    pre_balance_micro: Mapped[int | None] = mapped_column(Micro)
    post_balance_micro: Mapped[int | None] = mapped_column(Micro)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Reservation(Base):
    """A hold, and after its end what it cost and how that was split.

    ``total_reserved_micro`` is what was asked and granted; ``overdraft_micro`` the part of it that
    no lot covered (soft mode). ``requested_cost_micro`` is compared on a repeat, also after a cap.
    """

    __tablename__ = "credit_reservations"
    __table_args__ = (
        one_of("status", "pending", "finalized", "released", "expired"),
        one_of("billing_mode", *MODES),
        CheckConstraint("total_reserved_micro >= 0 AND overdraft_micro >= 0", name="amounts"),
        CheckConstraint(
            "commons_micro + community_micro + foundation_micro = finalized_micro"
            " OR billing_mode = 'shadow'",
            name="split_conserves",
        ),
        Index(
            "ix_credit_reservations_expiring",
            "expires_at",
            postgresql_where=text("status = 'pending'"),
            sqlite_where=text("status = 'pending'"),
        ),
        Index(
            "ix_credit_reservations_unposted",
            "finalized_at",
            postgresql_where=text("NOT is_revenue_posted"),
            sqlite_where=text("NOT is_revenue_posted"),
        ),
        Index("ix_credit_reservations_account", "account_id", "created_at"),
        # What ended lately, for the alerts' rates.
        Index(
            "ix_credit_reservations_ended",
            "finalized_at",
            postgresql_where=text("finalized_at IS NOT NULL"),
            sqlite_where=text("finalized_at IS NOT NULL"),
        ),
        Index(
            "ix_credit_reservations_expired",
            "expires_at",
            postgresql_where=text("status = 'expired'"),
            sqlite_where=text("status = 'expired'"),
        ),
        {**STRICT, "postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    pool_id: Mapped[str] = mapped_column(server_default=GENERAL_POOL)
    total_reserved_micro: Mapped[int] = mapped_column(Micro)
    overdraft_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    status: Mapped[str] = mapped_column(server_default="pending")
    billing_mode: Mapped[str] = mapped_column(server_default="live")
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finalized_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None]
    requested_cost_micro: Mapped[int | None] = mapped_column(Micro)
    finalized_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    released_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    overrun_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    uncharged_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    debt_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    is_late: Mapped[bool] = mapped_column(Flag, server_default=text("false"))
    commons_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    community_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    foundation_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    is_revenue_posted: Mapped[bool] = mapped_column(Flag, server_default=text("true"))


class ReservationLot(Base):
    """What a hold took from one lot, and what it consumed of it in the end."""

    __tablename__ = "reservation_lots"
    __table_args__ = (
        CheckConstraint("reserved_micro >= 0 AND consumed_micro >= 0", name="amounts"),
        Index("ix_reservation_lots_lot", "lot_id"),
        {**STRICT, "postgresql_with": {"fillfactor": 80}},
    )

    reservation_id: Mapped[str] = mapped_column(
        ForeignKey("credit_reservations.id"), primary_key=True
    )
    lot_id: Mapped[str] = mapped_column(ForeignKey("credit_lots.id"), primary_key=True)
    reserved_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    consumed_micro: Mapped[int] = mapped_column(Micro, server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Debt(Base):
    """What an account still owes after a refund or a soft overrun.

    ``debt_micro`` is what is still owed (its last part once ``resolved_at`` is set);
    ``original_micro`` what was owed at first.
    """

    __tablename__ = "credit_debts"
    __table_args__ = (
        CheckConstraint("debt_micro > 0", name="debt_positive"),
        CheckConstraint("original_micro IS NULL OR original_micro >= debt_micro", name="original"),
        Index(
            "ix_credit_debts_open",
            "account_id",
            "created_at",
            "id",
            postgresql_where=text("resolved_at IS NULL"),
            sqlite_where=text("resolved_at IS NULL"),
        ),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    pool_id: Mapped[str] = mapped_column(server_default=GENERAL_POOL)
    debt_micro: Mapped[int] = mapped_column(Micro)
    original_micro: Mapped[int | None] = mapped_column(Micro)
    source_payment_id: Mapped[str | None]
    source_lot_id: Mapped[str | None] = mapped_column(ForeignKey("credit_lots.id"))
    source_reservation_id: Mapped[str | None] = mapped_column(ForeignKey("credit_reservations.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    resolved_at: Mapped[datetime | None]


class DebtPayment(Base):
    """A part of a lot that paid a debt when the lot was minted."""

    __tablename__ = "credit_debt_payments"
    __table_args__ = (CheckConstraint("paid_micro > 0", name="paid"), STRICT)

    debt_id: Mapped[str] = mapped_column(ForeignKey("credit_debts.id"), primary_key=True)
    lot_id: Mapped[str] = mapped_column(ForeignKey("credit_lots.id"), primary_key=True)
    paid_micro: Mapped[int] = mapped_column(Micro)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Operation(Base):
    """The answer to a request with a key, remembered for ever (contract 4.1).

    ``fingerprint`` is the content that a repeat must have; ``answer`` the JSON that it gets.
    """

    __tablename__ = "credit_operations"
    __table_args__ = (STRICT,)

    # The key comes first: answers are looked up by a set of keys.
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"), primary_key=True)
    operation: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    answer: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class IdempotencyKey(Base):
    """The runbook's view of recent keys: deposits under scope ``deposit``. Swept after 24 h."""

    __tablename__ = "billing_idempotency_keys"
    __table_args__ = (Index("ix_billing_idempotency_keys_expires_at", "expires_at"), STRICT)

    scope: Mapped[str] = mapped_column(primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    response_hash: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime] = mapped_column(UtcTime)
