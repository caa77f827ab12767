"""The load on the ledger: holds that are extended, settled, given back, batched or forgotten.

Every answer is compared with its repeat at once; what was promised is noted for the judge.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

from deploy.local.chaos.client import Answer, Client
from deploy.local.chaos.journal import Hold

Body = Mapping[str, Any]
_TTL_SECONDS = 60
_CONFLICT = 409


class Spender:
    """A service that spends the credits of *accounts* through *client*."""

    def __init__(self, client: Client, accounts: list[str], chance: random.Random) -> None:
        self.client = client
        self.accounts = accounts
        self.chance = chance
        self.book = client.journal.book

    def act(self) -> None:
        """Do one thing, chosen by chance."""
        acts: list[Callable[[], None]] = [self.use, self.batch, self.forget, self.grant]
        [act] = self.chance.choices(acts, weights=[10, 2, 2, 2])
        act()

    def use(self) -> None:
        """Reserve, perhaps extend, then finalize or release."""
        amount = self.chance.randrange(1_000, 500_000)
        found = self._reserve(amount, _TTL_SECONDS)
        if found is None:
            return
        reservation_id, hold = found
        if self.chance.random() < 0.2:
            self._extend(reservation_id, hold)
        self.client.pause(self.chance.uniform(0.0, 0.4))
        if self.chance.random() < 0.2:
            self._release(reservation_id, hold)
        else:
            cost = self.chance.randrange(int(hold.reserved_micro * 1.2))
            self._finalize(reservation_id, hold, cost)

    def forget(self) -> None:
        """Reserve for a few seconds, and never come back: the sweep must end it."""
        self._reserve(self.chance.randrange(1_000, 50_000), self.chance.randrange(1, 6))

    def grant(self) -> None:
        """Let an admin mint, once for its key."""
        account, key = self.chance.choice(self.accounts), self.client.unique()
        amount = self.chance.randrange(100_000, 5_000_000)
        path = f"/admin/billing/accounts/{account}/mint"
        body = {"amountMicro": str(amount), "sourceType": "grant"}
        answer = self._post("mint", path, body, key=key, caller="admin")
        if self._is(answer, 201, "mint"):
            self.book.grants[answer.body["lotId"]] = amount
            other = {**body, "amountMicro": str(amount + 1)}
            self._repeat("mint", path, body, answer, other, key=key, caller="admin")

    def batch(self) -> None:
        """Reserve several at once, then settle them all at once."""
        account, amounts = self.chance.choice(self.accounts), range(1_000, 6_000, 1_000)
        asked: list[dict[str, Any]] = [
            {
                "op": "reserve",
                "accountId": account,
                "estimatedCostMicro": str(amount),
                "requestId": self.client.unique(),
                "ttlSeconds": _TTL_SECONDS,
            }
            for amount in amounts
        ]
        settling = []
        for amount, result in zip(amounts, self._batch(asked), strict=True):
            if result["status"] == 200:
                reservation_id = result["body"]["reservationId"]
                self.book.holds[reservation_id] = Hold(account, amount)
                settling.append(
                    {
                        "op": "finalize",
                        "reservationId": reservation_id,
                        "actualCostMicro": str(amount // 2),
                    }
                )
            elif result["status"] != 402:
                self.client.journal.breach(f"a reserve in a batch was answered {result}")
        if not settling:
            return
        for operation, result in zip(settling, self._batch(settling), strict=True):
            if result["status"] != 200:
                self.client.journal.breach(f"{operation} in a batch was answered {result}")
                continue
            hold = self.book.holds[operation["reservationId"]]
            hold.end, hold.charged_micro = "finalized", int(result["body"]["finalizedMicro"])

    def _batch(self, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send a batch until each of its operations has a definite answer."""
        while True:
            answer = self._post("batch", "/api/internal/batch", {"operations": operations})
            if not self._is(answer, 200, "batch"):
                return [{"status": answer.status, "body": {}} for _ in operations]
            results = answer.body["results"]
            if all(result["status"] < 500 for result in results):
                return list(results)
            self.client.pause(0.2)

    def _reserve(self, amount: int, ttl_seconds: int) -> tuple[str, Hold] | None:
        account = self.chance.choice(self.accounts)
        path = "/api/internal/reserve"
        body = {
            "accountId": account,
            "estimatedCostMicro": str(amount),
            "ttlSeconds": ttl_seconds,
            "requestId": self.client.unique(),
        }
        answer = self._post("reserve", path, body)
        if answer.status == 402 or not self._is(answer, 200, "reserve"):
            return None
        hold = Hold(account, amount)
        reservation_id = answer.body["reservationId"]
        self.book.holds[reservation_id] = hold
        other = {**body, "estimatedCostMicro": str(amount + 1)}
        self._repeat("reserve", path, body, answer, other)
        return reservation_id, hold

    def _extend(self, reservation_id: str, hold: Hold) -> None:
        more = self.chance.randrange(1_000, 50_000)
        body = {"reservationId": reservation_id, "additionalMicro": str(more)}
        answer = self._post("extend", "/api/internal/extend", body, key=self.client.unique())
        if answer.status == 402 or not self._is(answer, 200, "extend"):
            return
        hold.reserved_micro += more
        if answer.body["reservedMicro"] != str(hold.reserved_micro):
            self.client.journal.breach(f"extended by {more} to {hold}: {answer.text}")

    def _finalize(self, reservation_id: str, hold: Hold, cost: int) -> None:
        path = "/api/internal/finalize"
        body = {"reservationId": reservation_id, "actualCostMicro": str(cost)}
        answer = self._post("finalize", path, body)
        if self._is(answer, 200, "finalize"):
            hold.end, hold.charged_micro = "finalized", int(answer.body["finalizedMicro"])
            if hold.charged_micro != min(cost, hold.reserved_micro):
                self.client.journal.breach(f"{cost} was charged on {hold}: {answer.text}")
            other = {**body, "actualCostMicro": str(cost + 1)}
            self._repeat("finalize", path, body, answer, other)

    def _release(self, reservation_id: str, hold: Hold) -> None:
        path, body = "/api/internal/release", {"reservationId": reservation_id}
        answer = self._post("release", path, body)
        if self._is(answer, 200, "release"):
            hold.end = "released"
            self._repeat("release", path, body, answer, None)

    def _repeat(
        self,
        kind: str,
        path: str,
        body: Body,
        first: Answer,
        other: Body | None,
        *,
        key: str | None = None,
        caller: str = "s2s",
    ) -> None:
        """Now and then send it again, which repeats the answer, and with other content: a 409."""
        journal = self.client.journal
        if self.chance.random() < 0.15:
            again = self._post(f"{kind} again", path, body, key=key, caller=caller)
            if (again.status, again.text) != (first.status, first.text):
                journal.breach(f"{kind} {body}: first {first.text}, then {again.text}")
        if other is not None and self.chance.random() < 0.1:
            refused = self._post(f"{kind} otherwise", path, other, key=key, caller=caller)
            if refused.status != _CONFLICT:
                journal.breach(f"{kind} {other} after {body}: {refused.status} {refused.text}")

    def _post(
        self,
        kind: str,
        path: str,
        body: Body,
        *,
        key: str | None = None,
        caller: str = "s2s",
    ) -> Answer:
        return self.client.post(kind, path, body, key=key, caller=caller)

    def _is(self, answer: Answer, status: int, what: str) -> bool:
        if answer.status != status:
            self.client.journal.breach(f"{what} was answered {answer.status} {answer.text}")
        return answer.status == status
