"""x402 tables: what was quoted, and how each payment of it was settled (contract 7)."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import NOW, STRICT, Base, Job, one_of
from shared.models.types import Flag, Micro

_OPEN = text("is_open")
_NEW = text("state = 'new'")


class Quote(Base):
    """An offer to one account: who pays ``amount_micro`` in time is credited ``credit_micro``.

    ``offers`` is a JSON list of the terms, one for each network: what was offered holds, whatever
    the settings say later.
    """

    __tablename__ = "payment_quotes"
    __table_args__ = (
        CheckConstraint("amount_micro > 0", name="amount_micro"),
        CheckConstraint("credit_micro > 0", name="credit_micro"),
        Index("ix_payment_quotes_account_id", "account_id", "created_at"),
        Index("ix_payment_quotes_expires_at", "expires_at"),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("credit_accounts.id"))
    amount_micro: Mapped[int] = mapped_column(Micro)
    credit_micro: Mapped[int] = mapped_column(Micro)
    pack_id: Mapped[str | None]
    offers: Mapped[str]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Settlement(Job, Base):
    """One payment on its way over a chain: an authorization that is settled, or a transfer seen.

    ``phase``: reserved (nothing was sent) → settling (the facilitator may have sent it) → settled
    or refused; a transfer begins as confirming. While ``is_open`` its authorization and its quote
    are taken: the unique indexes reserve them (W31, W51). ``value`` counts the token's units.
    """

    __tablename__ = "x402_settlements"
    __table_args__ = (
        one_of("state", "new", "done", "parked"),
        one_of("phase", "reserved", "settling", "confirming", "settled", "refused"),
        Index(
            "uq_x402_settlements_authorization",
            "network",
            "asset",
            "payer",
            "nonce",
            unique=True,
            postgresql_where=_OPEN,
            sqlite_where=_OPEN,
        ),
        Index(
            "uq_x402_settlements_quote",
            "quote_id",
            unique=True,
            postgresql_where=_OPEN,
            sqlite_where=_OPEN,
        ),
        Index("ix_x402_settlements_quote_id", "quote_id"),
        Index("uq_x402_settlements_payment", "payment_id", unique=True),
        Index("ix_x402_settlements_due", "due_at", "id", postgresql_where=_NEW, sqlite_where=_NEW),
        STRICT,
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    payment_id: Mapped[str] = mapped_column(ForeignKey("crypto_payments.id"))
    quote_id: Mapped[str | None] = mapped_column(ForeignKey("payment_quotes.id"))
    network: Mapped[str]
    asset: Mapped[str]
    payer: Mapped[str]
    nonce: Mapped[str | None]
    value: Mapped[str]
    valid_before: Mapped[int | None] = mapped_column(Micro)
    version: Mapped[int | None]
    payload: Mapped[str | None]
    terms: Mapped[str | None]
    transaction_hash: Mapped[str | None]
    from_block: Mapped[int | None] = mapped_column(Micro)
    phase: Mapped[str]
    is_open: Mapped[bool] = mapped_column(Flag, server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
