"""Payments as operators mend them by the admin API: list, show, replay, refund (contract 5).

Behaviours 88, 89, 90, 160 and 186; the provider is the simulator, nothing of ours is replaced.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.errors import NotFound, Unavailable
from shared.operations import payments as desk
from shared.operations.audit import Actor
from tests.front_door import balance, breaches, hold, insert_payment, mint, rows, settle, snapshot
from tests.harness import Api, Databases, running_api, set_config, unique, wait_until
from tests.ledger import Ledger
from tests.provider_harness import API_KEY, Simulator
from tests.till import M, Till

PRICE = 25 * M


class Desk:
    """The admin API about payments, and the provider behind it."""

    def __init__(self, api: Api, simulator: Simulator) -> None:
        self.api, self.simulator = api, simulator

    def buy(self, account: str | None = None) -> dict[str, Any]:
        """Make a payment as a chat bot would."""
        body = {
            "accountId": account or self.api.funded_account(0),
            "amountUsd": "25.00",
            "payCurrency": "ltc",
        }
        made = self.api.post(
            "/api/internal/payments", body, headers=self.api.s2s(sub=unique("bot"))
        )
        assert made.status_code == 201, made.text
        return dict(made.json())

    def missed(self) -> dict[str, Any]:
        """Make a payment that is paid without a notice of it."""
        made = self.buy()
        self.simulator.play(int(made["providerPaymentId"]), "missed")
        return made

    def paid(self) -> dict[str, Any]:
        """Make a payment that is credited."""
        made = self.missed()
        assert self.replay(made["paymentId"]).json()["creditedMicro"] == str(PRICE)
        return made

    def post(self, path: str, body: Any = None, **claims: Any) -> requests.Response:
        headers = self.api.admin(**{"sub": unique("admin"), **claims})
        return self.api.post(f"/admin/billing/payments/{path}", body, headers=headers)

    def replay(self, payment_id: str) -> requests.Response:
        return self.post(f"{payment_id}/replay")

    def refund(self, payment_id: str, reason: str = "Sent back by hand.") -> requests.Response:
        return self.post(f"{payment_id}/refund", {"reason": reason})

    def listed(self, **query: Any) -> dict[str, Any]:
        words = "&".join(f"{name}={value}" for name, value in query.items())
        answer = self.api.admin_get(f"payments?{words}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def show(self, payment_id: str) -> dict[str, Any]:
        answer = self.api.admin_get(f"payments/{payment_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def audited(self, target: str) -> list[str]:
        """Return what was done to a payment, oldest first."""
        statement = "SELECT action FROM admin_audit_log WHERE target_id = :id ORDER BY id"
        return [row[0] for row in rows(self.api, statement, id=target)]


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def running(
    request: pytest.FixtureRequest,
    databases: Databases,
    redis_url: str,
    one_simulator: Simulator,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    log: Path = tmp_path_factory.mktemp("logs") / "api.log"
    provider = {
        "NOWPAYMENTS_API_URL": f"{one_simulator.url}/v1",
        "NOWPAYMENTS_API_KEY": API_KEY,
        "PAYMENTS_VERIFY_BEFORE_CREDIT": "true",
    }
    with running_api(databases.make(request.param), redis_url, log, **provider) as api:
        set_config(api.database, billing_mode="live")
        yield api
        assert breaches(api) == []


@pytest.fixture
def admin(running: Api, simulator: Simulator) -> Desk:
    return Desk(running, simulator)


def test_payments_are_listed_newest_first_page_by_page(admin: Desk) -> None:
    account = admin.api.funded_account(0)
    made = [admin.buy(account)["paymentId"] for _ in range(5)]
    pages, cursor = [], {}
    while True:
        page = admin.listed(accountId=account, limit=2, **cursor)
        pages.append([one["paymentId"] for one in page["payments"]])
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one for page in pages for one in page] == made[::-1]


def test_a_list_is_filtered_by_status_account_and_provider(admin: Desk) -> None:
    paid = admin.paid()
    account = paid["accountId"]
    waiting = admin.buy(account)["paymentId"]

    def found(**query: Any) -> list[str]:
        page = admin.listed(accountId=account, **query)
        assert page["nextCursor"] is None
        return [one["paymentId"] for one in page["payments"]]

    assert found() == [waiting, paid["paymentId"]]
    assert found(status="finished") == [paid["paymentId"]]
    assert found(status="waiting", provider="nowpayments") == [waiting]
    assert found(provider="x402") == found(status="expired") == []
    [shown] = admin.listed(accountId=account, status="finished")["payments"]
    assert [credit["basis"] for credit in shown["credits"]] == ["price"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "status=paid", "provider=paypal"]
)
def test_a_filter_that_makes_no_sense_is_refused(admin: Desk, query: str) -> None:
    assert admin.api.admin_get(f"payments?{query}").status_code == 400


def test_a_payment_is_explained_by_our_id_and_by_theirs(admin: Desk) -> None:
    """Behaviour 90."""
    paid = admin.paid()
    explained = admin.show(paid["paymentId"])
    assert explained == admin.show(paid["providerPaymentId"])
    [event] = explained["events"]
    assert (event["source"], event["status"], event["state"], event["outcome"]) == (
        "poll", "finished", "done", "applied",
    )  # fmt: skip
    [credit] = explained["credits"]
    assert (credit["amountMicro"], credit["basis"]) == (str(PRICE), "price")
    assert (explained["outcomeAmount"], explained["outcomeCurrency"]) == ("24.875", "usdttrc20")
    assert explained["nextPollAt"] is explained["parentPaymentId"] is None
    assert explained["deadLetters"] == []


@pytest.mark.parametrize("payment_id", ["4711", "cp_nobody", "refused-cp_nobody", "0x" + "a" * 64])
def test_a_payment_that_nobody_knows_is_not_found(admin: Desk, payment_id: str) -> None:
    answers = [
        admin.api.admin_get(f"payments/{payment_id}"),
        admin.replay(payment_id),
        admin.refund(payment_id),
    ]
    told = [(one.status_code, one.json()["code"]) for one in answers]
    assert told == [(404, "payment_not_found")] * 3
    assert rows(admin.api, "SELECT id FROM webhook_events WHERE provider_payment_id = '4711'") == []


def test_a_missed_payment_is_credited_by_a_replay_and_only_once(admin: Desk) -> None:
    made = admin.missed()
    account = made["accountId"]
    first = admin.replay(made["paymentId"])
    assert (first.status_code, first.json()["isProviderAsked"]) == (200, True)
    assert (first.json()["status"], first.json()["creditedMicro"]) == ("finished", str(PRICE))
    before = snapshot(admin.api, account)
    again = [admin.replay(one) for one in (made["providerPaymentId"], made["paymentId"])]
    assert [one.json()["credits"] for one in again] == [first.json()["credits"]] * 2
    assert snapshot(admin.api, account) == before
    assert balance(admin.api, account) == (PRICE, 0, 0)
    assert admin.audited(made["paymentId"]) == ["payment_replay"] * 2
    assert admin.audited(made["providerPaymentId"]) == ["payment_replay"]


def test_a_replay_that_takes_longer_than_a_second_goes_on_without_the_caller(admin: Desk) -> None:
    """Contract 5: 202 with what to look up; ``Prefer: wait=N`` waits."""
    first, second = admin.missed(), admin.missed()
    admin.simulator.control("faults", mode="slow", seconds=1.5)
    try:
        path = f"/admin/billing/payments/{first['paymentId']}"
        left = admin.replay(first["paymentId"])
        assert (left.status_code, left.json()["status"]) == (202, "running")
        assert left.headers["Location"] == left.json()["lookUp"] == path
        headers = admin.api.admin(sub=unique("admin")) | {"Prefer": "wait=10"}
        waited = admin.api.post(
            f"/admin/billing/payments/{second['paymentId']}/replay", None, headers=headers
        )
        assert (waited.status_code, waited.json()["creditedMicro"]) == (200, str(PRICE))
    finally:
        admin.simulator.control("faults", mode="none")
    shown = f"payments/{first['paymentId']}"
    wait_until(
        "the credit", lambda: admin.api.admin_get(shown).json()["creditedMicro"] == str(PRICE)
    )
    assert admin.audited(first["paymentId"]) == ["payment_replay"]


def test_a_payment_whose_number_never_reached_us_is_found_by_it(admin: Desk) -> None:
    """The provider's answer was lost; its support tells the operator the number."""
    made = admin.missed()
    forget = "UPDATE crypto_payments SET provider_payment_id = NULL, status = 'creating'"
    with admin.api.database.transaction() as tx:
        tx.connection.exec_driver_sql(f"{forget} WHERE id = '{made['paymentId']}'")
    told = admin.replay(made["providerPaymentId"]).json()
    assert (told["paymentId"], told["creditedMicro"]) == (made["paymentId"], str(PRICE))


