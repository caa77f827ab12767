"""How the commands tell what they found: for people, or as JSON for scripts."""

import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import click
import structlog

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON for scripts.")


def keep_logs_apart() -> None:
    """Send what the library warns of to standard error, so that standard output is the answer."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def tell(facts: Mapping[str, Any], *, is_json: bool, text: str) -> None:
    """Print *text* for people, or *facts* for scripts."""
    click.echo(json.dumps(facts, ensure_ascii=False) if is_json else text)
