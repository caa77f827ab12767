"""The body of every error."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Digits = Annotated[str, Field(pattern=r"^-?[0-9]+$", examples=["1000000"])]


class Error(BaseModel):
    """What went wrong: ``code`` is stable, the message is for people."""

    model_config = ConfigDict(alias_generator=to_camel)

    error: Annotated[str, Field(description="A title; do not decide by it.")]
    code: str
    message: str
    details: dict[str, Any] | list[dict[str, str]] = {}
    request_id: Annotated[str, Field(description="X-Request-Id; name it when you ask us.")] = ""


class InsufficientCredits(Error):
    """An error that also tells what the account has and what the request needs."""

    model_config = ConfigDict(alias_generator=None)

    balance_micro: Digits
    required_micro: Digits