def test_a_payment_at_the_provider_that_is_none_of_ours_is_kept_and_not_found(admin: Desk) -> None:
    number = admin.simulator.new_id(order_id=unique("foreign"))
    admin.simulator.play(number, "missed")
    assert admin.replay(str(number)).status_code == 404
    stored = "SELECT state, status FROM webhook_events WHERE provider_payment_id = :n"
    assert rows(admin.api, stored, n=str(number)) == [("parked", "finished")]


def test_what_has_no_notices_cannot_be_replayed(admin: Desk) -> None:
    account = admin.api.funded_account(0)
    chain = insert_payment(admin.api, account, provider="x402", status="finished")
    told = admin.replay(chain)
    assert (told.status_code, told.json()["code"]) == (409, "nothing_to_replay")
    refused = insert_payment(
        admin.api, account, provider_payment_id=unique("refused-cp"), status="failed"
    )
    told = admin.replay(refused)
    assert (told.status_code, told.json()["status"]) == (200, "failed")
    assert (told.json()["events"], told.json()["isProviderAsked"]) == ([], False)


def test_a_refund_takes_back_what_is_there_and_says_so_again(admin: Desk) -> None:
    """Behaviours 89 and 160: untouched, so all of it, once."""
    paid = admin.paid()
    first = admin.refund(paid["paymentId"])
    assert first.status_code == 200
    lots = [credit["lotId"] for credit in admin.show(paid["paymentId"])["credits"]]
    assert first.json() == {
        "paymentId": paid["paymentId"],
        "accountId": paid["accountId"],
        "status": "refunded",
        "clawedBackMicro": str(PRICE),
        "debtMicro": "0",
        "heldMicro": "0",
        "lots": lots,
    }
    before = snapshot(admin.api, paid["accountId"])
    again = admin.refund(paid["providerPaymentId"], "Another reason.")
    assert (again.status_code, again.json()) == (200, first.json())
    after = snapshot(admin.api, paid["accountId"])
    for table in before.keys() - {"credit_balances"}:  # whose version may grow: it is for caches
        assert after[table] == before[table]
    assert balance(admin.api, paid["accountId"]) == (0, 0, 0)
    shown = admin.show(paid["paymentId"])
    assert (shown["status"], shown["nextPollAt"]) == ("refunded", None)
    assert admin.audited(paid["paymentId"]) == ["payment_replay", "payment_refund"]
    [(details,)] = rows(
        admin.api,
        "SELECT details FROM admin_audit_log WHERE action = 'payment_refund' AND target_id = :id",
        id=paid["paymentId"],
    )
    assert json.loads(details)["reason"] == "Sent back by hand."


