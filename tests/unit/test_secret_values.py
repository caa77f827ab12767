"""No log shows a secret: every setting that holds one is known as such, and taken out of a line."""

import json
import re

import pytest

from shared import config
from shared.config import CommonSettings
from shared.observability import _hiding

HOLDS_A_SECRET = re.compile(r"secret|api_key|password|token")
KINDS = sorted(
    (kind for kind in vars(config).values() if isinstance(kind, type) and kind is not CommonSettings
     and issubclass(kind, CommonSettings)),
    key=lambda kind: kind.__name__,
)  # fmt: skip


def filled(kind: type[CommonSettings]) -> tuple[CommonSettings, list[str]]:
    """Return settings whose every secret is set, and what no log may show of them."""
    secrets = {
        name: f"the-{name}-" + 'x"\\é' * 12
        for name in kind.model_fields
        if HOLDS_A_SECRET.search(name)
    }
    seen = [*secrets.values(), "database p@ss", "database%20p%40ss", "redis-pass", "otlp-pass"]
    values = secrets | {
        "database_url": "postgresql+psycopg://arrakis:database%20p%40ss@db/arrakis",
        "redis_url": "redis://:redis-pass@redis/0",
        "otel_exporter_otlp_endpoint": "https://us:otlp-pass@collector",
    }
    if "x402_networks" in kind.model_fields:
        values["x402_networks"] = '[{"rpcUrl": "https://node.example/v2/key-of-the-node"}]'
        seen.append("key-of-the-node")
    return kind.model_validate(values), seen


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_line_shows_a_secret_of_the_settings(kind: type[CommonSettings]) -> None:
    settings, secrets = filled(kind)
    hide = _hiding(settings.secret_values())
    address = "https://node.example/v2/key-of-the-node"
    for secret in secrets:
        said = address if secret in address else secret
        for text in (said, f"error at {said}: refused"):
            line = json.dumps({"event": "failed", "reason": text}, ensure_ascii=False)
            shown = json.loads(hide(None, "info", line))["reason"]
            assert secret not in shown, kind.__name__
            assert "***" in shown


def test_tokens_and_secrets_of_endpoints_are_hidden_without_being_known() -> None:
    hide = _hiding([])
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    for secret in (token, token.rpartition(".")[0], "whsec_" + "aB3+/" * 8 + "ab="):
        assert hide(None, "info", f"said {secret} loudly") == "said *** loudly"
