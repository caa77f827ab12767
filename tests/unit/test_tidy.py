"""House rules that a machine can keep (style guide, part 2)."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("shared", "services", "deploy", "migrations", "tests", "bench")
    for path in (ROOT / folder).rglob("*.py")
)
FUNCTION_LINES, FILE_LINES = 70, 400
FORBIDDEN = re.compile(r"\b(TODO|FIXME|XXX)\b|pytest\.mark\.(skip|xfail)|\.apply_async\(|\.delay\(")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_a_module_says_what_it_is_for() -> None:
    assert [name_of(source) for source in SOURCES if not ast.get_docstring(tree_of(source))] == []


def test_files_and_functions_fit_on_a_screen() -> None:
    written = [source for source in SOURCES if "migrations/versions" not in str(source)]
    lines = {name_of(source): len(source.read_text().splitlines()) for source in written}
    assert [name for name, count in lines.items() if count > FILE_LINES] == []
    functions = [
        (name_of(source), node)
        for source in written
        for node in ast.walk(tree_of(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    long = [
        (name, node.name)
        for name, node in functions
        if (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]
    assert long == []


def test_nobody_commits_by_hand() -> None:
    calls = {
        (name_of(source), node.func.attr)
        for source in SOURCES
        if name_of(source).startswith(("shared", "services"))
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    ends = {name for name, call in calls if call in {"commit", "rollback"}}
    assert ends == set()


def test_nothing_is_left_for_later_and_no_message_bypasses_the_publisher() -> None:
    found = [
        (name_of(source), match.group())
        for source in SOURCES
        if source != Path(__file__).resolve()
        for match in FORBIDDEN.finditer(source.read_text())
    ]
    assert found == []


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize("decision", sorted((ROOT / "docs/adr").glob("*.md")), ids=name_of)
def test_a_decision_has_the_number_of_its_file(decision: Path) -> None:
    heading = decision.read_text().splitlines()[0]
    assert heading.startswith(f"# {int(decision.name[:4])}. ")


def test_local_data_and_secrets_are_ignored_by_git() -> None:
    ignored = subprocess.run(
        ["git", "check-ignore", "data/local.env", "data/sietch.db", ".venv/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert len(ignored.stdout.splitlines()) == 3
