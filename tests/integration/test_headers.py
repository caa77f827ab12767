"""Every answer of both services carries the headers that protect it, whatever its status."""

from collections.abc import Mapping
from pathlib import Path

from tests.harness import Api, Databases
from tests.receiver import notice, own_payment_id, running_receiver

PROTECTED = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def protection(headers: Mapping[str, str]) -> dict[str, str | None]:
    return {name: headers.get(name) for name in PROTECTED}


def test_what_the_api_says_of_money_is_kept_by_no_cache_and_run_by_no_browser(api: Api) -> None:
    account = api.funded_account()
    answers = [
        api.get(f"/api/internal/accounts/{account}/balance"),
        api.get("/api/billing/balance", headers=api.member(account)),
        api.get("/api/billing/balance", headers={}),
        api.internal("reserve", {"accountId": account, "estimatedCostMicro": "x"}),
        api.get("/no/such/route"),
        api.get("/api/internal/health"),
        api.get("/metrics"),
    ]
    assert [one.status_code for one in answers] == [200, 200, 401, 400, 404, 200, 200]
    assert [protection(one.headers) for one in answers] == [PROTECTED] * len(answers)


def test_the_documentation_may_be_kept_and_shows_its_own_style_only(api: Api) -> None:
    for path in ("/docs", "/api/billing/openapi.json"):
        told = protection(api.get(path, headers={}).headers)
        assert told["Cache-Control"] == "public, max-age=300"
        assert told["X-Content-Type-Options"] == "nosniff"
        policy = told["Content-Security-Policy"] or ""
        assert "default-src 'none'" in policy
        assert "script-src" not in policy, "there is no script"
        assert "frame-ancestors 'none'" in policy


def test_the_receiver_protects_its_answers_too(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    with running_receiver(databases.make("sqlite"), redis_url, tmp_path / "log") as receiver:
        good = receiver.deliver(notice(payment_id=own_payment_id()))
        bad = receiver.deliver(notice(payment_id=own_payment_id()), **{"x-nowpayments-sig": "0"})
    assert (good.status_code, bad.status_code) == (200, 401)
    assert [protection(one.headers) for one in (good, bad)] == [PROTECTED] * 2
