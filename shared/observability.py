"""Logs and metrics, the same in every process: JSON lines with constant events, and counters."""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
import structlog
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.registry import Collector

from shared.lines import Lines

_JWT = r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){1,2}"  # whole, or cut off before its signature
_OF_ENDPOINTS = r"whsec_[A-Za-z0-9+/=]{16,}"  # what signs an outgoing webhook
_SECRET_NAMES = re.compile(r"secret|token|password|authorization|signature|api_key", re.IGNORECASE)

REQUESTS = Counter(
    "arrakis_http_requests_total", "HTTP requests answered.", ["service", "route", "status"]
)
REQUEST_SECONDS = Histogram(
    "arrakis_http_request_seconds",
    "Time to answer an HTTP request.",
    ["service", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
TOKENS_REFUSED = Counter(
    "arrakis_tokens_refused_total",
    "Bearer tokens refused, by audience and reason.",
    ["kind", "why"],
)
LIMITER_FALLBACKS = Counter(
    "arrakis_rate_limit_fallbacks_total", "Rate checks counted locally because Redis was away."
)
LOG_LINES_LOST = Counter(
    "arrakis_log_lines_lost_total", "Log lines that could not be written: full disk, no reader."
)
WEBHOOKS = Counter(
    "arrakis_webhooks_total", "Provider notices by what became of them.", ["provider", "outcome"]
)
PROVIDER_CALLS = Counter(
    "arrakis_provider_calls_total",
    "Calls to providers, each try counted, by what came of them.",
    ["provider", "call", "outcome"],
)
PROVIDER_SECONDS = Histogram(
    "arrakis_provider_call_seconds",
    "Time that one try of a call to a provider took.",
    ["provider", "call"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
DELIVERIES = Counter(
    "arrakis_webhook_deliveries_total",
    "Tries to deliver our webhooks: delivered, failed, gone or dead.",
    ["outcome"],
)
HINTS = Counter("arrakis_hints_total", "Wake-ups for workers: sent or failed.", ["task", "outcome"])
OUTCOMES = Counter(
    "arrakis_ledger_outcomes_total",
    "Ledger commands by operation and result code.",
    ["operation", "code"],
)
UNCHARGED = Counter(
    "arrakis_uncharged_micro_total", "Cost above the hold that live mode did not charge (W4)."
)
OVERRUNS = Counter("arrakis_overruns_total", "Finalizes above their hold, by mode.", ["mode"])
OVERRUN_ALERTS = Counter(
    "arrakis_overrun_alerts_total",
    "Finalizes above their hold by more than overrun_alert_threshold_pct, by mode.",
    ["mode"],
)
BALANCE_CACHE = Counter(
    "arrakis_balance_cache_total", "Reads of the balance cache: hit, miss or away.", ["outcome"]
)
BALANCE_DRIFT = Counter(
    "arrakis_balance_drift_total", "Cached balances that were wrong: found, corrected.", ["outcome"]
)
TASKS = Counter(
    "arrakis_tasks_total", "Worker tasks run, by outcome.", ["queue", "task", "outcome"]
)
TASK_SECONDS = Histogram(
    "arrakis_task_seconds",
    "Time of a worker's task.",
    ["queue", "task"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TASK_ITEMS = Counter("arrakis_task_items_total", "Rows worked off.", ["queue", "task"])


def process_registry() -> CollectorRegistry:
    """Return what was counted: by this process, or, if they share a folder, by all that do.

    The folder is PROMETHEUS_MULTIPROC_DIR, which prometheus_client reads when it is imported.
    """
    if values.ValueClass is values.MutexValue:
        return REGISTRY
    together = CollectorRegistry()
    multiprocess.MultiProcessCollector(together)  # type: ignore[no-untyped-call] # untyped there
    return together


class _Listed(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def exposition(database_says: Iterable[Metric] = ()) -> bytes:
    """Return the answer of /metrics: what was counted, and what the database says."""
    gauges = CollectorRegistry()
    gauges.register(_Listed(database_says))
    return generate_latest(process_registry()) + generate_latest(gauges)


def configure_logging(
    service: str, level: str = "INFO", *, secret_values: Sequence[str] = ()
) -> None:
    """Send every log line of this process, ours and the libraries', as JSON to standard output.

    None shows one of *secret_values* or a token, wherever it comes from: a provider may send our
    key back to us in the text of an error.
    """
    hide = _hiding(secret_values)
    begin: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _scrub,
    ]
    end: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, _as_json, hide]
    lines = Lines(sys.stdout.buffer, LOG_LINES_LOST.inc)
    handler = logging.StreamHandler(lines)
    foreign = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *end]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=begin, processors=foreign)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # At DEBUG it tells the whole address of every call, and the address of a node has a key in it.
    logging.getLogger("urllib3").setLevel(logging.INFO)
    # Ours do not take the way of the libraries' lines: that costs three times as much.
    structlog.configure(
        processors=[*begin, *end, lambda _logger, _name, line: f"{line}\n"],
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _as_json(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> str:
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:  # numbers of more than 64 bits, half a surrogate: rare, and told all the same
        return json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=repr)


def _hiding(secret_values: Sequence[str]) -> Callable[[Any, str, Any], str]:
    """Return the last step of a log line: what must not be seen is not in it."""
    written = {json.dumps(value, ensure_ascii=False)[1:-1] for value in secret_values}
    longest_first = sorted({*secret_values, *written}, key=len, reverse=True)
    hidden = re.compile("|".join([_JWT, _OF_ENDPOINTS, *map(re.escape, longest_first)]))
    # Each of these begins what is hidden; to look for them takes a tenth of what the pattern does.
    marks = ("eyJ", "whsec_", *longest_first)

    def hide(_logger: Any, _name: str, line: str) -> str:
        return hidden.sub("***", line) if any(mark in line for mark in marks) else line

    return hide


def _scrub(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if _is_secret(name):
            event[name] = "***"
    return event


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None
