"""Balances in Redis under the runbook's keys: a convenience that the database never depends on.

Written after each commit with the version of the rows, so an older write never wins; filled on a
miss; dropped by ``DEL`` without harm. If Redis is away or slower than 200 ms it is left alone for
some seconds, and the database answers.
"""

import json
import threading
import time
from collections.abc import Sequence

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.database import CachedBalance, Tx
from shared.observability import BALANCE_CACHE

log = structlog.get_logger()
PREFIX = "billing:balance:"
_WIRE = {
    "available_micro": "availableMicro",
    "reserved_micro": "reservedMicro",
    "debt_micro": "debtMicro",
}
_TIMEOUT_SECONDS = 0.2
_PAUSE_SECONDS = 5.0
_LIFE_SECONDS = 60

# Keep the newer of what is there and what is offered. A value that is not ours gives way.
_WRITE = """
local known = redis.call('GET', KEYS[1])
if known then
  local fine, value = pcall(cjson.decode, known)
  if fine and type(value) == 'table' and tonumber(value['version'] or -1) > tonumber(ARGV[2]) then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return 1
"""


class BalanceCache:
    """The cache of one process; safe to share between threads. Give it to ``after_commit``."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )
        self._write = self._redis.register_script(_WRITE)
        self._lock = threading.Lock()
        self._paused_until = 0.0

    def __call__(self, tx: Tx) -> None:
        """Write the balances that *tx* has committed."""
        self.write(tx.balances)

    def write(self, balances: Sequence[CachedBalance]) -> None:
        """Offer *balances*; each is kept unless a newer one is there."""
        if not balances or self._is_paused():
            return
        now = time.time()  # noqa: TID251  a key's life is wall-clock time in Redis
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for balance in balances:
                    life: float = _LIFE_SECONDS
                    if balance.good_until is not None:
                        life = min(life, balance.good_until.timestamp() - now)
                    if life > 0:
                        self._write(
                            keys=[f"{PREFIX}{balance.account_id}:{balance.pool_id}"],
                            args=[_text(balance), balance.version, max(1, int(life * 1000))],
                            client=pipeline,
                        )
                pipeline.execute()
        except (RedisError, OSError) as error:
            self._pause("balance_not_cached", error)

    def read(self, account_id: str, pool_id: str) -> dict[str, int] | None:
        """Return the three amounts as they were cached, or None: then ask the database."""
        if self._is_paused():
            BALANCE_CACHE.labels("away").inc()
            return None
        try:
            text = self._redis.get(f"{PREFIX}{account_id}:{pool_id}")
            value = json.loads(str(text)) if text is not None else None
        except (RedisError, OSError) as error:
            BALANCE_CACHE.labels("away").inc()
            self._pause("balance_cache_away", error)
            return None
        except ValueError:
            value = None
        try:
            amounts = {name: int(value[wire]) for name, wire in _WIRE.items()} if value else None
        except (KeyError, TypeError, ValueError):  # written by somebody else
            amounts = None
        BALANCE_CACHE.labels("hit" if amounts else "miss").inc()
        return amounts

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _pause(self, event: str, error: Exception) -> None:
        with self._lock:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
        log.warning(event, reason=type(error).__name__)


def _text(balance: CachedBalance) -> str:
    amounts = {wire: str(getattr(balance, name)) for name, wire in _WIRE.items()}
    return json.dumps({**amounts, "version": balance.version})
