"""House rules that a machine can keep (style guide, part 2)."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("shared", "services", "deploy", "migrations", "tests", "bench")
    for path in (ROOT / folder).rglob("*.py")
)
FUNCTION_LINES, FILE_LINES = 70, 400
COMMITTERS = {"shared/database.py"}
FORBIDDEN = re.compile(r"\b(TODO|FIXME|XXX)\b|pytest\.mark\.(skip|xfail)|\.apply_async\(|\.delay\(")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=SOURCES, ids=name_of)
def source(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_a_module_says_what_it_is_for(source: Path) -> None:
    assert ast.get_docstring(ast.parse(source.read_text())), "no docstring"


def test_files_and_functions_fit_on_a_screen(source: Path) -> None:
    text = source.read_text()
    is_generated = "migrations/versions" in str(source)
    assert is_generated or len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_generated:
            assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, node.name


def test_only_the_database_module_commits(source: Path) -> None:
    if not name_of(source).startswith(("shared", "services")) or name_of(source) in COMMITTERS:
        return
    calls = {
        node.func.attr
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & {"commit", "rollback"}


def test_nothing_is_left_for_later_and_no_message_bypasses_the_publisher(source: Path) -> None:
    if source == Path(__file__).resolve():
        return
    found = FORBIDDEN.search(source.read_text())
    assert found is None, found


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
