"""Rate limits, counted in Redis and so shared by all processes (contract 3).

If Redis is away or slow a local counter takes over for some seconds, and a metric says so.
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from shared.batching import Batcher
from shared.observability import LIMITER_FALLBACKS

log = structlog.get_logger()
_LOCAL_SECONDS = 5.0
_Hit = tuple[RateLimitItem, tuple[str, ...]]  # against which limit, and whose
_TIMEOUT_SECONDS = 0.2
# The window begins with a caller's first request and ends with the key.
_HIT = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return {count, redis.call('PTTL', KEYS[1])}
"""

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
    """Counts requests by kind and caller; safe to share between threads.

    Requests that come together are counted in Redis in one trip. The library's own way of telling
    what is left takes three a request, which was a third of what a reserve cost in the API.
    """

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = hashlib.sha1(_HIT.encode(), usedforsecurity=False).hexdigest()
        self._shared = Batcher("rate limits", self._count_shared, self._count_shared)
        self._local = FixedWindowRateLimiter(MemoryStorage())
        self._lock = threading.Lock()
        self._local_until = 0.0

    def hit(self, limit: RateLimitItem, *identifiers: str) -> Allowance:
        """Count one request of the caller named by *identifiers* against *limit*."""
        counted = self._shared.carry_out([(limit, identifiers)])[0]
        if counted is not None:
            return counted
        LIMITER_FALLBACKS.inc()
        return self._count_here(limit, identifiers)

    def is_shared(self) -> bool:
        """Tell whether requests are being counted in Redis at the moment."""
        if time.monotonic() < self._local_until:
            return False
        try:
            return bool(self._redis.ping())
        except (RedisError, OSError):
            return False

    def _count_shared(
        self, hits: Sequence[_Hit], _lock_timeout_ms: int | None = None
    ) -> list[Allowance | None]:
        """Count *hits* in Redis in one trip; None for each while it is away."""
        if time.monotonic() < self._local_until:  # also those that waited while it did not answer
            return [None] * len(hits)
        try:
            answers = self._ask(hits)
        except (RedisError, OSError) as error:
            with self._lock:
                self._local_until = time.monotonic() + _LOCAL_SECONDS
            log.warning("rate_limit_local", reason=type(error).__name__)
            return [None] * len(hits)
        return [
            Allowance(count <= limit.amount, limit.amount, max(0, limit.amount - count), reset)
            for (limit, _), (count, left_ms) in zip(hits, answers, strict=True)
            for reset in (max(1, round(left_ms / 1000)),)
        ]

    def _ask(self, hits: Sequence[_Hit]) -> list[tuple[int, int]]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for limit, identifiers in hits:
                key = f"billing:limits:{limit.key_for(*identifiers)}"
                pipeline.evalsha(self._script, 1, key, limit.get_expiry() * 1000)
            try:
                return pipeline.execute()
            except NoScriptError:  # Redis is new, and has counted none of them
                self._redis.script_load(_HIT)
                return self._ask(hits)

    def _count_here(self, limit: RateLimitItem, identifiers: tuple[str, ...]) -> Allowance:
        is_allowed = self._local.hit(limit, *identifiers)
        window = self._local.get_window_stats(limit, *identifiers)
        reset = max(1, round(window.reset_time - time.time()))  # noqa: TID251  the library's clock
        return Allowance(is_allowed, limit.amount, window.remaining, reset)
