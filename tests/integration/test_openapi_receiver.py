"""The receiver answers what the document says of it, to signed notices and to any others."""

import json
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from services.webhooks.app import create_app
from shared.config import WebhookSettings, load_settings
from shared.database import Database
from shared.openapi.receiver import SIGNATURE_HEADER
from tests.api_app import NOWHERE, idle_app
from tests.harness import service_environment
from tests.receiver import sign

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


def test_what_the_receiver_answers_is_what_is_documented(database: Database) -> None:
    given_settings = load_settings(WebhookSettings, service_environment("sqlite://", NOWHERE))
    document = idle_app().extensions["documents"].content
    paths = {
        path: item
        for path, item in document["paths"].items()
        if any("servers" in operation for operation in item.values())
    }
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps({**document, "paths": paths})))
    schema.app = create_app(given_settings, database)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 3
    statuses = {status for operation in operations for status in deliver(operation)}
    assert statuses >= {200, 401}


def deliver(operation: Any) -> set[int]:
    """Send notices to one route, some as the provider signs them, some not; return statuses."""
    statuses = set()

    @seed(20261122)
    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE), is_signed=st.booleans()
    )
    def send(case: Any, is_signed: bool) -> None:
        headers = {}
        if is_signed and isinstance(case.body, dict):
            body = json.dumps(case.body, sort_keys=True, separators=(",", ":")).encode()
            headers[SIGNATURE_HEADER] = sign(body)
        statuses.add(case.call_and_validate(headers=headers, checks=CHECKS).status_code)

    send()
    return statuses
