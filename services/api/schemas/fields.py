"""The kinds of field that requests are made of."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from shared.errors import Invalid
from shared.money import BPS_WHOLE, parse_amount, parse_usd

_METADATA_MAX_BYTES = 4096
_POOL = r"^(general|(campaign|agent):[A-Za-z0-9_.:-]{1,120})$"


class Request(BaseModel):
    """Base of all bodies and queries: camelCase on the wire, strict types, extra ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="ignore",
        strict=True,
        frozen=True,
        hide_input_in_errors=True,
    )


def _amount(value: Any) -> int:
    try:
        return parse_amount(value)
    except Invalid as error:
        raise ValueError(error.message) from error


def _positive(value: int) -> int:
    if value == 0:
        raise ValueError("An amount must be greater than zero.")
    return value


def _dollars(value: Any) -> int:
    try:
        return parse_usd(value)
    except Invalid as error:
        raise ValueError(error.message) from error


def _small_object(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004  pydantic wants ValueError
    text = json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
    )
    if len(text.encode("utf-8", "surrogatepass")) > _METADATA_MAX_BYTES:
        raise ValueError(f"must be at most {_METADATA_MAX_BYTES} bytes of JSON")
    return text


def storable(value: str) -> str:
    """Return *value*. Raises ValueError if no database can store it."""
    # PostgreSQL text holds no NUL, and UTF-8 no lone surrogate.
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("contains characters that cannot be stored")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is beyond the years 1 to 9999 in UTC") from error


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


# What pydantic cannot tell of validators that are functions.
_ZERO_OR_MORE = {
    "type": "string",
    "pattern": r"^(0|[1-9][0-9]{0,15})$",
    "description": "Micro-USD as text of digits; 1 USD = 1,000,000.",
    "examples": ["1000000"],
}
_MORE_THAN_ZERO = _ZERO_OR_MORE | {"pattern": r"^[1-9][0-9]{0,15}$"}
_USD = {
    "type": "string",
    # Not "0", "0.0" ...: some digit is no zero.
    "pattern": r"^([1-9][0-9]{0,9}(\.[0-9]{1,6})?|0\.0{0,5}[1-9]|0\.0{0,4}[1-9][0-9])$",
    "description": "Dollars.",
    "examples": ["25.00"],
}
_OBJECT = {
    "anyOf": [{"type": "object"}, {"type": "null"}],
    "description": "At most 4 KB of JSON.",
}

MicroOrZero = Annotated[int, BeforeValidator(_amount), WithJsonSchema(_ZERO_OR_MORE)]
Micro = Annotated[
    int, BeforeValidator(_amount), AfterValidator(_positive), WithJsonSchema(_MORE_THAN_ZERO)
]
OptionalMicro = Annotated[
    int | None,
    BeforeValidator(lambda value: None if value is None else _positive(_amount(value))),
    WithJsonSchema({"anyOf": [_MORE_THAN_ZERO, {"type": "null"}]}),
]
Dollars = Annotated[int, BeforeValidator(_dollars), AfterValidator(_positive), WithJsonSchema(_USD)]
Identifier = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(storable)]
EntityId = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(storable)]
Text = Annotated[str, Field(max_length=500), AfterValidator(storable)]
Name = Annotated[
    str, Field(min_length=1, max_length=200), AfterValidator(storable), AfterValidator(_not_blank)
]
Notes = Annotated[str, Field(max_length=1000), AfterValidator(storable)]
Reason = Annotated[
    str, Field(min_length=1, max_length=1000), AfterValidator(storable), AfterValidator(_not_blank)
]
Moment = Annotated[AwareDatetime, Field(strict=False), AfterValidator(_in_utc)]
Bps = Annotated[int, Field(ge=0, le=BPS_WHOLE)]
Pool = Annotated[str, Field(pattern=_POOL)]
Key = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(storable)]
Metadata = Annotated[str | None, BeforeValidator(_small_object), WithJsonSchema(_OBJECT)]
Ticker = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{2,20}$")]
