"""The story of the system, told on real servers: `make demo`.

Starts everything on free ports and a fresh SQLite database, drives it over HTTP as its callers
would, prints each step with real ids and amounts, and checks every figure. Exit status: 0 all
right, 1 at the first figure that is wrong.
"""

import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from deploy.local.demo_faults import killed, parked, reconciled
from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_ports
from deploy.local.story import ACCOUNT, DEBTOR, Story, WrongFigureError, red
from deploy.local.system import LocalSystem


def migrated(story: Story) -> None:
    """Show the runbook's verification queries (runbook 1)."""
    story.chapter("1. The database is migrated; the runbook's verification queries answer")
    names = [row[0] for row in story.sql("SELECT name FROM migrations ORDER BY applied_at, name")]
    story.say(", ".join(names))
    wanted = ["030_credit_ledger", "031_crypto_payments_v2", "032_billing_ops", "033_campaigns"]
    story.check("the runbook's four come first", names[0:4], wanted)
    broken = story.sql(
        "SELECT COUNT(*) FROM credit_lots "
        "WHERE available_micro + reserved_micro + consumed_micro != original_micro"
    )
    story.check("lots that break the invariant", broken[0][0], 0)
    mode = story.sql("SELECT key, value FROM billing_config WHERE key = 'billing_mode'")
    story.check("configuration", mode, [("billing_mode", "shadow")])
    system = story.sql("SELECT id FROM credit_accounts WHERE id LIKE 'sys-%' ORDER BY id")
    story.check(
        "system accounts",
        [row[0] for row in system],
        ["sys-commons", "sys-community-pool", "sys-foundation"],
    )


def asked_for_a_payment(story: Story) -> tuple[str, str]:
    """Create the account and a payment of $25; return our id and the provider's."""
    story.chapter("2. A community account asks to pay $25 in bitcoin")
    made = story.post(
        "/admin/billing/accounts",
        {"entityType": "community", "entityId": "arrakeen", "accountId": ACCOUNT},
        kind="admin",
    )
    story.check("POST /admin/billing/accounts", made.status_code, 201)
    answer = story.post(
        "/api/billing/payments", {"amountUsd": "25.00", "payCurrency": "btc"}, kind="member"
    )
    story.check("POST /api/billing/payments", answer.status_code, 201)
    payment = answer.json()
    story.say(
        f"payment {payment['paymentId']} is {payment['providerPaymentId']} at the provider: "
        f"send {payment['payAmount']} {payment['payCurrency']} to {payment['payAddress']}"
    )
    story.check("its status", payment["status"], "waiting")
    return payment["paymentId"], payment["providerPaymentId"]


def paid(story: Story, payment_id: str, provider_id: str) -> None:
    """Let the provider send its notices, out of order and twice; the credit comes once."""
    story.chapter("3. The provider sends its notices, signed; out of order, finished twice")
    notices = (
        ("advance", "confirming"),
        ("advance", "confirmed"),
        ("advance", "finished"),
        ("notify", "sending"),  # an older one that was held up on its way
        ("notify", "finished"),
    )
    for action, status in notices:
        sent = story.simulate(f"/payments/{provider_id}/{action}", {"status": status})
        delivery = sent["deliveries"][-1]
        story.say(f"notice {status:<11} → HTTP {delivery['http_status']} {delivery['body']}")
    story.wait_for("payment status", lambda: _status(story, payment_id), "finished")
    story.wait_for(
        "notices worked off",
        lambda: story.sql("SELECT COUNT(*) FROM webhook_events WHERE state = 'new'")[0][0],
        0,
    )
    lots = story.sql(
        "SELECT id, source_id, original_micro FROM credit_lots WHERE source_type = 'deposit'"
    )
    story.say(f"lot {lots[0][0]} from {lots[0][1]}")
    story.check("lots made, and their micro-USD", [lot[2] for lot in lots], [25_000_000])
    story.check("balance (available, reserved)", story.balance(), ("25000000", "0"))


def _status(story: Story, payment_id: str) -> str:
    return str(story.get(f"/api/billing/payments/{payment_id}", kind="member")["status"])


def shadowed(story: Story) -> None:
    """In shadow mode everything is answered and nothing moves."""
    story.chapter("4. Shadow mode: every answer looks real, no credit moves")
    held = story.post(
        "/api/internal/reserve", {"accountId": ACCOUNT, "estimatedCostMicro": "4000000"}
    ).json()
    story.say(f"reservation {held['reservationId']} in mode {held['billingMode']}")
    done = story.post(
        "/api/internal/finalize",
        {"reservationId": held["reservationId"], "actualCostMicro": "2500000"},
    ).json()
    story.check("finalized, as it would have been", done["finalizedMicro"], "2500000")
    kinds = story.sql(
        "SELECT entry_type, amount_micro FROM credit_ledger "
        f"WHERE reservation_id = '{held['reservationId']}' ORDER BY entry_seq"
    )
    story.check(
        "ledger entries", kinds, [("shadow_reserve", 4_000_000), ("shadow_finalize", 2_500_000)]
    )
    story.check("balance, unmoved", story.balance(), ("25000000", "0"))


