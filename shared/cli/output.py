"""How the commands tell what they found: for people, or as JSON for scripts."""

import json
from collections.abc import Mapping
from typing import Any

import click

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON for scripts.")


def tell(facts: Mapping[str, Any], *, is_json: bool, text: str) -> None:
    """Print *text* for people, or *facts* for scripts."""
    click.echo(json.dumps(facts, ensure_ascii=False) if is_json else text)
