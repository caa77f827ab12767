"""The chapters of the demo in which things break: a killed worker, an empty Redis, dead letters."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deploy.local.story import Story

DEPOSITS = 200
TABR = "acct-sietch-tabr"
CHANI = "acct-chani"
_AT_ONCE = 8
_DEPOSIT_MICRO = 5_000_000
_KILL_AFTER = 60
_HEAL_SECONDS = 90.0  # what a killed worker had claimed is taken over after 60 s at most


def killed(story: Story) -> None:
    """Kill a worker and empty Redis while 200 deposits arrive: each is credited once."""
    story.chapter(f"8. kill -9 a worker amid {DEPOSITS} deposits, and Redis comes back empty")
    body = {"entityType": "community", "entityId": "tabr", "accountId": TABR}
    story.post("/admin/billing/accounts", body, kind="admin")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        made = list(pool.map(lambda number: _ask(story, number), range(DEPOSITS)))
        story.check("payments asked for", len(set(made)), DEPOSITS)
        early = list(pool.map(lambda one: _finish(story, one), made[:_KILL_AFTER]))
        late = [pool.submit(_finish, story, one) for one in made[_KILL_AFTER:]]
        before = story.system.pid("worker-payments")
        story.say(story.system.kill("worker-payments"))
        story.say(story.system.empty_redis())
        seen = _credits(story)[0]
        story.say(f"then {seen} of {DEPOSITS} were credited; notices go on coming")
        answers = early + [one.result() for one in late]
    story.check("notices answered 200", answers.count(200), DEPOSITS)
    story.wait_for(
        "lots, payments that they are for, micro-USD",
        lambda: _credits(story),
        (DEPOSITS, DEPOSITS, DEPOSITS * _DEPOSIT_MICRO),
        seconds=_HEAL_SECONDS,
    )
    story.wait_for("another worker runs", lambda: _is_another(story, before), expected=True)
    balance = story.get(f"/api/internal/accounts/{TABR}/balance")["availableMicro"]
    story.check("balance", balance, str(DEPOSITS * _DEPOSIT_MICRO))


def _ask(story: Story, number: int) -> str:
    """Ask for a payment as a service does; a service of its own each 100, for the rate limit."""
    body = {"accountId": TABR, "amountUsd": "5.00", "payCurrency": "btc"}
    answer = story.post("/api/internal/payments", body, subject=f"demo-{number // 100}")
    story.require("POST /api/internal/payments", answer.status_code, 201)
    return str(answer.json()["providerPaymentId"])


def _finish(story: Story, provider_id: str) -> int:
    """Let the provider tell that it is paid; return what our receiver answered."""
    sent = story.simulate(f"/payments/{provider_id}/advance", {"status": "finished"})
    return int(sent["deliveries"][-1]["http_status"])


def _credits(story: Story) -> tuple[int, int, int]:
    [found] = story.sql(
        "SELECT COUNT(*), COUNT(DISTINCT source_id), COALESCE(SUM(original_micro), 0) "
        f"FROM credit_lots WHERE account_id = '{TABR}'"
    )
    return found


def _is_another(story: Story, before: int) -> bool:
    return story.system.pid("worker-payments") not in (0, before)


def parked(story: Story) -> None:
    """What nobody can credit waits in the queue until an operator says what it is worth."""
    story.chapter("10. A notice that cannot be credited: the dead-letter queue, and its healing")
    body = {"entityType": "person", "entityId": "chani", "accountId": CHANI}
    story.post("/admin/billing/accounts", body, kind="admin")
    asked = {"accountId": CHANI, "amountUsd": "20.00", "payCurrency": "btc"}
    payment = story.post("/api/internal/payments", asked).json()
    path = f"/payments/{payment['providerPaymentId']}"
    part = {"actually_paid": 0.0001, "outcome_amount": 8, "outcome_currency": "spice"}
    story.simulate(f"{path}/advance", {"status": "partially_paid", **part})
    letters = (
        "SELECT id FROM billing_dlq WHERE operation_type = 'deposit' "
        f"AND subject_id = '{payment['providerPaymentId']}' AND status = 'manual_review'"
    )
    story.wait_for(
        "8 spice came, and no rule says what it is worth: letters",
        lambda: len(story.sql(letters)),
        1,
    )
    letter = story.sql(letters)[0][0]
    listed, status = arrakis(story, "dlq", "list")
    story.check("arrakis dlq list: exit status", status, 1)
    story.check("it needs a person", listed["counts"]["manual_review"], 1)
    told, _ = arrakis(story, "dlq", "retry", letter)
    story.check("arrakis dlq retry, too early", told["status"], "manual_review")
    story.sql("UPDATE billing_config SET value = 'usd,spice' WHERE key = 'usd_coins'")
    story.say("UPDATE billing_config SET value = 'usd,spice' WHERE key = 'usd_coins';")
    healed, status = arrakis(story, "dlq", "retry", letter)
    story.check(f"arrakis dlq retry {letter}", (healed["status"], status), ("completed", 0))
    lots = story.sql(f"SELECT original_micro FROM credit_lots WHERE account_id = '{CHANI}'")
    story.check("credited, once", lots, [(8_000_000,)])


def reconciled(story: Story) -> None:
    """Compare the books with all that they must agree with, and list the alerts."""
    story.chapter("11. Reconciliation passes; the alerts; the trial balance closes")
    run, status = arrakis(story, "reconcile", "run")
    passed = [check["passed"] for check in run["result"]["checks"]]
    story.check("arrakis reconcile run: exit status", status, 0)
    story.check("checks that passed", sum(passed), len(passed))
    _, status = arrakis(story, "ledger", "verify")
    story.check("arrakis ledger verify: exit status", status, 0)
    told, _ = arrakis(story, "alerts")
    firing = sorted(_alert(one) for one in told["alerts"] if one["status"] == "firing")
    story.say(f"arrakis alerts: firing: {', '.join(firing) or 'none'}")


def _alert(one: dict[str, Any]) -> str:
    left = one["clearsInSeconds"]
    return one["name"] if left is None else f"{one['name']} (healed, clears in {left} s)"


def arrakis(story: Story, *arguments: str) -> tuple[Any, int]:
    """Run the operators' command on the stack; return what it told, and its exit status."""
    said, status = story.system.arrakis(*arguments, "--json")
    story.require(f"arrakis {arguments[0]} tells JSON", said[:1], "{")
    return json.loads(said), status
