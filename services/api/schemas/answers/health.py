"""The report of health."""

from pydantic import Field

from services.api.schemas.answers.fields import Answer


class Dependencies(Answer):
    """What the API stands on: ``ok``, or what is wrong with it."""

    database: str
    redis: str
    workers: str


class Health(Answer):
    """Whether the process can do its work, and what it can do."""

    status: str
    contract_version: str = Field(alias="contract_version")
    version: str
    capabilities: list[str]
    billing_enabled: bool = Field(alias="billing_enabled")
    dependencies: Dependencies
