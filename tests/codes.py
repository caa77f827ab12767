"""The error codes that the source raises, read from its syntax: code, and the class that has it."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

from services.api.errors import describe
from shared.errors import ArrakisError

ROOT = Path(__file__).resolve().parents[1]


def raised_codes() -> dict[str, set[int]]:
    """Return every code that ``shared`` and ``services`` can raise, with its statuses.

    A code is a class's ``code``, or the argument ``code=`` of a call; what a function that is
    called so raises is read from what it returns. Data that carries a code gives no status.
    What the command says when it cannot reach the API is no answer of the API.
    """
    found: dict[str, set[int]] = {}
    for folder in ("shared", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path == ROOT / "shared" / "cli" / "api.py":
                continue
            for code, kind in _codes_in(path):
                statuses = found.setdefault(code, set())
                if kind is not None:
                    statuses.add(_status(kind, code))
    return found


def _codes_in(path: Path) -> Iterator[tuple[str, type[ArrakisError] | None]]:
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    given = [(call, word.value.value) for call in calls for word in call.keywords if _is_code(word)]
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    own = [one for one in classes if any(_names_code(line) for line in one.body)]
    if not given and not own:
        return
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if name.startswith("services.") and name.endswith((".wsgi", ".main")):
        return  # they start a process; they raise nothing of their own
    module = importlib.import_module(name)
    for call, code in given:
        yield code, _kind(eval(ast.unparse(call.func), vars(module)))  # noqa: S307  our own source
    for one in own:
        kind = getattr(module, one.name)
        yield kind.code, kind


def _is_code(word: ast.keyword) -> bool:
    return word.arg == "code" and isinstance(word.value, ast.Constant)


def _names_code(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and line.targets[0].id == "code"
    )


def _kind(callee: object) -> type[ArrakisError] | None:
    kind = callee if inspect.isclass(callee) else inspect.signature(callee).return_annotation
    assert inspect.isclass(kind), callee
    return kind if issubclass(kind, ArrakisError) else None


def _status(kind: type[ArrakisError], code: str) -> int:
    error = kind.__new__(kind)
    ArrakisError.__init__(error, "message", code=code)  # some kinds take other arguments
    return describe(error)[0]
