"""Public keys of services that sign with ES256: a JWKS file, or one fetched by URL (contract 3)."""

import threading
import time
from pathlib import Path

import jwt
import requests
import structlog

from shared.errors import Unavailable

log = structlog.get_logger()
_LIFE_SECONDS = 300.0
_UNKNOWN_KEY_SECONDS = 30.0  # a stranger's key ids must not make us fetch again and again
_FETCH_SECONDS = 3.0
_ALGORITHM = "ES256"


class KeySet:
    """The ES256 keys of one source, kept for five minutes; safe to share between threads."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")

    def key(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key with *key_id*, or None.

        Raises Unavailable (``jwks_unavailable``) if the keys were never to be had.
        """
        with self._lock:
            age = time.monotonic() - self._read_at
            if age > _LIFE_SECONDS or (key_id not in self._keys and age > _UNKNOWN_KEY_SECONDS):
                self._refresh()
            return self._keys.get(key_id)

    def _refresh(self) -> None:
        try:
            found = jwt.PyJWKSet.from_json(self._read()).keys
        except (OSError, ValueError, jwt.PyJWTError) as error:
            log.warning("jwks_not_read", reason=type(error).__name__)
            if not self._keys:
                raise Unavailable(
                    "The keys of the calling service cannot be read.", code="jwks_unavailable"
                ) from error
        else:
            usable = [key for key in found if key.algorithm_name == _ALGORITHM and key.key_id]
            self._keys = {str(key.key_id): key for key in usable}
        self._read_at = time.monotonic()

    def _read(self) -> str:
        if not self._source.startswith(("http://", "https://")):
            return Path(self._source).read_text()
        answer = requests.get(self._source, timeout=_FETCH_SECONDS, allow_redirects=False)
        answer.raise_for_status()
        return answer.text
