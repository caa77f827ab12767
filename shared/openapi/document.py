"""The OpenAPI 3.1 document of a set of routes, with the schemas that pydantic writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from shared.openapi.codes import CODES
from shared.openapi.errors import Error, InsufficientCredits
from shared.openapi.operations import Operation

_JSON = "application/json"
_TEMPLATE = "#/components/schemas/{model}"
_BODIES: Mapping[str, type[BaseModel]] = {"insufficient_credits": InsufficientCredits}
_HEADERS: Mapping[str, str] = {
    "Idempotency-Key": "Names this request: the same again gives the same answer, for ever.",
    "X-Protocol-Version": "At least 6.0.0 and below 9.0.0, if it is given.",
    "Retry-After": "Seconds to wait before the same request is sent again.",
    "RateLimit-Limit": "Requests that the caller may send in a minute.",
    "RateLimit-Remaining": "How many of them are left.",
    "RateLimit-Reset": "Seconds until they are full again.",
    "Idempotent-Replay": "true: this answer was given before, to the same request.",
}
_LIMIT_HEADERS = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")


@dataclass(frozen=True)
class Route:
    """A documented route: where it is, for whom, and what all routes of its callers may answer."""

    path: str
    method: str
    operation: Operation
    operation_id: str
    group: str
    summary: str
    description: str = ""
    path_names: tuple[str, ...] = ()
    security: tuple[Mapping[str, list[str]], ...] = ()
    common_errors: tuple[str, ...] = ()
    is_limited: bool = False
    server: Mapping[str, str] | None = None

    @property
    def errors(self) -> list[str]:
        """Every code that the route may answer, in alphabetical order."""
        return sorted({*self.common_errors, *self.operation.errors})


class _Schemas(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def build(routes: Sequence[Route], head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of *routes*; *head* are its info, tags and security schemes."""
    wanted = list(_wanted(routes))
    inputs = [(kind, mode, TypeAdapter(kind)) for kind, mode in dict.fromkeys(wanted)]
    found, definitions = TypeAdapter.json_schemas(
        inputs, ref_template=_TEMPLATE, schema_generator=_Schemas
    )
    schemas = {kind: schema for (kind, _), schema in found.items()}
    paths: dict[str, Any] = {}
    for route in routes:
        item = paths.setdefault(route.path, {})
        item[route.method] = _operation(route, schemas, definitions.get("$defs", {}))
    headers = {name: _header(name) for name in _HEADERS}
    components = {
        **head["components"],
        "schemas": dict(sorted(definitions["$defs"].items())),
        "headers": headers,
    }
    return {"openapi": "3.1.0", **head, "paths": paths, "components": components}


def _wanted(routes: Sequence[Route]) -> Iterator[tuple[Any, Any]]:
    yield from ((Error, "serialization"), (InsufficientCredits, "serialization"))
    for route in routes:
        operation = route.operation
        for kind in (operation.body, operation.query):
            if kind is not None:
                yield kind, "validation"
        for kind in operation.answers.values():
            if not isinstance(kind, str):
                yield kind, "serialization"


def _operation(
    route: Route, schemas: Mapping[Any, Any], definitions: Mapping[str, Any]
) -> dict[str, Any]:
    operation = route.operation
    told: dict[str, Any] = {
        "operationId": route.operation_id,
        "tags": [route.group],
        "summary": route.summary,
    }
    if route.description:
        told["description"] = route.description
    told["security"] = list(route.security)
    parameters = [*_path_parameters(route), *_query(operation, schemas, definitions)]
    parameters += [_request_header(name, text) for name, text in _taken(operation)]
    if parameters:
        told["parameters"] = parameters
    if operation.body is not None:
        content = {_JSON: {"schema": schemas[operation.body]}}
        for kind, text in operation.accepts.items():
            content[kind] = {"schema": {"type": "string", "description": text}}
        told["requestBody"] = {
            "required": not operation.is_body_optional,
            "content": content,
        }
    told["responses"] = _answers(route, schemas)
    if route.server is not None:
        told["servers"] = [dict(route.server)]
    return told


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "maxLength": 128}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name in route.path_names
    ]


