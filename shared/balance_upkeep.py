"""What operators do with the cached balances: look at one, forget some (runbook 5, W74).

Keys are found with SCAN and removed with UNLINK, in bounded batches: KEYS and DEL over all of them
would stop a busy Redis for everybody. Forgetting is always safe: the next reader asks the database.
"""

import re
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared.balance_cache import PREFIX
from shared.errors import Unavailable

_TIMEOUT_SECONDS = 5
_BATCH = 500
_GLOB = re.compile(r"([*?\[\]\\^])")


def open_redis(url: str) -> Redis:
    """Return a client of the Redis at *url* that waits for five seconds at most."""
    return Redis.from_url(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
    )


def show(redis_url: str, account_id: str, pool_id: str) -> dict[str, Any]:
    """Return the key of a balance with its text and life as Redis has them (None: not there).

    Raises Unavailable (``redis_unavailable``).
    """
    key = f"{PREFIX}{account_id}:{pool_id}"
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


def _away(error: Exception) -> Unavailable:
    return Unavailable(
        f"Redis does not answer ({type(error).__name__}); REDIS_URL names it. Nothing is lost: "
        "balances are read from the database meanwhile.",
        code="redis_unavailable",
    )
