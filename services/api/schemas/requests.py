"""The bodies and queries of the routes."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from services.api.schemas.fields import (
    EntityId,
    Identifier,
    Key,
    Metadata,
    Micro,
    MicroOrZero,
    Moment,
    OptionalMicro,
    Pool,
    Request,
    Text,
)
from shared.ledger.estimates import TOKENS_MAX
from shared.models.ledger import ENTRY_TYPES, GENERAL_POOL

ModelName = Annotated[str, Field(min_length=1, max_length=100)]
Tokens = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
EntityType = Literal["agent", "person", "community", "mod", "protocol", "foundation", "commons"]
EntryType = Annotated[str, Field(pattern=f"^({'|'.join(ENTRY_TYPES)})$")]


class ReserveRequest(Request):
    """A hold on credits: who, how much, on which pool, for how long."""

    account_id: Identifier | None = None
    entity_type: EntityType | None = None
    entity_id: EntityId | None = None
    model: ModelName | None = None
    input_tokens: Tokens = 0
    max_output_tokens: Tokens = 0
    estimated_cost_micro: Annotated[OptionalMicro, Field(validate_default=True)] = None
    pool_id: Pool = GENERAL_POOL
    ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    request_id: Key | None = None
    description: Text | None = None
    metadata: Metadata = None

    @model_validator(mode="after")
    def _names_an_account(self) -> Self:
        if self.account_id is None and (self.entity_type is None or self.entity_id is None):
            raise ValueError("accountId, or entityType and entityId, must be given")
        return self

    @field_validator("estimated_cost_micro")
    @classmethod
    def _is_the_one_amount(cls, value: int | None, info: ValidationInfo) -> int | None:
        if (value is None) == (info.data.get("model") is None):
            raise ValueError("Either an amount, or a model with its tokens, must be given.")
        return value


class EstimateRequest(Request):
    """What a request to a model is about."""

    model: ModelName
    input_tokens: Tokens
    max_output_tokens: Tokens


class ExtendRequest(Request):
    """More for a pending hold, and longer if a time is given."""

    reservation_id: Identifier
    additional_micro: Micro
    ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    account_id: Identifier | None = None


class BatchRequest(Request):
    """Up to 500 operations; each is parsed by itself, so that none stops another."""

    operations: Annotated[list[Any], Field(min_length=1, max_length=500)]


class BatchedOperation(Request):
    """What an operation of a batch names besides the body of its own route."""

    op: Any = None
    idempotency_key: Key | None = None


class FinalizeRequest(Request):
    """The actual cost of a hold; zero is a cost too."""

    reservation_id: Identifier
    actual_cost_micro: MicroOrZero
    account_id: Identifier | None = None
    metadata: Metadata = None


class ReleaseRequest(Request):
    """A hold to give back."""

    reservation_id: Identifier
    account_id: Identifier | None = None
    reason: Text | None = None


class AccountRequest(Request):
    """An account to be made for an entity."""

    entity_type: EntityType
    entity_id: EntityId
    account_id: Annotated[Identifier, Field(pattern=r"^[A-Za-z0-9._:-]+$")] | None = None


class MintRequest(Request):
    """Credits that an admin gives; ``paymentId`` names the payment that they stand for."""

    amount_micro: Micro
    source_type: Literal["grant", "deposit"] = "grant"
    description: Text | None = None
    pool_id: Pool = GENERAL_POOL
    payment_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None


class BalanceQuery(Request):
    """Which pool's view of the balance is wanted."""

    pool_id: Pool = GENERAL_POOL


class HistoryQuery(Request):
    """Which entries are wanted, and which page of them."""

    pool_id: Pool | None = None
    entry_type: EntryType | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    offset: Annotated[int, Field(ge=0, le=1_000_000, strict=False)] = 0
    cursor: Annotated[str, Field(max_length=200)] | None = None


class ShadowQuery(Request):
    """Whose shadow entries are wanted, since when (ISO 8601 with its zone), and which page."""

    account_id: Identifier | None = None
    since: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None


class StatementQuery(Request):
    """Which period is wanted: *since* included, *until* (default now) not; ISO 8601 with zone."""

    since: Moment
    until: Moment | None = None


class PageQuery(Request):
    """A page of a list in the order of its ids."""

    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None
