"""The load of payments: the provider's stories, its notices, refunds, and x402.

A notice that is not acknowledged is sent again, as the provider does; from then on it is a promise.
"""

import random
from collections.abc import Callable
from typing import Any

from sqlalchemy import bindparam, select, text, update

from deploy.local.chaos.client import Answer, Client
from deploy.local.chaos.journal import REFUNDED_AT_ONCE, Deposit, TopUp
from deploy.simulator.wallet import address_of, key_named, sign_v2
from shared.clock import add_seconds
from shared.database import Database, Tx, insert_rows
from shared.errors import Unavailable
from shared.models.payments import CryptoPayment
from shared.models.types import UtcTime
from shared.money import parse_coin, usd_text
from shared.payments.providers.outcomes import OutcomeUnknown

_MICRO = 1_000_000
LATE = "late-"  # the ids of payments whose row appears after their notices
# Each brings the price in the end, and a repeated deposit more beside it.
STORIES = (
    "happy",
    "finished-twice",
    "out-of-order",
    "partial-then-finished",
    "late-after-expired",
    "repeated-deposit",
    REFUNDED_AT_ONCE,
    "missed",
)


class Payer:
    """Somebody who pays for *accounts*, and the provider who tells us, through *client*."""

    def __init__(
        self,
        client: Client,
        accounts: list[str],
        chance: random.Random,
        database: Database,
    ) -> None:
        self.client = client
        self.accounts = accounts
        self.chance = chance
        self.database = database
        self.journal = client.journal
        self.book = client.journal.book
        self._mine: list[tuple[str, str]] = []  # payments that may be refunded: ours, theirs

    def act(self) -> None:
        """Do one thing, chosen by chance."""
        acts: list[Callable[[], None]] = [self.pay, self.refund, self.surprise, self.top_up]
        [act] = self.chance.choices(acts, weights=[10, 2, 1, 3])
        act()
        self.client.pause(self.chance.uniform(0.0, 0.3))

    def pay(self) -> None:
        """Ask for a payment, and let the provider play one of its stories."""
        account, dollars = self.chance.choice(self.accounts), self.chance.randrange(5, 50)
        body = {"accountId": account, "amountUsd": f"{dollars}.00", "payCurrency": "btc"}
        made = self._created(body)
        if made is None:
            return
        payment_id, provider_id, is_known = made
        # Of one whose creation was not answered only a notice can tell at once.
        story = self.chance.choice(STORIES) if is_known else "happy"
        promise = Deposit(account, story, dollars * _MICRO)
        self.play(provider_id, story)
        if story == REFUNDED_AT_ONCE:
            promise.refunded_by = "provider"
        if story == "missed":  # the poller's first look is ten minutes away: let them pass
            self._in_transaction(lambda tx: tx.run(_LOOK_NOW, number=provider_id, now=tx.now))
        self.book.deposits[provider_id] = promise
        if story in ("happy", "finished-twice", "out-of-order"):
            self._mine.append((payment_id, provider_id))

    def _created(self, body: dict[str, str]) -> tuple[str, str, bool] | None:
        """Create a payment; return our id, theirs, and whether we know theirs; None without one."""
        key = self.client.unique()
        answer = self.client.post(
            "payment",
            "/api/internal/payments",
            body,
            key=key,
            final_code=OutcomeUnknown.code,
        )
        if answer.status == 503:
            return self._found(answer)
        if answer.status != 201:
            self.journal.breach(f"payment was answered {answer.status} {answer.text}")
            return None
        return answer.body["paymentId"], answer.body["providerPaymentId"], True

    def _found(self, answer: Answer) -> tuple[str, str, bool] | None:
        """Look whether the provider made it all the same: then its notice is faster than ours."""
        payment_id = answer.body["details"]["paymentId"]
        made = self.client.look(f"/payments?order_id={payment_id}")["payments"]
        return (payment_id, str(made[0]["payment_id"]), False) if made else None

    def play(self, provider_id: str, story: str) -> None:
        """Play *story*, and send again what was not acknowledged."""
        played = self.client.simulate(
            f"/payments/{provider_id}/scenario", {"name": story, "wait": True}
        )
        for delivery in played["deliveries"]:
            self._deliver(delivery)
            number = str(delivery["payment_id"])
            if number != provider_id and delivery["status"] == "finished":
                self.book.deposits[number] = Deposit("", f"{story}: the second deposit", None)

    def _deliver(self, delivery: dict[str, Any]) -> None:
        number, status = str(delivery["payment_id"]), delivery["status"]
        while delivery["http_status"] != 200:
            if delivery["http_status"] is not None and delivery["http_status"] < 500:
                self.journal.breach(f"a signed notice was answered {delivery}")
                return
            self.client.pause(0.2)
            again = self.client.simulate(f"/payments/{number}/notify", {"status": status})
            [delivery] = again["deliveries"]
        self.book.notices.add((number, status))

    def refund(self) -> None:
        """Give an earlier payment's money back, once it is credited: an admin, or the provider."""
        if not self._mine:
            return
        payment_id, provider_id = self._mine[0]
        shown = self.client.get("show payment", f"/api/internal/payments/{payment_id}")
        if shown.status != 200 or shown.body["status"] != "finished":
            return
        self._mine.pop(0)
        if self.chance.random() < 0.5:
            self._refund_by_admin(payment_id)
            self.book.deposits[provider_id].refunded_by = "admin"
        else:
            told = self.client.simulate(f"/payments/{provider_id}/advance", {"status": "refunded"})
            self._deliver(told["deliveries"][0])
            self.book.deposits[provider_id].refunded_by = "provider"

    def _refund_by_admin(self, payment_id: str) -> None:
        path, reason = f"/admin/billing/payments/{payment_id}/refund", {"reason": "chaos"}
        answer = self.client.post("refund", path, reason, caller="admin")
        again = self.client.post("refund again", path, reason, caller="admin")
        if answer.status != 200 or (again.status, again.text) != (answer.status, answer.text):
            self.journal.breach(f"refund of {payment_id}: {answer.text}, then {again.text}")

    def surprise(self) -> None:
        """Pay what we do not know yet; its row appears later, and the DLQ's retry credits it."""
        account, dollars = self.chance.choice(self.accounts), self.chance.randrange(5, 50)
        order = f"{LATE}{self.client.unique()}"
        asked = {
            "price_amount": dollars,
            "price_currency": "usd",
            "pay_currency": "btc",
            "order_id": order,
        }
        made = self.client.provider("/payment", asked)
        if made.status_code != 201 or "payment_id" not in made.text:
            return  # a fault of the provider is in force: somebody else's business
        try:
            provider_id = str(made.json()["payment_id"])
        except ValueError:
            return
        self.play(provider_id, "happy")
        promise = Deposit(account, "unknown at first", dollars * _MICRO)
        self.client.pause(self.chance.uniform(0.5, 3.0))
        self._in_transaction(lambda tx: _appear(tx, order, provider_id, promise))
        self.book.deposits[provider_id] = promise

    def top_up(self) -> None:
        """Pay by x402 into an account of its own, whatever the facilitator does."""
        account, dollars = f"acct-x402-{self.client.unique()}", self.chance.randrange(1, 20)
        body = {"entityType": "person", "entityId": account, "accountId": account}
        self.client.post("account", "/admin/billing/accounts", body, caller="admin")
        signer = key_named(account)
        amount = dollars * _MICRO
        wallet = {"address": address_of(signer), "amount": str(amount)}
        self.client.simulate("/chain/balances", wallet)
        wanted, path = {"amountUsd": f"{dollars}.00"}, "/api/billing/topup"
        asked = self.client.post("top-up terms", path, wanted, caller=account)
        if asked.status != 402:
            self.journal.breach(f"top-up was answered {asked.status} {asked.text}")
            return
        nonce = f"0x{self.chance.randbytes(32).hex()}"
        signed = sign_v2(asked.headers["PAYMENT-REQUIRED"], signer, nonce=nonce)
        promise = self.book.top_ups[account] = TopUp(amount, nonce)
        paid = self.client.post(
            "top-up", path, wanted, caller=account, headers={"PAYMENT-SIGNATURE": signed}
        )
        promise.answered = str(paid.status)
        is_known = paid.status == 409 and paid.attempts > 1  # an earlier attempt has it
        if paid.status not in (201, 202, 402) and not is_known:
            self.journal.breach(f"a signed top-up was answered {paid.status} {paid.text}")
        self.client.simulate("/chain/mine", {"blocks": 15})

    def _in_transaction(self, act: Callable[[Tx], Any]) -> Any:
        """Do something in the database as an outsider, once it is there."""
        while True:
            try:
                with self.database.transaction() as tx:
                    return act(tx)
            except Unavailable:
                self.client.pause(0.2)


def _appear(tx: Tx, order: str, provider_id: str, promise: Deposit) -> None:
    """Write the row of a payment that the provider has told about already, unless it is there."""
    known = tx.first(select(CryptoPayment.id).where(CryptoPayment.id == text(":id")), id=order)
    if known is not None:
        return  # the answer to an earlier try was lost
    assert promise.credit_micro is not None
    row = {
        "id": order,
        "provider": "nowpayments",
        "provider_payment_id": provider_id,
        "order_id": order,
        "account_id": promise.account_id,
        "price_amount": parse_coin(usd_text(promise.credit_micro)),
        "price_currency": "usd",
        "pay_currency": "btc",
        "status": "waiting",
        "next_poll_at": add_seconds(tx.now, 3_600),  # so that only the dead letter brings it
        "created_at": tx.now,
        "updated_at": tx.now,
    }
    insert_rows(tx, CryptoPayment.__table__, [row])


_NUMBER, _NOW = text(":number"), bindparam("now", type_=UtcTime())
_LOOK_NOW = (
    update(CryptoPayment)
    .where(CryptoPayment.provider_payment_id == _NUMBER)
    .values(next_poll_at=_NOW)
)