def overdrawn(story: Story) -> None:
    """In soft mode an overrun is charged in full, and what no lot covers becomes a debt."""
    story.chapter("5. Soft mode: an overrun becomes a debt, and the next deposit pays it")
    body = {"entityType": "person", "entityId": "stilgar", "accountId": DEBTOR}
    story.post("/admin/billing/accounts", body, kind="admin")
    mint = f"/admin/billing/accounts/{DEBTOR}/mint"
    story.post(mint, {"amountMicro": "1000000", "sourceType": "grant"}, kind="admin")
    story.set_mode("soft")
    held = story.post(
        "/api/internal/reserve", {"accountId": DEBTOR, "estimatedCostMicro": "1000000"}
    ).json()
    done = story.post(
        "/api/internal/finalize",
        {"reservationId": held["reservationId"], "actualCostMicro": "3000000"},
    ).json()
    story.say(f"reservation {held['reservationId']} of 1000000 cost 3000000")
    story.check("charged in full", done["finalizedMicro"], "3000000")
    story.check("of that as debt", done["debtMicro"], "2000000")
    path = f"/api/internal/accounts/{DEBTOR}/balance"
    story.check("available", story.get(path)["availableMicro"], "-2000000")
    paid = story.post(
        mint, {"amountMicro": "5000000", "sourceType": "deposit"}, kind="admin"
    ).json()
    story.check("a deposit of 5000000 pays the debt first", paid["debtPaidMicro"], "2000000")
    story.check("available", story.get(path)["availableMicro"], "3000000")


def refunded(story: Story, payment_id: str, provider_id: str) -> None:
    """The provider refunds the payment: what is left is clawed back, what was spent is owed."""
    story.chapter("9. The provider refunds the $25")
    sent = story.simulate(f"/payments/{provider_id}/advance", {"status": "refunded"})
    story.say(f"notice refunded → HTTP {sent['deliveries'][-1]['http_status']}")
    story.wait_for("payment status", lambda: _status(story, payment_id), "refunded")
    entry = story.sql(
        "SELECT amount_micro FROM credit_ledger WHERE entry_type = 'refund' ORDER BY id"
    )
    story.check("clawed back and owed, one entry", [row[0] for row in entry], [-25_000_000])
    balance = story.get("/api/billing/balance", kind="member")
    story.check("available: what was spent is owed", balance["availableMicro"], "-3000000")
    story.check("debt", balance["debtMicro"], "3000000")


def lived(story: Story) -> None:
    """In live mode a hold is settled, split, repeated, contradicted, and refused."""
    story.chapter("6. Live mode: reserve, finalize for less, split, repeat, refuse")
    story.set_mode("live")
    held = story.post(
        "/api/internal/reserve", {"accountId": ACCOUNT, "estimatedCostMicro": "5000000"}
    ).json()
    story.say(f"reservation {held['reservationId']} until {held['expiresAt']}")
    story.check("balance while held", story.balance(), ("20000000", "5000000"))
    body = {"reservationId": held["reservationId"], "actualCostMicro": "3000000"}
    first = story.post("/api/internal/finalize", body)
    answer = first.json()
    story.check("charged", answer["finalizedMicro"], "3000000")
    story.check("surplus given back", answer["releasedMicro"], "2000000")
    story.check("balance after", story.balance(), ("22000000", "0"))
    shares = story.sql(
        "SELECT account_id, amount_micro FROM credit_ledger WHERE entry_type IN "
        "('commons_contribution', 'revenue_share') "
        f"AND reservation_id = '{held['reservationId']}' ORDER BY id"
    )
    story.check(
        "revenue split 5/70/25",
        shares,
        [("sys-commons", 150_000), ("sys-community-pool", 2_100_000), ("sys-foundation", 750_000)],
    )
    again = story.post("/api/internal/finalize", body)
    story.check("the same finalize again, byte for byte", again.text, first.text)
    other = story.post("/api/internal/finalize", {**body, "actualCostMicro": "3000001"})
    refused = (other.status_code, other.json()["code"])
    story.check("another amount", refused, (409, "idempotency_conflict"))
    big = story.post(
        "/api/internal/reserve", {"accountId": ACCOUNT, "estimatedCostMicro": "99000000"}
    )
    refused = (big.status_code, big.json()["error"])
    story.check("too large a reserve", refused, (402, "insufficient_credits"))
    story.wait_for(
        "revenue of both charges in the system accounts' balances, rolled up by a worker",
        lambda: story.sql(
            "SELECT account_id, available_micro FROM credit_balances "
            "WHERE account_id LIKE 'sys-%' ORDER BY account_id"
        ),
        [
            ("sys-commons", 300_000),
            ("sys-community-pool", 4_200_000),
            ("sys-foundation", 1_500_000),
        ],
    )


