"""The reconciliation over HTTP: its last result, a run as a job, earlier runs (contract 5)."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from flask.testing import FlaskClient

from services.api.app import create_app
from shared.balance_cache import BalanceCache
from shared.config import ApiSettings, load_settings
from shared.reconciliation import runs
from tests.harness import SECRETS, unique
from tests.ledger import Ledger
from tests.reconciliation import Reconciling

BASE = "/admin/billing/reconciliation"
RUN = f"{BASE}/run"


class Desk:
    """The API in this process, and the worker beside it."""

    def __init__(self, ledger: Ledger, redis_url: str) -> None:
        self.worker = Reconciling(ledger, redis_url)
        environment = {
            **SECRETS,
            "DATABASE_URL": ledger.url,
            "REDIS_URL": redis_url,
            "FEATURE_BILLING_ENABLED": "true",
        }
        settings = load_settings(ApiSettings, environment)
        app = create_app(settings, self.worker.database, BalanceCache(redis_url))
        self.http: FlaskClient = app.test_client()

    def token(self, *scopes: str) -> dict[str, str]:
        now = int(time.time())
        claims = {
            "iss": "arrakis-admin",
            "aud": "arrakis-billing-admin",
            "sub": unique("admin"),
            "scopes": list(scopes or ("billing:read", "billing:write")),
            "iat": now,
            "exp": now + 600,
        }
        secret = SECRETS["BILLING_ADMIN_JWT_SECRET"]
        return {"Authorization": "Bearer " + jwt.encode(claims, secret, algorithm="HS256")}

    def get(self, path: str) -> Any:
        return self.http.get(path, headers=self.token())

    def run(self, body: Any = None, **headers: str) -> Any:
        return self.http.post(RUN, json=body, headers=self.token() | headers)

    def work(self) -> None:
        while runs.work_off(self.worker.desk):
            pass


@pytest.fixture
def desk(ledger: Ledger, redis_url: str) -> Iterator[Desk]:
    made = Desk(ledger, redis_url)
    yield made
    made.worker.database.dispose()


def test_before_the_first_run_there_is_no_result(desk: Desk) -> None:
    """Behaviour 138: {lastReconciliationAt: null, result: {}}."""
    told = desk.get(BASE)
    assert (told.status_code, told.json) == (200, {"lastReconciliationAt": None, "result": {}})
    assert desk.get(f"{BASE}/runs").json == {"runs": [], "nextCursor": None}


def test_a_run_is_a_job_that_is_looked_up(desk: Desk) -> None:
    asked = desk.http.post(RUN, headers=desk.token())
    assert (asked.status_code, asked.json["status"]) == (202, "queued")
    again = desk.run({"kind": "daily"})
    assert (again.status_code, again.json["runId"]) == (202, asked.json["runId"])
    assert (again.headers["Idempotent-Replay"], again.json) == ("true", asked.json)
    desk.work()
    shown = desk.get(asked.headers["Location"]).json
    assert (shown["status"], shown["passed"], shown["generation"]) == ("completed", True, 1)
    assert desk.get(BASE).json == {
        "lastReconciliationAt": shown["doneAt"],
        "result": shown["result"],
    }
    cache = desk.run({"kind": "cache"}).json
    listed = desk.get(f"{BASE}/runs?limit=1").json
    assert [one["runId"] for one in listed["runs"]] == [cache["runId"]]
    rest = desk.get(f"{BASE}/runs?limit=1&cursor={listed['nextCursor']}").json
    assert [one["runId"] for one in rest["runs"]] == [shown["runId"]]
    assert "result" not in rest["runs"][0]
    found = desk.get(f"{BASE}/runs?kind=cache").json["runs"]
    assert [one["runId"] for one in found] == [cache["runId"]]
    assert len(desk.worker.audited("reconciliation_requested")) == 3


def test_who_prefers_to_wait_is_answered_when_it_is_done(desk: Desk) -> None:
    waited = desk.run({"kind": "cache"}, Prefer="wait=1")
    assert waited.status_code == 202  # nobody works here
    worker = threading.Timer(0.2, desk.work)
    worker.start()
    done = desk.run({"kind": "cache"}, Prefer="wait=10")
    worker.join()
    assert (done.status_code, done.json["status"]) == (200, "completed")
    assert done.json["runId"] == waited.json["runId"]


def test_what_makes_no_sense_or_is_not_allowed_is_refused(desk: Desk) -> None:
    for body in ({"kind": "weekly"}, {"provider": "yes"}, {"providerDays": 0}, []):
        assert desk.run(body).status_code == 400, body
    assert desk.get(f"{BASE}/runs?limit=0").status_code == 400
    assert desk.get(f"{BASE}/runs/nothing").status_code == 404
    reader = desk.token("billing:read")
    assert desk.http.post(RUN, headers=reader).status_code == 403
    assert desk.http.get(BASE, headers=desk.token("billing:write")).status_code == 403
    assert desk.http.get(BASE).status_code == 401
    assert desk.get(f"{BASE}/runs").json["runs"] == []
