"""Balances in Redis under the runbook's keys: a convenience that the database never depends on.

Written after each commit with the version of the rows, so an older write never wins; filled on a
miss; dropped by ``DEL`` without harm. If Redis is away or slower than 200 ms it is left alone for
some seconds, and the database answers. What Redis missed meanwhile it is told before it is asked
again: a frozen Redis comes back with all its old values.
"""

import json
import re
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import islice

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from shared.database import CachedBalance, Tx
from shared.observability import BALANCE_CACHE

log = structlog.get_logger()
PREFIX = "billing:balance:"
_TIMEOUT_SECONDS = 0.2
_PAUSE_SECONDS = 5.0
_LIFE_SECONDS = 60
_MADE_UP_AT_ONCE = 200
_MISSED_MAX = 50_000  # about 20 MB
AMOUNTS = ("available_micro", "reserved_micro", "debt_micro")
_TAIL = re.compile(
    r', "availableMicro": "(-?[0-9]+)", "reservedMicro": "([0-9]+)", "debtMicro": "([0-9]+)",'
    r' "version": ([0-9]+)\}'
)

# Keep the newer of what is there and what is offered. A value that is not ours gives way.
_WRITE = """
local known = redis.pcall('GET', KEYS[1])
if type(known) == 'string' then
  local version = string.match(known, '^{"accountId": ".*", "availableMicro": "%-?%d+", ' ..
    '"reservedMicro": "%d+", "debtMicro": "%d+", "version": (%d+)}$')
  if version and tonumber(version) > tonumber(ARGV[2]) then
    return 0
  end
end
if tonumber(ARGV[3]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
return 1
"""


class BalanceCache:
    """The cache of one process; safe to share between threads. Give it to ``after_commit``."""

    def __init__(self, redis_url: str, *, missed_max: int = _MISSED_MAX) -> None:
        self._redis = Redis.from_url(
            redis_url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._missed_max = missed_max
        self._lock = threading.Lock()
        self._paused_until = 0.0
        # What Redis has missed, with the time; the longest waiting first.
        self._missed: dict[str, tuple[float, CachedBalance]] = {}

    def __call__(self, tx: Tx) -> None:
        """Write the balances that *tx* has committed."""
        if tx.balances:
            self.write(tx.balances)

    def write(self, balances: Sequence[CachedBalance]) -> None:
        """Offer *balances*, and what Redis has missed; each is kept unless a newer one is there."""
        if self._is_paused():
            self._note_missed(balances)
            return
        offered = [*self._some_missed(), *balances]
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for balance in offered:
                    text, life = value_of(balance), life_ms(balance)
                    pipeline.eval(_WRITE, 1, _key(balance), text, str(balance.version), str(life))
                pipeline.execute()
        except (RedisError, OSError) as error:
            self._note_missed(balances)
            self._pause("balance_not_cached", error)
        else:
            self._note_written(offered)

    def read(self, account_id: str, pool_id: str) -> dict[str, int] | None:
        """Return the three amounts as they were cached, or None: then ask the database."""
        if self._missed and not self._is_paused():
            self.write(())
        if self._is_paused():
            BALANCE_CACHE.labels("away").inc()
            return None
        key = key_of(account_id, pool_id)
        try:
            value = self._redis.get(key)
        except ResponseError:  # somebody else keeps something of another type there
            value = None
        except (RedisError, OSError) as error:
            BALANCE_CACHE.labels("away").inc()
            self._pause("balance_cache_away", error)
            return None
        known = None if key in self._missed else read_value(account_id, value)
        BALANCE_CACHE.labels("hit" if known else "miss").inc()
        return known[0] if known else None

    @property
    def missed(self) -> int:
        """How many balances Redis has missed and is still to be told."""
        return len(self._missed)

    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    def _pause(self, event: str, error: Exception) -> None:
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + _PAUSE_SECONDS)
        log.warning(event, reason=type(error).__name__)

    def _note_missed(self, balances: Iterable[CachedBalance]) -> None:
        now = time.monotonic()
        with self._lock:
            for balance in balances:
                _, known = self._missed.pop(_key(balance), (now, balance))
                newer = known if known.version > balance.version else balance
                self._missed[_key(balance)] = (now, newer)
            # What Redis held when it missed the oldest has expired there by now.
            while self._missed and next(iter(self._missed.values()))[0] < now - _LIFE_SECONDS:
                del self._missed[next(iter(self._missed))]
            if len(self._missed) > self._missed_max:
                # Too many to tell later: leave Redis alone until all of them have expired there.
                self._missed.clear()
                self._paused_until = now + _LIFE_SECONDS
                log.warning("balances_forgotten", seconds=_LIFE_SECONDS)

    def _some_missed(self) -> list[CachedBalance]:
        with self._lock:
            return [balance for _, balance in islice(self._missed.values(), _MADE_UP_AT_ONCE)]

    def _note_written(self, balances: Iterable[CachedBalance]) -> None:
        if self._missed:
            with self._lock:
                for balance in balances:
                    _, known = self._missed.get(_key(balance), (0.0, None))
                    if known is not None and known.version <= balance.version:
                        del self._missed[_key(balance)]


def key_of(account_id: str, pool_id: str) -> str:
    """Return the runbook's key of a balance."""
    return f"{PREFIX}{account_id}:{pool_id}"


def _key(balance: CachedBalance) -> str:
    return key_of(balance.account_id, balance.pool_id)


def life_ms(balance: CachedBalance) -> int:
    """Return how long *balance* may be kept; nothing or less if it is over already."""
    life: float = _LIFE_SECONDS
    if balance.good_until is not None:
        now = time.time()  # noqa: TID251  a key's life is wall-clock time in Redis
        life = min(life, balance.good_until.timestamp() - now)
    return int(life * 1000)


def value_of(balance: CachedBalance) -> str:
    """Write *balance* as it is cached."""
    # The account is named because ids may contain the colons that keys are made of.
    value = {
        "accountId": balance.account_id,
        "availableMicro": str(balance.available_micro),
        "reservedMicro": str(balance.reserved_micro),
        "debtMicro": str(balance.debt_micro),
        "version": balance.version,
    }
    return json.dumps(value)


def read_value(account_id: str, value: object) -> tuple[dict[str, int], int] | None:
    """Read what :func:`value_of` wrote of this account: amounts and version; else None."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else ""
    head = json.dumps({"accountId": account_id}).removesuffix("}")
    tail = _TAIL.fullmatch(text, len(head)) if text.startswith(head) else None
    if tail is None:
        return None
    *amounts, version = map(int, tail.groups())
    return dict(zip(AMOUNTS, amounts, strict=True)), version
