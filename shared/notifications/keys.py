"""The secrets of endpoints: derived from one secret of the environment, never stored (ADR 0015)."""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.clock import add_seconds
from shared.errors import Unavailable

OVERLAP_SECONDS = 86_400
"""For how long an endpoint's earlier secret signs, too, after it was given a new one."""


@dataclass(frozen=True)
class Keys:
    """The environment's secrets; *previous* is set during a rotation."""

    current: str = field(repr=False)
    previous: str = field(default="", repr=False)

    def secret(self, endpoint_id: str, version: int) -> str:
        """Return the secret of an endpoint, in the form that Standard Webhooks has for it."""
        self.require()
        return _derive(self.current, endpoint_id, version)

    def signing_secrets(self, endpoint: Any, now: datetime) -> list[str]:
        """Return all secrets that *endpoint* (its row) may verify with now, newest first."""
        self.require()
        versions = [endpoint.secret_version]
        rotated_at = endpoint.secret_rotated_at
        if rotated_at is not None and now < add_seconds(rotated_at, OVERLAP_SECONDS):
            versions.append(endpoint.secret_version - 1)
        roots = [root for root in (self.current, self.previous) if root]
        return [_derive(root, endpoint.id, version) for root in roots for version in versions]

    def require(self) -> None:
        """Raise Unavailable (``webhooks_not_configured``) if there is no secret to derive from."""
        if not self.current:
            raise Unavailable(
                "Outgoing webhooks are off: OUTGOING_WEBHOOK_SECRET is not set.",
                code="webhooks_not_configured",
                retry_after_seconds=60,
            )


def _derive(root: str, endpoint_id: str, version: int) -> str:
    name = f"arrakis-webhook:{endpoint_id}:{version}".encode()
    digest = hmac.new(root.encode(), name, hashlib.sha256).digest()
    return f"whsec_{base64.b64encode(digest).decode()}"
