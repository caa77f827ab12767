"""The document as a page for people: written on the server, without script, fit to be printed."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from shared.openapi.codes import CODES

_FOLDER = Path(__file__).parent / "templates"
_TOKENS = {"s2s": "S2S_TOKEN", "member": "MEMBER_TOKEN", "admin": "ADMIN_TOKEN"}
_CALLERS = {"s2s": "services", "member": "members", "admin": "admins"}
_DEPTH_MAX = 6


@dataclass(frozen=True)
class Page:
    """The page and the policy under which browsers show it: this style, and nothing else."""

    html: str
    policy: str


def render(document: Mapping[str, Any]) -> Page:
    """Return the page of an OpenAPI *document*."""
    style = (_FOLDER / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=PackageLoader("services.api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    html = environment.get_template("page.html").render(
        document=document,
        style=Markup(style),  # noqa: S704  our own file
        groups=_groups(document),
        schemes=document["components"]["securitySchemes"],
        callers=_CALLERS,
        schemas=[
            (name, schema, list(_fields(schema)))
            for name, schema in document["components"]["schemas"].items()
        ],
        codes=sorted(CODES.values(), key=lambda code: (code.status, code.name)),
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return Page(html, policy)


_LIMITS = (
    (("minimum", "maximum"), "{:,} to {:,}"),
    (("minLength", "maxLength"), "{} to {} characters"),
    (("pattern",), "like {}"),
    (("default",), "{} if left out"),
)


def _groups(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups: dict[str, list[Any]] = {tag["name"]: [] for tag in document["tags"]}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            groups[operation["tags"][0]].append(_route(document, path, method, operation))
    return [
        {"name": name, "id": f"group-{number}", "routes": routes}
        for number, (name, routes) in enumerate(groups.items())
    ]


def _route(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> dict[str, Any]:
    caller, roles = next(
        ((kind, roles) for one in operation["security"] for kind, roles in one.items()), ("", [])
    )
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("schema")
    answers = []
    for status, answer in operation["responses"].items():
        told = answer["content"].get("application/json", {}).get("schema", {})
        answers.append((status, answer["description"], list(_names(told))))
    return {
        "id": operation["operationId"],
        "path": path,
        "method": method.upper(),
        "told": operation,
        "caller": caller,
        "roles": roles,
        "fields": list(_fields(_resolve(document, body))) if body else [],
        "other_bodies": [
            (kind, one["schema"]["description"])
            for kind, one in content.items()
            if kind != "application/json"
        ],
        "parameters": [(one, _type(one["schema"])) for one in operation.get("parameters", ())],
        "answers": answers,
        "curl": _curl(document, path, method, caller, body),
        "example": _success(document, operation),
    }


def _success(document: Mapping[str, Any], operation: Mapping[str, Any]) -> str:
    answer = next(iter(operation["responses"].values()))
    schema = answer["content"].get("application/json", {}).get("schema", {})
    return json.dumps(_example(document, schema), indent=2) if _names_model(schema) else ""


def _names_model(schema: Mapping[str, Any]) -> bool:
    return "$ref" in schema or "anyOf" in schema


def _curl(document: Mapping[str, Any], path: str, method: str, caller: str, body: Any) -> str:
    address = re.sub(r"{(\w+)}", lambda found: _capitals(found[1]), path)
    lines = [f'curl -sS -X {method.upper()} "$API{address}"']
    if caller:
        lines.append(f'-H "Authorization: Bearer ${_TOKENS[caller]}"')
    if body:
        lines.append('-H "Content-Type: application/json"')
        lines.append(f"-d '{json.dumps(_example(document, body, only_required=True))}'")
    return " \\\n  ".join(lines)


def _capitals(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()


def _resolve(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    found: Mapping[str, Any] = document["components"]["schemas"][name] if name else schema
    return found


def _example(
    document: Mapping[str, Any],
    schema: Mapping[str, Any],
    *,
    only_required: bool = False,
    depth: int = 0,
) -> Any:
    """Return a value that *schema* could have: its own example, else the simplest one."""
    schema = _resolve(document, schema)
    if schema.get("examples"):
        return schema["examples"][0]
    if depth > _DEPTH_MAX:
        return None
    for name in ("anyOf", "oneOf", "allOf"):
        if name in schema and "properties" not in schema:
            return _example(document, schema[name][0], only_required=only_required, depth=depth + 1)
    if "properties" in schema:
        required = schema.get("required", ())
        return {
            name: _example(document, field, only_required=only_required, depth=depth + 1)
            for name, field in schema["properties"].items()
            if not only_required or name in required
        }
    if schema.get("type") == "array":
        return [_example(document, schema.get("items", {}), depth=depth + 1)]
    return _simplest(schema)


def _simplest(schema: Mapping[str, Any]) -> Any:
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type", "string")
    values = {"integer": schema.get("minimum", 1), "boolean": False, "object": {}, "null": None}
    if schema.get("format") == "date-time":
        return "2026-11-22T12:00:00Z"
    choice = re.match(r"^\^\(([a-z_0-9]+)[|)]", schema.get("pattern", ""))
    return values.get(kind, choice[1] if choice else "…")


def _fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, bool, str, list[str]]]:
    """Give each field: name, type, whether it must be there, what it means, models it names."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        told = _type(field)
        kinds = [field, *field.get("anyOf", ())]
        meaning = next((kind["description"] for kind in kinds if "description" in kind), "")
        yield name, told, name in required, meaning, list(_names(field))


def _names(schema: Any) -> Iterator[str]:
    """Give the models that *schema* names."""
    if isinstance(schema, Mapping):
        for name, part in schema.items():
            if name == "$ref":
                yield part.rsplit("/", 1)[-1]
            else:
                yield from _names(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _names(part)


def _type(schema: Mapping[str, Any]) -> str:
    """Say in words what *schema* allows."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return " or ".join(_type(one) for one in schema[name])
    if "const" in schema or "enum" in schema:
        return ", ".join(json.dumps(one) for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "maxLength" in schema:
        schema = {"minLength": 0, **schema}
    told = [schema.get("format", schema.get("type", "anything"))]
    told += [
        sentence.format(*(schema[name] for name in names))
        for names, sentence in _LIMITS
        if all(schema.get(name) is not None for name in names)
    ]
    return ", ".join(told)


def _prose(text: str) -> Markup:
    """Write paragraphs with their ``code`` and **strong** words; everything else is text."""
    paragraphs = []
    for part in re.split(r"\n\s*\n", text.strip()):
        safe = str(escape(part))
        safe = re.sub(r"``?([^`]+)``?", r"<code>\1</code>", safe)
        safe = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe)
        paragraphs.append(f"<p>{safe}</p>")
    return Markup("\n".join(paragraphs))  # noqa: S704  escaped above, then our own three tags
