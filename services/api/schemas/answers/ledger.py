"""Answers about accounts, holds, lots and entries."""

from typing import Annotated, Any, Literal

from pydantic import Field

from services.api.schemas.answers.fields import Answer, Micro, Mode, NextCursor, Time
from shared.models.ledger import ENTRY_TYPES

Bps = Annotated[int, Field(ge=0, le=10_000)]
EntryType = Annotated[str, Field(pattern=f"^({'|'.join(ENTRY_TYPES)})$")]
HoldStatus = Literal["pending", "finalized", "released", "expired"]


class Balance(Answer):
    """A balance: available = lots less debts; settled = available + reserved."""

    available_micro: Micro
    reserved_micro: Micro
    debt_micro: Micro
    settled_micro: Micro


class AccountBalance(Balance):
    """The balance of an account as a pool sees it: the pool's own credits and the general ones."""

    account_id: str
    pool_id: str


class Account(Answer):
    """An account and whose it is."""

    account_id: str
    entity_type: str
    entity_id: str
    created_at: Time


class AccountWithBalance(Account):
    """An account with its balance in the general pool."""

    balance: AccountBalance


class Accounts(Answer):
    """A page of accounts."""

    accounts: list[Account]
    next_cursor: NextCursor


class Allocation(Answer):
    """What a hold took from a lot."""

    lot_id: str
    reserved_micro: Micro


class Hold(Answer):
    """Credits that are held, and what is left."""

    reservation_id: str
    account_id: str
    pool_id: str
    reserved_micro: Micro
    status: HoldStatus
    billing_mode: Mode
    expires_at: Time
    balance: Balance
    allocations: list[Allocation]


class Settlement(Answer):
    """What a hold cost in the end; the surplus is available again."""

    reservation_id: str
    account_id: str
    finalized_micro: Micro
    released_micro: Micro
    overrun_micro: Micro
    uncharged_micro: Micro
    debt_micro: Micro
    billing_mode: Mode
    late: bool
    finalized_at: Time


class Released(Answer):
    """A hold that was given back."""

    reservation_id: str
    released_micro: Micro


class BatchResult(Answer):
    """What one operation's own route would have answered."""

    status: int
    body: dict[str, Any]


class BatchResults(Answer):
    """A result for each operation, in order."""

    results: list[BatchResult]


class Estimate(Answer):
    """What a request may cost at the most."""

    model: str
    estimated_cost_micro: Micro
    safety_multiplier: Annotated[str, Field(examples=["1.1"])]


class UsedLot(Allocation):
    """What a hold took from a lot, and what it spent of that."""

    consumed_micro: Micro


class ReservationFacts(Answer):
    """A hold as it stands, without its lots."""

    reservation_id: str
    account_id: str
    pool_id: str
    reserved_micro: Micro
    status: HoldStatus
    billing_mode: Mode
    expires_at: Time
    created_at: Time
    finalized_at: Time | None
    finalized_micro: Micro
    debt_micro: Micro


class Reservation(ReservationFacts):
    """A hold as it stands."""

    allocations: list[UsedLot]


class Entry(Answer):
    """A line of the ledger; they only grow in number."""

    id: str
    entry_type: EntryType
    amount_micro: Micro
    pool_id: str | None
    lot_id: str | None
    reservation_id: str | None
    entry_seq: int | None
    description: str | None
    pre_balance_micro: Micro | None
    post_balance_micro: Micro | None
    created_at: Time


class Pagination(Answer):
    """Which part of the list this is."""

    limit: int
    offset: int
    count: int


class History(Answer):
    """A page of an account's entries."""

    account_id: str
    entries: list[Entry]
    pagination: Pagination
    next_cursor: NextCursor


class Lot(Answer):
    """A bucket of credits."""

    lot_id: str
    pool_id: str
    source_type: str
    source_id: str | None
    original_micro: Micro
    available_micro: Micro
    reserved_micro: Micro
    consumed_micro: Micro
    expires_at: Time | None
    created_at: Time


class Lots(Answer):
    """Lots in the order in which they will be spent; the first 500."""

    account_id: str
    pool_id: str
    lots: list[Lot]


