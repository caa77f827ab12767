"""Every command of the click tree: help with an example, --json, a sentence for silly input."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from shared.cli.main import arrakis
from shared.errors import ArrakisError
from tests.harness import ROOT

AWAY = "http://127.0.0.1:1"
SILLY = "no-such\u0007thing"
PAGE = (ROOT / "docs" / "cli.md").read_text()


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


PATHS = list(leaves(arrakis))
each = pytest.mark.parametrize("path", PATHS, ids=" ".join)


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = arrakis
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


def silly_words(path: tuple[str, ...]) -> list[str]:
    """Return words for each argument and each option that the command asks for."""
    words = list(path)
    for parameter in command_at(path).params:
        if isinstance(parameter, click.Argument):
            words += [SILLY] * (2 if parameter.nargs == -1 else 1)
        elif parameter.required:
            words += [parameter.opts[-1], SILLY]
        elif "--yes" in parameter.opts:
            words.append("--yes")
    return words


@each
def test_each_command_helps_with_an_example_and_takes_json(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(arrakis, [*path, "--help"])
    assert (done.exit_code, done.exception) == (0, None)
    assert done.output.startswith("Usage: ")
    assert "--json" in done.output
    examples = re.findall(r"^ +(?:TOKEN=\$\()?(arrakis .*?)\)?$", done.output, re.MULTILINE)
    assert examples, "without an example"
    for example in examples:
        words = shlex.split(example)
        assert words[1 : len(path) + 1] == list(path)
        command_at(path).make_context(
            " ".join(path), words[len(path) + 1 :], resilient_parsing=True
        )


@each
def test_each_command_is_on_the_page_with_its_first_sentence(path: tuple[str, ...]) -> None:
    first = (command_at(path).help or "").split("\n\n")[0].replace("\n", " ").strip()
    assert f"| `{' '.join(path)}` | {first} |" in PAGE


@each
def test_over_an_api_that_is_away_each_command_says_so_or_that_it_is_of_the_host(
    path: tuple[str, ...],
) -> None:
    environment = {"ARRAKIS_API_URL": AWAY, "ARRAKIS_API_TOKEN": "token"}
    done = CliRunner().invoke(arrakis, silly_words(path), env=environment)
    if isinstance(done.exception, ArrakisError):
        assert done.exception.code in ("api_unavailable", "invalid_amount", "validation_error")
    else:
        assert done.exit_code == 2, done.output
        assert "Error: " in done.output


@pytest.mark.parametrize(
    "path",
    [path for path in PATHS if path[0] not in ("migrate", "doctor", "token", "cache", "backup")],
    ids=" ".join,
)
def test_silly_input_is_told_in_a_sentence(path: tuple[str, ...], ready_url: str) -> None:
    environment = {"DATABASE_URL": ready_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    done = CliRunner().invoke(arrakis, silly_words(path), env=environment)
    assert done.exception is None or isinstance(done.exception, ArrakisError | SystemExit)
    assert CliRunner().invoke(arrakis, [*path, "--no-such"], env=environment).exit_code == 2


@pytest.fixture(scope="module")
def ready_url(databases) -> str:
    """A migrated database in which nothing has happened."""
    url: str = databases.make("sqlite")
    return url


def test_the_version_is_told() -> None:
    done = CliRunner().invoke(arrakis, ["--version"])
    assert (done.exit_code, done.output) == (0, "arrakis, version 0.1.0\n")
