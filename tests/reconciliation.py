"""The reconciliation as tests drive it: in this process, on real databases, without waiting."""

from typing import Any

from redis import Redis

from shared.balance_cache import BalanceCache, key_of
from shared.balance_upkeep import CachedBalances
from shared.database import Database
from shared.ledger import queries
from shared.payments.providers.nowpayments import NowPayments
from shared.reconciliation import runs
from shared.reconciliation.desk import Desk
from tests.command import NO_REDIS
from tests.ledger import Ledger

NOBODY = NowPayments(url="http://127.0.0.1:9/v1", api_key="")


class Reconciling:
    """The desk of one ledger: its database tells the cache at *redis_url* what it commits."""

    def __init__(self, ledger: Ledger, redis_url: str = NO_REDIS) -> None:
        self.ledger = ledger
        self.redis_url = redis_url
        self.database = Database(
            ledger.url, clock=ledger.clock, after_commit=[BalanceCache(redis_url)]
        )
        self.pauses: list[float] = []
        cached = CachedBalances(redis_url)
        self.desk = Desk(self.database, cached, NOBODY, pause=self.pauses.append)

    def run(self, kind: str = "daily", **more: Any) -> dict[str, Any]:
        """Let a run be asked for and worked off; return it as callers see it."""
        asked = runs.request(self.database, runs.SYSTEM, kind, **more).unwrap()
        while runs.work_off(self.desk, only=asked["runId"]):
            pass
        return self.show(asked["runId"])

    def show(self, run_id: str) -> dict[str, Any]:
        with self.database.reading() as tx:
            return runs.describe_run(runs.find_run(tx, run_id))

    def check(self, name: str, **more: Any) -> dict[str, Any]:
        """Return what the check *name* finds in a daily run."""
        done = self.run(**more)
        return next(one for one in done["result"]["checks"] if one["name"] == name)

    def cached(self, account: str, pool: str = "general") -> dict[str, int] | None:
        """Return a balance as a reader finds it in the cache."""
        return BalanceCache(self.redis_url).read(account, pool)

    def fill(self, account: str, *pools: str) -> None:
        """Cache the balances of *account* as readers do."""
        with self.database.reading() as tx:
            told = [queries.current_balance(tx, account, pool) for pool in pools or ("general",)]
        BalanceCache(self.redis_url).write(told)

    def put(self, account: str, text: str, pool: str = "general") -> None:
        """Write *text* into the key of a balance, whatever it is."""
        with Redis.from_url(self.redis_url) as redis:
            redis.set(key_of(account, pool), text, px=60_000)

    def text(self, account: str, pool: str = "general") -> str | None:
        """Return what the key of a balance holds."""
        with Redis.from_url(self.redis_url, decode_responses=True) as redis:
            found = redis.get(key_of(account, pool))
        return None if found is None else str(found)

    def audited(self, action: str) -> list[tuple[Any, ...]]:
        """Return who did *action* to what."""
        return self.ledger.rows(
            "SELECT actor_type, actor_id, target_id FROM admin_audit_log"
            " WHERE action = :action ORDER BY id",
            action=action,
        )


def verdicts(run: dict[str, Any]) -> dict[str, bool | None]:
    """Return which checks of *run* passed."""
    return {check["name"]: check["passed"] for check in run["result"]["checks"]}
