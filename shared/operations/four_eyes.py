"""Four eyes: what one person proposes another decides, along a machine of statuses (ADR 0011).

A person is the id of an actor, whatever they act by: a token's ``sub`` or the user who runs a
command. So another token, or the command instead of the API, makes nobody a second person.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from shared.errors import Conflict, Forbidden


@dataclass(frozen=True)
class Machine:
    """How a proposal moves; ``subject`` names it in messages, ``code`` when it cannot move."""

    subject: str
    code: str
    transitions: Mapping[tuple[str, StrEnum], str]
    not_by_the_proposer: AbstractSet[StrEnum]
    only_by_the_proposer: AbstractSet[StrEnum] = frozenset()

    def next_status(self, status: str, action: StrEnum, *, proposer_id: str, actor_id: str) -> str:
        """Return the status after *action* by *actor_id*.

        Raises Conflict (``code``) if it is not where *action* begins, Forbidden
        (``four_eyes_violation``) if a second person is needed and the actor is the proposer,
        Forbidden (``not_the_proposer``) if only the proposer may do it and the actor is another.
        """
        after = self.transitions.get((status, action))
        if after is None:
            raise Conflict(
                f"A {self.subject} that is {status} does not allow this: {action.value}.",
                code=self.code,
                details={"status": status, "action": action.value},
            )
        if action in self.not_by_the_proposer and actor_id == proposer_id:
            raise Forbidden(
                f"Who proposed a {self.subject} may not bring it into force; another admin must.",
                code="four_eyes_violation",
            )
        if action in self.only_by_the_proposer and actor_id != proposer_id:
            raise Forbidden(
                f"Only who proposed a {self.subject} may do this.", code="not_the_proposer"
            )
        return after
