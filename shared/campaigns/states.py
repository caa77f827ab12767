"""The campaign's machine, pure (behaviour 4; ``expired`` is entered here, unlike there, W58)."""

from collections.abc import Mapping
from enum import StrEnum

from shared.errors import Conflict


class Action(StrEnum):
    """What can be done with a campaign. The audit log names it ``campaign_<action>``."""

    ACTIVATE = "activate"
    PAUSE = "pause"
    COMPLETE = "complete"
    EXPIRE = "expire"


RESULTS: Mapping[Action, str] = {
    Action.ACTIVATE: "active",
    Action.PAUSE: "paused",
    Action.COMPLETE: "completed",
    Action.EXPIRE: "expired",
}
TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    {
        ("draft", "active"),
        ("active", "paused"),
        ("active", "completed"),
        ("active", "expired"),
        ("paused", "active"),
        ("paused", "completed"),
        ("paused", "expired"),
    }
)


def next_status(status: str, action: Action) -> str:
    """Return the status of a campaign after *action*.

    Raises Conflict (``invalid_campaign_transition``) if the campaign is not where it begins.
    """
    after = RESULTS[action]
    if (status, after) not in TRANSITIONS:
        raise Conflict(
            f"Invalid campaign transition: {status} → {after}",
            code="invalid_campaign_transition",
            details={"status": status, "action": action.value},
        )
    return after
