"""Rate limits and the feature switch: counted for all processes together, told in headers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from redis import Redis

from deploy.local.servers import free_port
from services.api.limits import ADMIN, RateLimiter
from tests.front_door import snapshot
from tests.harness import Api, Databases, running_api, unique

LOOK = "/api/internal/accounts/sys-commons/balance"
ADMIN_LOOK = "/admin/billing/accounts/sys-commons"


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture
def second(api: Api, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    """Another process of the same API: same database, same Redis."""
    url = api.database.engine.url.render_as_string(hide_password=False)
    with running_api(url, redis_url, tmp_path / "api.log") as other:
        yield other


def assert_limited(answer: requests.Response, limit: int) -> None:
    assert answer.status_code == 429
    body = answer.json()
    assert (body["error"], body["code"]) == ("Too Many Requests", "rate_limited")
    assert body["requestId"]
    assert answer.headers["RateLimit-Limit"] == str(limit)
    assert answer.headers["RateLimit-Remaining"] == "0"
    assert answer.headers["RateLimit-Reset"] == answer.headers["Retry-After"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_the_201st_request_of_a_service_in_a_minute_is_refused(client: Api) -> None:
    """Behaviours 124 and 132."""
    account = client.funded_account()
    headers = client.s2s()
    with requests.Session() as session:
        for number in range(1, 201):
            answer = session.get(client.url + LOOK, headers=headers)
            assert answer.status_code == 200
            assert answer.headers["RateLimit-Limit"] == "200"
            assert answer.headers["RateLimit-Remaining"] == str(200 - number)
            assert "Retry-After" not in answer.headers
    before = snapshot(client, account)
    wanted = {"accountId": account, "estimatedCostMicro": "1"}
    assert_limited(client.internal("reserve", wanted), 200)
    assert_limited(client.internal("reserve", {"malformed": True}), 200)
    assert snapshot(client, account) == before
    assert client.get(LOOK, headers=client.s2s(sub=unique("tenant"))).status_code == 200
    assert client.get("/api/internal/health", headers=headers).status_code == 200


def test_a_refused_token_is_not_counted_and_a_bad_body_is(client: Api) -> None:
    for _ in range(3):
        assert client.get(LOOK, headers=client.s2s(secret="x" * 40)).status_code == 401
    client.internal("reserve", {})
    assert client.get(LOOK).headers["RateLimit-Remaining"] == "198"


def test_an_admins_31st_request_is_refused_whichever_process_it_reaches(
    client: Api, second: Api
) -> None:
    """Behaviours 124 and 185 (W66): two processes count together."""
    headers = client.admin()
    for number in range(30):
        process = (client, second)[number % 2]
        answer = process.get(ADMIN_LOOK, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["RateLimit-Remaining"] == str(29 - number)
    for process in (client, second):
        assert_limited(process.get(ADMIN_LOOK, headers=headers), 30)
    assert client.get(ADMIN_LOOK, headers=client.admin(sub=unique("admin"))).status_code == 200


def test_requests_that_come_together_are_counted_one_by_one(redis_url: str) -> None:
    """Also by a Redis that was restarted and knows no script any more."""
    limiter, who = RateLimiter(redis_url), unique("admin")
    with Redis.from_url(redis_url) as redis:
        redis.script_flush()
    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(lambda _: limiter.hit(ADMIN, who), range(160)))
    allowed = [one.remaining for one in found if one.is_allowed]
    assert sorted(allowed) == list(range(30))
    assert {one.remaining for one in found if not one.is_allowed} == {0}
    assert limiter.is_shared()


def test_a_member_has_a_limit_of_their_own(client: Api) -> None:
    account = client.funded_account()
    headers = client.member(account)
    for _ in range(60):
        assert client.get("/api/billing/balance", headers=headers).status_code == 200
    assert_limited(client.get("/api/billing/balance", headers=headers), 60)


def test_without_redis_requests_are_answered_and_counted_by_the_process(
    databases: Databases, tmp_path: Path
) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with running_api(databases.make("sqlite"), nowhere, tmp_path / "api.log") as alone:
        for number in range(30):
            answer = alone.get(ADMIN_LOOK, headers=alone.admin())
            assert answer.status_code == 200
            assert answer.headers["RateLimit-Remaining"] == str(29 - number)
        assert_limited(alone.get(ADMIN_LOOK, headers=alone.admin()), 30)
        health = alone.get("/api/internal/health", headers={})
        assert health.status_code == 200
        assert health.json()["dependencies"] == {"database": "ok", "redis": "away", "workers": "ok"}
        metrics = alone.get("/metrics", headers={}).text
        assert "arrakis_rate_limit_fallbacks_total 31.0" in metrics.splitlines()


def test_while_the_feature_is_off_all_is_refused_before_any_token_is_read(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    settings = {"FEATURE_BILLING_ENABLED": "false"}
    url = databases.make("sqlite")
    with running_api(url, redis_url, tmp_path / "api.log", **settings) as off:
        doors = [LOOK, ADMIN_LOOK, "/api/billing/balance", "/api/billing/internal/reservations/x"]
        tokens = [{}, {"Authorization": "Bearer nonsense"}, off.s2s(), off.admin()]
        for door in doors:
            for headers in tokens:
                answer = off.get(door, headers=headers)
                assert answer.status_code == 503
                assert answer.json()["code"] == "billing_not_enabled"
                assert answer.headers["Retry-After"] == "60"
                assert "RateLimit-Limit" not in answer.headers
        refused = off.post("/api/internal/reserve", {"malformed": True}, headers={})
        assert refused.status_code == 503
        health = off.get("/api/internal/health", headers={})
        assert (health.status_code, health.json()["billing_enabled"]) == (200, False)


@pytest.mark.parametrize("value", ["TRUE", "1", "yes"])
def test_only_the_word_true_switches_the_feature_on(
    databases: Databases, redis_url: str, tmp_path: Path, value: str
) -> None:
    settings = {"FEATURE_BILLING_ENABLED": value}
    url = databases.make("sqlite")
    with running_api(url, redis_url, tmp_path / "api.log", **settings) as off:
        assert off.get(LOOK).status_code == 503
