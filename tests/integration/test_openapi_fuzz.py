"""Schemathesis against the real API on a real database and Redis: what it answers is documented.

Bounded and the same in every run. OPENAPI_EXAMPLES asks for more requests to each route.
"""

import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks as openapi_checks

from services.api.schemas.answers import fields
from shared.database import Database
from tests.api_app import make_app
from tests.command import logs_restored
from tests.harness import Api, Databases, make_account, set_config, unique
from tests.openapi_stock import PRICES, Stock
from tests.provider_harness import Simulator
from tests.shop import networks

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "3"))
CREDITS = {"amountMicro": "500000000", "sourceType": "grant"}
MEMBERS = 20  # each may ask 60 times in a minute
CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.ignored_auth,
]
SCOPES = ["billing:read", "billing:write", "billing:approve"]
# A top-up wants a payment that is signed: tests/integration/test_topup.py makes them.
NEVER_MET = {"POST /api/billing/topup"}


class Callers:
    """Tokens of every kind, of so many callers that no limit hides an answer."""

    def __init__(self, stock: Stock, database: Database) -> None:
        self.stock = stock
        accounts = [make_account(database) for _ in range(MEMBERS)]
        for account in accounts:
            stock.admin(f"/admin/billing/accounts/{account}/mint", CREDITS)
        self.members = itertools.cycle(accounts)
        self._api = Api("", database)

    def headers(self, operation: Any, own: str) -> dict[str, str]:
        """Return the Authorization header that *operation* asks for: of *own*, or of a new one."""
        is_proposers = operation.label.endswith("/withdraw")
        admin = self.stock.proposer if is_proposers else unique("fuzz")
        kinds = [kind for one in operation.definition.raw.get("security", ()) for kind in one]
        makers: dict[str, Callable[[], dict[str, str]]] = {
            "s2s": lambda: self._api.s2s(sub=unique("fuzz")),
            "admin": lambda: self._api.admin(sub=admin, scopes=SCOPES),
            "member": lambda: self._api.member(own),
        }
        return makers[kinds[0]]() if kinds else {}


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def fuzzed(
    request: pytest.FixtureRequest,
    databases: Databases,
    redis_url: str,
    one_simulator: Simulator,
) -> Iterator[tuple[Any, Callers]]:
    """The document and callers of an API with everything switched on, on each kind of database."""
    database = Database(databases.make(request.param))
    set_config(database, billing_mode="live", model_prices=json.dumps(PRICES))
    app = make_app(
        database,
        redis_url,
        X402_NETWORKS=networks(one_simulator),
        NOWPAYMENTS_API_URL=f"{one_simulator.url}/v1",
        NOWPAYMENTS_API_KEY=str(one_simulator.session.headers["x-api-key"]),
    )
    document = app.extensions["documents"].content
    paths = {path: item for path, item in document["paths"].items() if is_ours(item)}
    schema = schemathesis.openapi.from_dict(closed({**document, "paths": paths}))
    # Every request carries a token of our own, and unknown parameters are ignored (contract 4).
    schema.config.generation.update(with_security_parameters=False, allow_extra_parameters=False)
    schema.app = app
    with logs_restored():
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        yield schema, Callers(Stock(app, database), database)
    database.dispose()


def is_ours(item: dict[str, Any]) -> bool:
    """Tell whether the API serves it, not the receiver."""
    return not any("servers" in operation for operation in item.values())


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """Return *document* with answers that may have no field that it does not name."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    answers = {one.__name__ for one in heirs(fields.Answer)}
    for schema in copy["components"]["schemas"].values():
        if "properties" in schema and schema["title"] in answers:
            schema.setdefault("additionalProperties", False)
    return copy


def heirs(kind: type) -> Iterator[type]:
    """Give every class that inherits from *kind*."""
    for one in kind.__subclasses__():
        yield one
        yield from heirs(one)


def test_what_the_api_answers_is_what_it_documents(fuzzed: tuple[Any, Callers]) -> None:
    schema, callers = fuzzed
    faults: list[str] = []
    refusing: set[str] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                statuses = fuzz(operation, mode, callers)
            except (FailureGroup, AssertionError) as fault:  # every route is told of
                faults.append(f"{operation.label} {mode.value}: {told(fault)}")
                continue
            if mode is GenerationMode.POSITIVE and min(statuses) >= HTTPStatus.BAD_REQUEST:
                refusing.add(operation.label)
    assert not faults, "\n\n".join(faults)
    assert refusing == NEVER_MET


def fuzz(operation: Any, mode: GenerationMode, callers: Callers) -> set[int]:
    """Send requests of one kind to one route, compare the answers with the document; return how
    they ended."""
    statuses: set[int] = set()

    @seed(20261122)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        own = next(callers.members)
        if mode is GenerationMode.POSITIVE:
            case.path_parameters = callers.stock.path(operation.label, own)
            if isinstance(case.body, dict):
                case.body = callers.stock.body(operation.label, own, case.body)
        answer = case.call_and_validate(headers=callers.headers(operation, own), checks=CHECKS)
        statuses.add(answer.status_code)

    try:
        send()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # the route takes nothing that could be wrong
    return statuses


def told(fault: BaseException) -> str:
    parts = [str(one) for one in getattr(fault, "exceptions", [fault])]
    return "\n".join(parts)[:1500]