def test_what_was_spent_becomes_a_debt_and_what_is_held_is_taken_later(admin: Desk) -> None:
    """Behaviour 88 and W28."""
    paid = admin.paid()
    account = paid["accountId"]
    settle(admin.api, hold(admin.api, account, 6 * M), 6 * M)
    held = hold(admin.api, account, 4 * M)
    told = admin.refund(paid["paymentId"]).json()
    parts = (told["clawedBackMicro"], told["debtMicro"], told["heldMicro"])
    assert parts == (str(15 * M), str(6 * M), str(4 * M))
    assert balance(admin.api, account) == (-6 * M, 4 * M, 6 * M)
    released = admin.api.internal("release", {"reservationId": held})
    assert released.status_code == 200
    assert balance(admin.api, account) == (-6 * M, 0, 6 * M)
    mint(admin.api, account, 10 * M)
    assert balance(admin.api, account) == (4 * M, 0, 0)


def test_a_payment_that_credited_nothing_has_nothing_to_refund(admin: Desk) -> None:
    made = admin.buy()
    told = admin.refund(made["paymentId"])
    assert (told.status_code, told.json()["code"]) == (409, "nothing_to_refund")
    assert admin.show(made["paymentId"])["status"] == "waiting"
    assert admin.audited(made["paymentId"]) == ["payment_refund_refused"]