def _query(
    operation: Operation, schemas: Mapping[Any, Any], definitions: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    if operation.query is None:
        return
    schema = definitions[schemas[operation.query]["$ref"].rsplit("/", 1)[1]]
    for name, field in schema["properties"].items():
        is_required = name in schema.get("required", ())
        yield {"name": name, "in": "query", "required": is_required, "schema": _given(field)}


def _given(field: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a query's field when it is given: a URL knows no null."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return field
    rest = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    return {**kinds[0], **rest}


def _taken(operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.is_keyed:
        yield "Idempotency-Key", _HEADERS["Idempotency-Key"]
    if operation.checks_version:
        yield "X-Protocol-Version", _HEADERS["X-Protocol-Version"]
    yield from operation.takes.items()


def _request_header(name: str, text: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if name == "Idempotency-Key":
        schema |= {"minLength": 1, "maxLength": 255, "pattern": r"^[!-~]+( [!-~]+)*$"}
    elif name == "X-Protocol-Version":
        schema |= {"pattern": r"^[6-8]\.[0-9]{1,5}\.[0-9]{1,5}$", "examples": ["8.3.0"]}
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _answers(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status, kind in route.operation.answers.items():
        answers[str(status)] = _success(route, status, kind, schemas)
    by_status: dict[int, list[str]] = {}
    for name in route.errors:
        by_status.setdefault(CODES[name].status, []).append(name)
    for status, names in by_status.items():
        error = _refusal(names, schemas)
        known = answers.get(str(status))
        if known is None:
            answers[str(status)] = error | {"headers": _named(_error_headers(route, status))}
        else:  # such as 402 with terms to pay, or a health report with 503
            choices = [one["content"][_JSON]["schema"] for one in (known, error)]
            known["content"][_JSON]["schema"] = {"anyOf": choices}
            known["description"] += f" Or: {error['description']}"
    return dict(sorted(answers.items()))


def _success(route: Route, status: int, kind: Any, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    names = list(_LIMIT_HEADERS) if route.is_limited else []
    if route.operation.is_keyed:
        names.append("Idempotent-Replay")
    headers = _named(names)
    for name, text in route.operation.sends.items():
        headers[name] = {"description": text, "schema": {"type": "string"}}
    told: dict[str, Any] = {"description": HTTPStatus(status).phrase + ".", "headers": headers}
    if isinstance(kind, str):
        type_, _, text = kind.partition(": ")
        schema = {"type": "object" if type_ == _JSON else "string"}
        told |= {"description": text, "content": {type_: {"schema": schema}}}
    else:
        told["content"] = {_JSON: {"schema": schemas[kind]}}
    return told


def _refusal(names: Sequence[str], schemas: Mapping[Any, Any]) -> dict[str, Any]:
    plain = [name for name in names if name not in _BODIES]
    choices = [(schemas[_BODIES[name]], [name]) for name in names if name in _BODIES]
    choices += [(schemas[Error], plain)] if plain else []
    told = [
        {"allOf": [schema, {"properties": {"code": {"enum": codes}}}]} for schema, codes in choices
    ]
    meanings = " ".join(f"`{name}`: {CODES[name].meaning}" for name in names)
    schema = told[0] if len(told) == 1 else {"anyOf": told}
    return {"description": meanings, "content": {_JSON: {"schema": schema}}}


def _error_headers(route: Route, status: int) -> list[str]:
    waits = ["Retry-After"] if status in (429, 503) else []
    return waits + (list(_LIMIT_HEADERS) if route.is_limited and status != 401 else [])  # noqa: PLR2004


def _named(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(name: str) -> dict[str, Any]:
    is_number = name == "Retry-After" or name.startswith("RateLimit")
    kind = {"type": "integer", "minimum": 0} if is_number else {"type": "string"}
    return {"description": _HEADERS[name], "schema": kind}
