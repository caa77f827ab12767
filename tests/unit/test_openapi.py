"""The document says what the code does: nothing is left out, and nothing is made up."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask

from services.api import operations
from services.api.document import document, undocumented
from services.api.documents import Documents
from services.webhooks.routes import nowpayments
from shared.openapi import receiver
from shared.openapi.codes import CODES
from shared.openapi.error_page import error_page
from shared.openapi.operations import Operation, operation_of
from shared.payments.x402 import facilitator, verify
from tests.api_app import idle_app
from tests.codes import raised_codes

ROOT = Path(__file__).resolve().parents[2]
# Told by the frameworks, the receiver's reasons, or as data of an answer that is no error.
_TOLD_OTHERWISE = {
    *("four_eyes_required", "invalid_signature", "method_not_allowed"),
    *("not_an_object", "not_json", "not_utf8", "too_deep", "payment_required"),
}
_OTHER_STATUSES = {"unsupported_media_type"}  # the receiver says 415


@pytest.fixture(scope="module")
def app() -> Flask:
    return idle_app()


@pytest.fixture(scope="module")
def written(app: Flask) -> dict[str, Any]:
    return document(app)


def test_every_route_is_documented(app: Flask) -> None:
    assert undocumented(app) == []
    assert operation_of(nowpayments) is receiver.NOTICE


def documented_views(app: Flask) -> Iterator[tuple[Callable[..., Any], Operation]]:
    for view in dict.fromkeys(app.view_functions.values()):
        operation = operation_of(view)
        assert operation is not None
        yield view, operation


def test_what_a_view_parses_is_what_it_documents(app: Flask) -> None:
    """The body's and query's models, the key and the version are read from the view's own code."""
    for view, operation in documented_views(app):
        calls = list(calls_of(view, sys.modules[view.__module__], set()))
        parsed = {name: models for name, models in calls if name in ("parse_body", "parse_query")}
        assert parsed.get("parse_body") is operation.body, view
        assert parsed.get("parse_query") is operation.query, view
        named = {name for name, _ in calls}
        assert ("idempotency_key" in named) == operation.is_keyed, view
        assert not (operation.is_versioned and "require_version" not in named), view


def calls_of(
    view: Callable[..., Any], module: ModuleType, seen: set[str]
) -> Iterator[tuple[str, Any]]:
    """Give each call in *view*, and in our functions that routes share: name, model."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(view)))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        first = node.args[0] if node.args else None
        model = vars(module).get(first.id) if isinstance(first, ast.Name) else None
        yield node.func.id, model
        inner = vars(module).get(node.func.id)
        shared = (module.__name__, operations.__name__)
        is_ours = inspect.isfunction(inner) and inner.__module__ in shared
        if is_ours and node.func.id not in seen:
            seen.add(node.func.id)
            yield from calls_of(inner, sys.modules[inner.__module__], seen)


def test_every_code_that_is_raised_is_listed_with_its_status() -> None:
    raised = raised_codes()
    assert sorted(raised.keys() - CODES.keys()) == []
    wrong = {
        name: (CODES[name].status, statuses)
        for name, statuses in raised.items()
        if statuses and CODES[name].status not in statuses and name not in _OTHER_STATUSES
    }
    assert wrong == {}


def test_no_code_is_listed_that_nothing_tells() -> None:
    refused = re.findall(r'"([a-z_0-9]+)"', inspect.getsource(verify))
    by_protocol = {*facilitator._CODES, facilitator._UNNAMED, *refused}
    told = raised_codes().keys() | by_protocol | _TOLD_OTHERWISE
    assert sorted(CODES.keys() - told) == []
    assert sorted(facilitator._CODES - CODES.keys()) == []


def test_what_routes_name_as_errors_is_listed(app: Flask) -> None:
    for view, operation in documented_views(app):
        assert set(operation.errors) <= CODES.keys(), view


def test_the_document_is_openapi_3_1(written: dict[str, Any]) -> None:
    """Its schemas are JSON Schema 2020-12, its references lead somewhere, its ids are unique."""
    assert written["openapi"] == "3.1.0"
    for name, schema in written["components"]["schemas"].items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        jsonschema_rs.meta.validate(schema)
    for reference in references(written):
        found: Any = written
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    ids = [one["operationId"] for item in written["paths"].values() for one in item.values()]
    assert len(ids) == len(set(ids))
    for path, item in written["paths"].items():
        for one in item.values():
            named = [p["name"] for p in one.get("parameters", ()) if p["in"] == "path"]
            assert named == re.findall(r"{(\w+)}", path)
            assert one["summary"]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "$ref":
                yield part
            else:
                yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_the_page_needs_no_script_and_no_other_server(app: Flask) -> None:
    page = Documents(app).page
    assert "<script" not in page.html
    addresses = re.findall(r'(?:src|href|action)="([^#"][^"]*)"', page.html)
    assert set(addresses) == {"/api/billing/openapi.json"}
    assert not re.search(r"\son[a-z]+=|style=\"|url\(|@import", page.html)
    assert page.policy.startswith("default-src 'none'; style-src 'sha256-")
    linked = set(re.findall(r'href="#([^"]+)"', page.html))
    anchors = re.findall(r'id="([^"]+)"', page.html)
    assert linked <= set(anchors)
    assert len(anchors) == len(set(anchors))


def test_the_list_of_errors_in_docs_is_the_table() -> None:
    """Renew it with ``python -m shared.openapi.error_page > docs/errors.md``."""
    assert (ROOT / "docs/errors.md").read_text() == error_page()
