"""The bodies and queries about settings, the mode, the audit log and tokens."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from services.api.schemas.fields import EntityId, Identifier, Moment, Reason, Request, storable

SettingKey = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(storable)]
SettingValue = Annotated[str, Field(max_length=20_000), AfterValidator(storable)]


class ConfigRequest(Request):
    """Settings that are changed together, and why."""

    values: Annotated[dict[SettingKey, SettingValue], Field(min_length=1, max_length=50)]
    reason: Reason


class ModeRequest(Request):
    """The mode that is wanted, and why; ``force`` goes up without the evidence."""

    mode: Literal["shadow", "soft", "live"]
    reason: Reason
    force: bool = False


class RehearseRequest(Request):
    """The mode that is rehearsed, or all three."""

    mode: Literal["shadow", "soft", "live", "all"] = "all"


class RevokeRequest(Request):
    """A token that is refused from now on, and why; it is over at ``until``."""

    jti: EntityId
    reason: Reason
    until: Moment | None = None


class AuditQuery(Request):
    """Which rows of the audit log are wanted, newest first (times: ISO 8601 with their zone)."""

    actor: EntityId | None = None
    action: Identifier | None = None
    target_type: Identifier | None = None
    target_id: EntityId | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=100, strict=False)] = 50
    cursor: Identifier | None = None
