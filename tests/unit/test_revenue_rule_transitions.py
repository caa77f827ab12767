"""The machine of revenue rules: every pair of status and action, by the proposer and by another."""

import pytest

from shared.errors import Conflict, Forbidden
from shared.models.operations import RULE_STATUSES
from shared.operations.revenue_rules import MACHINE, Action

ALLOWED = {
    ("draft", Action.SUBMIT): "pending_approval",
    ("pending_approval", Action.APPROVE): "cooling_down",
    ("pending_approval", Action.REJECT): "rejected",
    ("cooling_down", Action.REJECT): "rejected",
    ("cooling_down", Action.OVERRIDE): "active",
    ("cooling_down", Action.ACTIVATE): "active",
    ("active", Action.SUPERSEDE): "superseded",
}


@pytest.mark.parametrize("status", RULE_STATUSES)
@pytest.mark.parametrize("action", Action)
def test_a_rule_moves_only_where_the_machine_allows(status: str, action: Action) -> None:
    """Behaviour 83, and the table of behaviour 4."""
    if (status, action) in ALLOWED:
        after = MACHINE.next_status(status, action, proposer_id="ada", actor_id="bob")
        assert after == ALLOWED[status, action]
        return
    for actor in ("ada", "bob"):  # where it does not begin, it does not matter who asks
        with pytest.raises(Conflict) as refused:
            MACHINE.next_status(status, action, proposer_id="ada", actor_id=actor)
        assert refused.value.code == "revenue_rule_state"
        assert refused.value.details == {"status": status, "action": action.value}


@pytest.mark.parametrize(("status", "action"), ALLOWED)
def test_only_approval_and_override_need_a_second_admin(status: str, action: Action) -> None:
    if action in (Action.APPROVE, Action.OVERRIDE):
        with pytest.raises(Forbidden) as refused:
            MACHINE.next_status(status, action, proposer_id="ada", actor_id="ada")
        assert refused.value.code == "four_eyes_violation"
    else:
        after = MACHINE.next_status(status, action, proposer_id="ada", actor_id="ada")
        assert after == ALLOWED[status, action]


def test_superseded_and_rejected_are_final() -> None:
    ends = set(RULE_STATUSES) - {status for status, _ in ALLOWED}
    assert ends == {"superseded", "rejected"}
