"""Rate limits, counted in Redis and so shared by all processes (contract 3).

If Redis is away or slow a local counter takes over for some seconds, and a metric says so.
"""

import threading
import time
from dataclasses import dataclass

import structlog
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError

from shared.observability import LIMITER_FALLBACKS

log = structlog.get_logger()
_LOCAL_SECONDS = 5.0

S2S = parse("200/minute")
ADMIN = parse("30/minute")
MEMBER = parse("60/minute")
TOPUP = parse("10/minute")
PUBLIC = parse("100/minute")


@dataclass(frozen=True)
class Allowance:
    """What is left of a caller's limit in the present window."""

    is_allowed: bool
    limit: int
    remaining: int
    reset_seconds: int

    def headers(self) -> dict[str, str]:
        """Return the RateLimit headers, with Retry-After when nothing is left."""
        headers = {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }
        return headers if self.is_allowed else {**headers, "Retry-After": str(self.reset_seconds)}


class RateLimiter:
    """Counts requests by kind and caller; safe to share between threads."""

    def __init__(self, redis_url: str) -> None:
        storage = RedisStorage(
            redis_url,
            key_prefix="billing:limits",
            socket_timeout=0.2,
            socket_connect_timeout=0.2,
        )
        self._shared = FixedWindowRateLimiter(storage)
        self._local = FixedWindowRateLimiter(MemoryStorage())
        self._lock = threading.Lock()
        self._local_until = 0.0

    def hit(self, limit: RateLimitItem, *identifiers: str) -> Allowance:
        """Count one request of the caller named by *identifiers* against *limit*."""
        if time.monotonic() >= self._local_until:
            try:
                return _count(self._shared, limit, identifiers)
            except (RedisError, OSError) as error:
                with self._lock:
                    self._local_until = time.monotonic() + _LOCAL_SECONDS
                log.warning("rate_limit_local", reason=type(error).__name__)
        LIMITER_FALLBACKS.inc()
        return _count(self._local, limit, identifiers)

    def is_shared(self) -> bool:
        """Tell whether requests are being counted in Redis at the moment."""
        return time.monotonic() >= self._local_until and self._shared.storage.check()


def _count(
    limiter: FixedWindowRateLimiter, limit: RateLimitItem, identifiers: tuple[str, ...]
) -> Allowance:
    is_allowed = limiter.hit(limit, *identifiers)
    window = limiter.get_window_stats(limit, *identifiers)
    reset = max(1, round(window.reset_time - time.time()))  # noqa: TID251  the library's clock
    return Allowance(is_allowed, limit.amount, window.remaining, reset)
