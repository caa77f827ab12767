"""The kinds of field that answers are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Micro = Annotated[
    str,
    Field(
        pattern=r"^(0|-?[1-9][0-9]*)$",
        description="Micro-USD as text of digits; 1 USD = 1,000,000.",
        examples=["1000000"],
    ),
]
Usd = Annotated[
    str, Field(pattern=r"^[0-9]+\.[0-9]{2,6}$", description="Dollars.", examples=["25.00"])
]
Coin = Annotated[
    str,
    Field(
        pattern=r"^[0-9]+(\.[0-9]+)?$", description="An amount of the coin.", examples=["0.00039"]
    ),
]
Time = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z$",
        description="UTC, ISO 8601.",
        examples=["2026-11-22T12:00:00.000Z"],
    ),
]
Mode = Literal["shadow", "soft", "live"]
NextCursor = Annotated[
    str | None, Field(description="Give it as cursor to read the next page; null on the last one.")
]


class Answer(BaseModel):
    """Base of all answers: camelCase on the wire; every field named is always there."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
