"""Admin tokens that are refused before their time is over (behaviour 184, W65, contract 3)."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt

from deploy.local.servers import running_postgres
from shared import schema
from shared.database import Database
from shared.errors import Invalid
from shared.operations import tokens
from shared.operations.audit import Actor
from tests.command import arrakis, told
from tests.harness import SECRETS, running_api, unique, wait_until
from tests.ledger import Ledger

OPERATOR = Actor("operator", "ops")
PATH = "/admin/billing/config"


def status_of(api: Any, token: str) -> int:
    return int(api.get(PATH, headers={"Authorization": f"Bearer {token}"}).status_code)


def test_a_token_of_the_command_works_until_it_is_revoked(ledger: Ledger, api_of: Any) -> None:
    api, at = api_of(ledger.url), {"DATABASE_URL": ledger.url, **SECRETS}
    made = [told("token", "admin", "--subject", unique("ann"), **at)[1] for _ in range(2)]
    assert [status_of(api, one["token"]) for one in made] == [200, 200]
    assert made[0]["jti"] != made[1]["jti"]
    code, output, _ = arrakis("token", "revoke", made[0]["token"], "--reason", "leaked", **at)
    assert (code, output.startswith(made[0]["jti"])) == (0, True)
    wait_until("the refusal", lambda: status_of(api, made[0]["token"]) == 401, seconds=5)
    refused = api.get(PATH, headers={"Authorization": f"Bearer {made[0]['token']}"})
    assert refused.json()["message"] == "Invalid or expired token."
    assert status_of(api, made[1]["token"]) == 200
    [(action, target, details)] = ledger.rows(
        "SELECT action, target_id, details FROM admin_audit_log"
    )
    assert (action, target) == ("token_revoke", made[0]["jti"])
    assert json.loads(details)["reason"] == "leaked"


def test_an_admin_revokes_by_api_and_nobody_elses_token_is_touched(
    ledger: Ledger, api_of: Any
) -> None:
    api, jti = api_of(ledger.url), unique("jti")
    named = api.admin(jti=jti)
    assert api.get(PATH, headers=named).status_code == 200
    path, body = "/admin/billing/tokens/revoke", {"jti": jti, "reason": "left us"}
    assert api.post(path, body, headers=api.admin(scopes=["billing:read"])).status_code == 403
    assert api.post(path, {"jti": jti}, headers=api.admin()).status_code == 400
    assert api.post(path, body, headers=api.admin()).json()["jti"] == jti
    wait_until("the refusal", lambda: api.get(PATH, headers=named).status_code == 401, seconds=5)
    without_jti = api.admin(sub=unique("admin"))
    assert api.get(PATH, headers=without_jti).status_code == 200
    services = api.s2s(jti=jti)
    assert api.get("/api/internal/accounts/sys-commons/balance", headers=services).ok


def test_a_row_is_kept_until_the_token_is_over_and_then_swept_in_batches(ledger: Ledger) -> None:
    now = ledger.clock()
    with ledger.database.transaction() as tx:
        first, later, again = (
            tokens.revoke(tx, OPERATOR, "a", reason="x", until=until).unwrap()
            for until in (None, now + timedelta(hours=3), now + timedelta(minutes=1))
        )
        for number in range(600):
            tokens.revoke(tx, OPERATOR, f"b{number}", reason="x", until=now + timedelta(minutes=1))
    assert first["revokedUntil"] < later["revokedUntil"] == again["revokedUntil"]
    assert tokens.sweep(ledger.database) == 0
    ledger.clock.advance(hours=2)
    assert [tokens.sweep(ledger.database) for _ in range(3)] == [500, 100, 0]
    with ledger.database.reading() as tx:
        assert tokens.revoked(tx) == {"a"}
    ledger.clock.advance(hours=2)
    with ledger.database.reading() as tx:
        assert tokens.revoked(tx) == set()


def test_what_is_no_jti_and_a_time_that_is_over_are_refused(ledger: Ledger) -> None:
    for jti, until in (("", None), ("x" * 256, None), ("a\0", None), ("a", ledger.clock())):
        with ledger.database.transaction() as tx:
            refused = tokens.revoke(tx, OPERATOR, jti, reason="x", until=until)
        assert isinstance(refused.error, Invalid)
    assert ledger.rows("SELECT jti FROM revoked_tokens") == []
    assert ledger.rows("SELECT action, target_id FROM admin_audit_log ORDER BY id") == [
        *[("token_revoke_refused", "invalid")] * 3,
        ("token_revoke_refused", "a"),
    ]


def test_a_token_without_jti_cannot_be_revoked_and_that_is_said(ledger: Ledger) -> None:
    bare = jwt.encode({"sub": "ann"}, SECRETS["BILLING_ADMIN_JWT_SECRET"], algorithm="HS256")
    at = {"DATABASE_URL": ledger.url}
    code, _, complaint = arrakis("token", "revoke", bare, "--reason", "x", **at)
    assert (code, "BILLING_ADMIN_JWT_SECRET" in complaint) == (2, True)
    assert arrakis("token", "revoke", "a", "--reason", " ", **at)[0] == 2
    past = ("token", "revoke", "a", "--reason", "x", "--until", "2020-01-01")
    assert arrakis(*past, **at)[0] == 2


def test_while_the_database_is_away_nobody_is_let_in(redis_url: str, tmp_path: Path) -> None:
    with running_postgres(tmp_path / "postgres") as server:
        database = Database(server.url)
        schema.upgrade(database)
        database.dispose()
        with running_api(server.url, redis_url, tmp_path / "api.log") as api:
            named = api.admin(jti=unique("jti"))
            assert api.get(PATH, headers=named).status_code == 200
            server.stop()
            assert api.get(PATH, headers=named).status_code == 503
            api.database.dispose()
            server.start()
            wait_until("it is back", lambda: api.get(PATH, headers=named).ok, seconds=20)
