"""The story of the system, told on real servers: `make demo`.

Starts everything on free ports and a fresh SQLite database, drives it over HTTP as its callers
would, prints each step with real ids and amounts, and checks every figure. Exit status: 0 all
right, 1 at the first figure that is wrong.
"""

import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jwt
import requests

from deploy.local.services import arrakis_stack
from deploy.local.sockets import free_ports
from deploy.local.stack import Stack

WAIT_SECONDS = 20.0
ACCOUNT = "acct-arrakeen"


class WrongFigureError(Exception):
    """The system said something else than it should have."""


class Story:
    """Drives the running system, prints what happens and checks it."""

    def __init__(self, stack: Stack, *, api: str, simulator: str, database: Path) -> None:
        self._stack = stack
        self._api = api
        self._simulator = simulator
        self._database = database
        self.checks = 0

    # Speaking and checking

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        print(f"\n{_bold(title)}", flush=True)

    def say(self, text: str) -> None:
        """Tell what happened."""
        print(f"  {text}", flush=True)

    def check(self, what: str, found: object, expected: object) -> None:
        """Print *what* was found. Raises WrongFigureError unless it is what was expected."""
        if found != expected:
            raise WrongFigureError(f"{what}: expected {expected!r}, found {found!r}")
        self.checks += 1
        print(f"  {_green('✓')} {what}: {found}", flush=True)

    def wait_for(self, what: str, look: Callable[[], Any], expected: object) -> None:
        """Look until *expected* is found, then check it; or until the time is up."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := look()) != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        self.check(what, found, expected)

    # Acting as the callers do

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement of the runbook on the database file, as `sqlite3` would."""
        connection = sqlite3.connect(self._database, timeout=10)
        try:
            with connection:
                return connection.execute(statement).fetchall()
        finally:
            connection.close()

    def post(self, path: str, body: dict[str, Any], *, kind: str = "s2s") -> requests.Response:
        """POST to the API with a fresh token of *kind*."""
        return requests.post(self._api + path, json=body, headers=self._token(kind), timeout=15)

    def get(self, path: str, *, kind: str = "s2s") -> Any:
        """GET from the API and return the body."""
        answer = requests.get(self._api + path, headers=self._token(kind), timeout=15)
        answer.raise_for_status()
        return answer.json()

    def simulate(self, path: str, body: dict[str, Any]) -> Any:
        """Make the provider's simulator do something, and wait until it has."""
        answer = requests.post(self._simulator + path, json={"wait": True, **body}, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def balance(self) -> tuple[str, str]:
        """Return what the account has available and reserved, as its owner sees it."""
        body = self.get("/api/billing/balance", kind="member")
        return body["availableMicro"], body["reservedMicro"]

    def set_mode(self, mode: str) -> None:
        """Switch the mode by SQL, as the runbook does, and wait until the API obeys."""
        self.sql(f"UPDATE billing_config SET value = '{mode}' WHERE key = 'billing_mode'")
        self.say(f"UPDATE billing_config SET value = '{mode}' WHERE key = 'billing_mode';")

        def seen() -> str:
            held = self.post(
                "/api/internal/reserve", {"accountId": ACCOUNT, "estimatedCostMicro": "1"}
            ).json()
            self.post("/api/internal/release", {"reservationId": held["reservationId"]})
            return str(held["billingMode"])

        self.wait_for("the running API obeys within 5 s, mode", seen, mode)

    def _token(self, kind: str) -> dict[str, str]:
        now = int(time.time())
        env = self._stack.env
        kinds: dict[str, tuple[str, int, dict[str, Any]]] = {
            "s2s": (
                env["BILLING_INTERNAL_JWT_SECRET"],
                300,
                {"iss": "loa-finn", "aud": "arrakis-internal", "sub": "demo"},
            ),
            "admin": (
                env["BILLING_ADMIN_JWT_SECRET"],
                3600,
                {
                    "iss": "arrakis-admin",
                    "aud": "arrakis-billing-admin",
                    "sub": "demo-operator",
                    "scopes": ["billing:read", "billing:write"],
                },
            ),
            "member": (
                env["BILLING_MEMBER_JWT_SECRET"],
                3600,
                {"iss": "arrakis", "aud": "arrakis-billing", "sub": ACCOUNT},
            ),
        }
        secret, life, claims = kinds[kind]
        token = jwt.encode({**claims, "iat": now, "exp": now + life}, secret, algorithm="HS256")
        return {"Authorization": f"Bearer {token}"}


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
        "revenue in the system accounts' balances, rolled up by a worker",
        lambda: story.sql(
            "SELECT account_id, available_micro FROM credit_balances "
            "WHERE account_id LIKE 'sys-%' ORDER BY account_id"
        ),
        [("sys-commons", 150_000), ("sys-community-pool", 2_100_000), ("sys-foundation", 750_000)],
    )


def tell(story: Story) -> None:
    """Tell all chapters, and close the books."""
    migrated(story)
    payment_id, provider_id = asked_for_a_payment(story)
    paid(story, payment_id, provider_id)
    shadowed(story)
    lived(story)
    story.chapter("The books close")
    sums = story.sql(
        "SELECT (SELECT SUM(amount_micro) FROM credit_ledger WHERE entry_type NOT LIKE 'shadow_%'),"
        " (SELECT SUM(available_micro) FROM credit_lots)"
    )
    story.check("sum of all entries = credits in all lots", sums[0][0], sums[0][1])


def main() -> int:
    """Start the system, tell the story, stop the system."""
    for end in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(end, _interrupt)
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
                database = stack.directory / "sietch.db"
                story = Story(stack, api=api, simulator=simulator, database=database)
                print(f"Ready after {time.monotonic() - began:.1f} s: {', '.join(stack.pids())}.")
                tell(story)
        except WrongFigureError as error:
            print(f"\n  {_red('✗')} {error}", flush=True)
            return 1
        except KeyboardInterrupt:
            print("\nStopped before the end; no process is left.")
            return 130
    print(
        f"\nAll {story.checks} figures are right; everything is stopped "
        f"({time.monotonic() - began:.1f} s). Next: make up"
    )
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _colour(code: int, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def _bold(text: str) -> str:
    return _colour(1, text)


def _green(text: str) -> str:
    return _colour(32, text)


def _red(text: str) -> str:
    return _colour(31, text)


if __name__ == "__main__":
    sys.exit(main())
