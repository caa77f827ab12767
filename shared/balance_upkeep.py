"""What is done with the cached balances from outside: look, forget, compare, correct (runbook 5).

Keys are found with SCAN and removed with UNLINK, in bounded batches: KEYS and DEL over all of them
would stop a busy Redis for everybody. Forgetting is always safe: the next reader asks the database.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared.balance_cache import PREFIX, key_of, life_ms, read_value, value_of
from shared.database import CachedBalance
from shared.errors import Unavailable

_TIMEOUT_SECONDS = 5
_BATCH = 500
_GLOB = re.compile(r"([*?\[\]\\^])")
_UNREADABLE = -1
# Replace exactly what was found wrong: whatever was written since is newer.
_CORRECT = """
if redis.pcall('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
return 1
"""
View = tuple[str, str]  # an account and a pool


def open_redis(url: str) -> Redis:
    """Return a client of the Redis at *url* that waits for five seconds at most."""
    return Redis.from_url(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    )


def show(redis_url: str, account_id: str, pool_id: str) -> dict[str, Any]:
    """Return the key of a balance with its text and life as Redis has them (None: not there).

    Raises Unavailable (``redis_unavailable``).
    """
    key = key_of(account_id, pool_id)
    try:
        with open_redis(redis_url) as redis:
            try:
                value = redis.get(key)
            except ResponseError:  # something of another type, which readers take for a miss
                value = None
            life = redis.pttl(key)
    except (RedisError, OSError) as error:
        raise _away(error) from error
    text = value.decode(errors="replace") if isinstance(value, bytes) else None
    return {"key": key, "text": text, "lifeMs": life if life > 0 else None}


def reset(
    redis_url: str,
    account_id: str | None = None,
    *,
    progress: Callable[[int], None] = lambda _count: None,
) -> int:
    """Forget the balances of an account, or all; return how many keys went.

    *progress* is told the number so far after each batch. Keys that are written meanwhile may
    stay: they are newer. Raises Unavailable (``redis_unavailable``).
    """
    owner = "*" if account_id is None else _GLOB.sub(r"\\\1", account_id) + ":*"
    removed, cursor = 0, 0
    try:
        with open_redis(redis_url) as redis:
            while True:
                cursor, keys = redis.scan(cursor, match=f"{PREFIX}{owner}", count=_BATCH)
                if keys:
                    removed += redis.unlink(*keys)
                    progress(removed)
                if cursor == 0:
                    return removed
    except (RedisError, OSError) as error:
        raise _away(error) from error


@dataclass(frozen=True)
class Held:
    """What a key holds. Of what none of ours has written ``amounts`` are None; all is newer."""

    text: bytes
    amounts: dict[str, int] | None
    version: int


class CachedBalances:
    """The cached balances as the reconciliation compares and corrects them."""

    def __init__(self, redis_url: str) -> None:
        self._redis = open_redis(redis_url)

    def look(self, views: Sequence[View]) -> dict[View, Held]:
        """Return what is cached of *views*; those without a key are left out.

        Raises Unavailable (``redis_unavailable``).
        """
        if not views:
            return {}
        try:
            values: Any = self._redis.mget([key_of(*view) for view in views])
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return {
            view: _held(view[0], value)
            for view, value in zip(views, values, strict=True)
            if value is not None
        }

    def correct(self, found: Held, balance: CachedBalance) -> bool:
        """Put *balance* where *found* still is; False if something else is there by now.

        Raises Unavailable (``redis_unavailable``).
        """
        key, life = key_of(balance.account_id, balance.pool_id), str(life_ms(balance))
        try:
            done = self._redis.eval(_CORRECT, 1, key, found.text, value_of(balance), life)
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return bool(done)


def _held(account_id: str, value: bytes) -> Held:
    amounts, version = read_value(account_id, value) or (None, _UNREADABLE)
    return Held(value, amounts, version)


def _away(error: Exception) -> Unavailable:
    return Unavailable(
        f"Redis does not answer ({type(error).__name__}); REDIS_URL names it. Nothing is lost: "
        "balances are read from the database meanwhile.",
        code="redis_unavailable",
    )