class StatementLine(Answer):
    """A movement and the balance after it."""

    id: str
    created_at: Time
    entry_type: EntryType
    pool_id: str | None
    amount_micro: Micro
    balance_micro: Micro
    lot_id: str | None
    reservation_id: str | None
    description: str | None


class Statement(Answer):
    """What moved in a period: opening balance + entries = closing balance."""

    account_id: str
    since: Time
    until: Time
    opening_micro: Micro
    entries: list[StatementLine]
    totals_micro: dict[str, Micro]
    closing_micro: Micro


class Origin(Answer):
    """What a lot came from: a payment or a grant; of the fields those of the one are there."""

    payment_id: str = ""
    provider: str = ""
    provider_payment_id: str | None = None
    status: str = ""
    grant_id: str = ""
    campaign_id: str = ""


class ExplainedLot(Answer):
    """A lot and where it came from."""

    lot_id: str
    pool_id: str
    source_type: str
    source_id: str | None
    original_micro: Micro
    created_at: Time
    expires_at: Time | None
    origin: Annotated[Origin | None, Field(alias="from")]


class ExplainedUse(ExplainedLot):
    """A lot, what a hold took of it, and what of that was spent."""

    held_micro: Micro
    consumed_here_micro: Micro


class ExplainedDebt(Answer):
    """A debt that a charge left."""

    debt_id: str
    original_micro: Micro
    open_micro: Micro


class Split(Answer):
    """Who got which part of a charge."""

    commons_micro: Micro
    community_micro: Micro
    foundation_micro: Micro


class ExplainedLine(Answer):
    """A line of the ledger, of any account."""

    id: str
    account_id: str
    entry_type: EntryType
    amount_micro: Micro
    entry_seq: int | None
    description: str | None
    created_at: Time


class ExplainedReservation(ReservationFacts):
    """A hold with its lots in the order of consumption, its debts, its split and its entries."""

    overdraft_micro: Micro
    uncharged_micro: Micro
    late: bool
    lots: list[ExplainedUse]
    debts: list[ExplainedDebt]
    split: Split
    entries: list[ExplainedLine]


class ExplainedEntry(Answer):
    """A line of the ledger, with the hold and the lot that it is part of, if any."""

    entry: ExplainedLine
    reservation: ExplainedReservation | None = None
    lot: ExplainedLot | None = None


class PoolBalance(Balance):
    """What a pool holds by itself, without the general one."""

    pool_id: str


class OpenHold(Answer):
    """A hold that is pending."""

    reservation_id: str
    pool_id: str
    reserved_micro: Micro
    overdraft_micro: Micro
    billing_mode: Mode
    created_at: Time
    expires_at: Time


class OpenDebt(Answer):
    """A debt that is not paid, and what it came from."""

    debt_id: str
    open_micro: Micro
    original_micro: Micro
    reservation_id: str | None
    lot_id: str | None
    payment_id: str | None
    created_at: Time


class AccountOverview(AccountWithBalance):
    """An account at a glance: its pools, what is open, and its last entries."""

    pools: list[PoolBalance]
    lots: list[Lot]
    holds: list[OpenHold]
    debts: list[OpenDebt]
    entries: list[Entry]


class ShadowFigures(Answer):
    """What was reserved and charged in shadow mode; ratios have four decimals."""

    reserves: int
    finalizes: int
    reserved_micro: Micro
    finalized_micro: Micro
    estimated_micro: Micro
    actual_micro: Micro
    actual_per_estimated: str | None
    ended: int
    lost: int
    error_rate: str | None


class ShadowAccount(ShadowFigures):
    """The same of one account, and what live mode would have refused."""

    account_id: str
    would_refuse: int
    largest_shortfall_micro: Micro


class ShadowTotals(Answer):
    """Whom live mode would have refused of the accounts of this page, summed up."""

    accounts: int
    accounts_refused: int
    would_refuse: int
    largest_shortfall_micro: Micro


class ShadowSummary(ShadowFigures):
    """What shadow mode would have charged, in all and by account."""

    account_id: str | None
    since: Time | None
    shown: ShadowTotals
    accounts: list[ShadowAccount]
    next_cursor: NextCursor


class Minted(Answer):
    """A lot that was made; debts were paid from it first."""

    lot_id: str
    account_id: str
    pool_id: str
    amount_micro: Micro
    debt_paid_micro: Micro
    balance: Balance