def test_a_replay_after_a_refund_credits_nothing_and_asks_nobody(admin: Desk) -> None:
    """The provider still shows finished, for the money went back outside of it."""
    paid = admin.paid()
    admin.refund(paid["paymentId"])
    told = admin.replay(paid["paymentId"]).json()
    assert (told["status"], told["reviewReason"], told["deadLetters"]) == ("refunded", None, [])
    assert balance(admin.api, paid["accountId"]) == (0, 0, 0)


def test_what_an_admin_credited_after_the_refund_is_taken_back_and_audited(admin: Desk) -> None:
    made = admin.buy()
    admin.simulator.play(int(made["providerPaymentId"]), "missed")
    admin.simulator.advance(int(made["providerPaymentId"]), "refunded", notify=False)
    assert admin.replay(made["paymentId"]).json()["status"] == "refunded"
    mint(admin.api, made["accountId"], PRICE, paymentId=made["providerPaymentId"])
    assert admin.refund(made["paymentId"]).json()["clawedBackMicro"] == str(PRICE)
    assert admin.audited(made["paymentId"]) == ["payment_replay", "payment_refund"]


@pytest.mark.parametrize("reason", [None, "", "   ", "x" * 1001, 5])
def test_a_refund_needs_a_reason(admin: Desk, reason: Any) -> None:
    body = {} if reason is None else {"reason": reason}
    assert admin.post("4711/refund", body).status_code == 400


def test_who_may_only_read_changes_nothing(admin: Desk) -> None:
    """Behaviour 184."""
    paid = admin.paid()
    for path, body in (("replay", None), ("refund", {"reason": "why"})):
        told = admin.post(f"{paid['paymentId']}/{path}", body, scopes=["billing:read"])
        assert (told.status_code, told.json()["code"]) == (403, "missing_scope")
    headers = admin.api.admin(scopes=["billing:write"])
    assert admin.api.get("/admin/billing/payments", headers=headers).status_code == 403
    for headers in ({}, admin.api.s2s(), admin.api.member(paid["accountId"])):
        assert admin.api.get("/admin/billing/payments", headers=headers).status_code == 401
    assert balance(admin.api, paid["accountId"]) == (PRICE, 0, 0)


def test_while_the_provider_is_away_a_replay_does_what_it_can(ledger: Ledger) -> None:
    till, actor = Till(ledger), Actor("operator", "night shift")
    payment = till.payment()
    till.tell(payment, "finished")
    told = desk.replay(till.intake, actor, payment.number)
    assert (told["isProviderAsked"], told["creditedMicro"]) == (False, str(PRICE))
    with pytest.raises(Unavailable):  # it may well know it
        desk.replay(till.intake, actor, "4711")
    with pytest.raises(NotFound):
        desk.replay(till.intake, actor, "cp_nobody")
    audited = ledger.rows("SELECT action, target_id FROM admin_audit_log ORDER BY id")
    assert audited == [
        ("payment_replay", payment.number),
        ("payment_replay_refused", "cp_nobody"),
    ]


def test_a_payment_whose_creation_is_unanswered_shows_its_letter(ledger: Ledger) -> None:
    till = Till(ledger)
    payment = till.payment(provider_payment_id=None, status="creating")
    with ledger.database.transaction() as tx:
        desk.dlq.enter(
            tx, "deposit", subject_id=payment.id, payload={}, error="several", needs_person=True
        )
        [letter] = desk.explain_payment(tx, payment.id)["deadLetters"]
    assert (letter["operation"], letter["error"]) == ("deposit", "several")


def test_a_refund_by_hand_ends_what_waits_to_be_clawed_back(ledger: Ledger) -> None:
    till = Till(ledger)
    paid = till.paid()
    change = "UPDATE crypto_payments SET account_id = :account WHERE id = :id"
    ledger.sql(change, account=ledger.account(), id=paid.id)
    till.told(paid, "refunded")
    assert till.letters() == [("refund", "pending", 0)]
    ledger.sql(change, account=paid.account, id=paid.id)
    desk.refund(ledger.database, ledger.terms, Actor("admin", "one"), paid.id, "by hand")
    assert till.letters() == [("refund", "completed", 0)]
    assert ledger.balance(paid.account) == (0, 0, 0)