def campaigned(story: Story) -> None:
    """A campaign shares a pot out among three wallets, by what each has lost, and only once."""
    story.chapter("7. A campaign grants 3 wallets: $10.00 shared out by loss, once")
    base = "/admin/billing/campaigns"
    wallets = [f"acct-fremen-{number}" for number in (1, 2, 3)]
    for wallet in wallets:
        body = {"entityType": "person", "entityId": wallet, "accountId": wallet}
        story.post("/admin/billing/accounts", body, kind="admin")
    draft = {
        "name": "Water debt",
        "campaignType": "reverse_airdrop",
        "budgetMicro": "15000000",
        "grantFormula": "proportional_loss",
        "grantConfig": {"potMicro": "10000000"},
    }
    campaign = story.post(base, draft, kind="admin").json()["campaignId"]
    losses = zip(wallets, ("3000000", "2000000", "1000000"), strict=True)
    grants = [{"accountId": one, "formulaInput": {"lossMicro": loss}} for one, loss in losses]
    path = f"{base}/{campaign}/grants/batch"
    early = story.post(path, {"grants": grants}, kind="admin")
    story.check("a draft grants nothing", early.status_code, 409)
    story.post(f"{base}/{campaign}/activate", {}, kind="admin")
    done = story.post(path, {"grants": grants}, kind="admin")
    story.check(f"campaign {campaign} is active; POST …/grants/batch", done.status_code, 201)
    shares = [one["amountMicro"] for one in done.json()["grants"]]
    story.check("shares of 3 : 2 : 1, to the micro", shares, ["5000000", "3333333", "1666667"])
    again = story.post(path, {"grants": grants}, kind="admin").json()
    fresh = (again["totalGranted"], again["totalExisting"], again["totalAmountMicro"])
    story.check("the same list again: new, there already, micro-USD", fresh, (0, 3, "0"))
    spent = story.sql(
        f"SELECT spent_micro, (SELECT SUM(amount_micro) FROM credit_grants WHERE campaign_id = c.id"
        f" AND status = 'granted') FROM credit_campaigns c WHERE id = '{campaign}'"
    )
    story.check("spent of the budget = granted", spent, [(10_000_000, 10_000_000)])


def tell(story: Story) -> None:
    """Tell all chapters, and close the books."""
    migrated(story)
    payment_id, provider_id = asked_for_a_payment(story)
    paid(story, payment_id, provider_id)
    shadowed(story)
    overdrawn(story)
    lived(story)
    campaigned(story)
    killed(story)
    refunded(story, payment_id, provider_id)
    parked(story)
    reconciled(story)
    sums = story.sql(
        "SELECT (SELECT SUM(amount_micro) FROM credit_ledger WHERE entry_type NOT LIKE 'shadow_%'),"
        " (SELECT SUM(available_micro) FROM credit_lots),"
        " (SELECT COALESCE(SUM(debt_micro), 0) FROM credit_debts WHERE resolved_at IS NULL)"
    )
    entries, lots, debts = sums[0]
    story.say(f"credits in all lots: {lots}; open debts: {debts}")
    story.check("sum of all entries = lots - debts", entries, lots - debts)


def main() -> int:
    """Start the system, tell the story, stop the system."""
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, interrupt)
    began = time.monotonic()
    ports = free_ports(4)
    api, simulator = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[3]}/sim"
    with tempfile.TemporaryDirectory(prefix="arrakis-demo-") as directory:
        stack = arrakis_stack(
            Path(directory),
            api_port=ports[0],
            webhooks_port=ports[1],
            flower_port=ports[2],
            simulator_port=ports[3],
            env={"ARRAKIS_LOG_LEVEL": "WARNING"},
        )
        print("Starting API, webhook receiver, workers, beat, Flower and servers …", flush=True)
        try:
            with stack:
                story = Story(LocalSystem(stack, api=api, simulator=simulator))
                print(f"Ready after {time.monotonic() - began:.1f} s: {', '.join(stack.pids())}.")
                tell(story)
        except WrongFigureError as error:
            print(f"\n  {red('✗')} {error}", flush=True)
            return 1
        except KeyboardInterrupt:
            print("\nStopped before the end; no process is left.")
            return 130
    print(
        f"\nAll {story.checks} figures are right; everything is stopped "
        f"({time.monotonic() - began:.1f} s). Next: make up"
    )
    return 0


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Turn a signal into the exception that ends a run in order."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
