"""The documentation of a route, beside the route: ``@documented`` right under the route's line.

The summary is the first line of the view's docstring, the rest of it the description.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

V = TypeVar("V", bound=Callable[..., Any])
_SOURCE = re.compile(r" \((?:contract|behaviours?|runbook)[^)]*\)")
_ATTRIBUTE = "operation"


@dataclass(frozen=True)
class Operation:
    """What a route takes and answers, apart from what all routes of its callers have in common.

    ``answers`` are the bodies by status: a model, a union of models, or ``type: sentence`` of a
    text. ``errors`` are the codes of the refusals that are its own;
    ``accepts`` names other types of body than JSON, ``takes`` and ``sends`` further headers with
    what they mean. ``is_keyed`` says that it reads the Idempotency-Key, ``is_open`` that it takes
    no token, ``is_versioned`` that it checks X-Protocol-Version (so do all with body or query).
    """

    answers: Mapping[int, Any]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[str, ...] = ()
    accepts: Mapping[str, str] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)
    sends: Mapping[str, str] = field(default_factory=dict)
    is_keyed: bool = False
    is_open: bool = False
    is_versioned: bool = False
    is_body_optional: bool = False

    @property
    def checks_version(self) -> bool:
        """Whether X-Protocol-Version is looked at."""
        return self.is_versioned or self.body is not None or self.query is not None


def documented(answers: Mapping[int, Any], **more: Any) -> Callable[[V], V]:
    """Document the view that follows; the arguments are the fields of :class:`Operation`."""
    return described_by(Operation(answers, **more))


def described_by(operation: Operation) -> Callable[[V], V]:
    """Document the view that follows by an *operation* that is told elsewhere."""

    def attach(view: V) -> V:
        vars(view)[_ATTRIBUTE] = operation
        return view

    return attach


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """Return the documentation of *view*, or None if it has none."""
    found: Operation | None = vars(view).get(_ATTRIBUTE)
    return found


def sentences(documented_by: object) -> tuple[str, str]:
    """Return the first line of a docstring and the rest, without names of our own papers."""
    text = _SOURCE.sub("", inspect.getdoc(documented_by) or "")
    first, _, rest = text.partition("\n")
    return first.rstrip("."), rest.strip()
