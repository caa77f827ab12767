"""Odd paths, queries and methods: a plain refusal as JSON, never a fault of ours."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.front_door import rows, send
from tests.harness import Api, unique

ODD_IDS = [
    "%00",
    "a%00b",
    "%0A",
    "%20",
    "x" * 5_000,
    "%F0%9F%92%B0",
    "%ff%fe",
    "%ed%a0%80",
    "'%20OR%20'1'='1",
    "1;DROP%20TABLE%20credit_lots",
    "%25",
    "null",
    "-1",
]
S2S_PATHS = [
    "/api/internal/accounts/{}/balance",
    "/api/internal/accounts/{}/history",
    "/api/internal/reservations/{}",
    "/api/internal/payments/{}",
]
ADMIN_PATHS = [
    "/admin/billing/accounts/{}",
    "/admin/billing/accounts/{}/balance",
    "/admin/billing/accounts/{}/history",
]


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def assert_refusal(
    answer: tuple[int, dict[str, str], bytes], status: int, *codes: str
) -> dict[str, Any]:
    assert answer[0] == status, answer
    assert answer[1]["content-type"] == "application/json"
    body: dict[str, Any] = json.loads(answer[2])
    assert body["code"] in codes
    assert body["requestId"] == answer[1]["x-request-id"]
    return body


@pytest.mark.parametrize("odd", ODD_IDS, ids=lambda odd: odd[:24])
def test_an_odd_id_in_a_path_is_not_found(client: Api, odd: str) -> None:
    found_nothing = ("not_found", "account_not_found", "reservation_not_found", "payment_not_found")
    for path in S2S_PATHS:
        answer = send(client, "GET", path.format(odd), headers=client.s2s())
        assert_refusal(answer, 404, *found_nothing)
    for path in ADMIN_PATHS:
        answer = send(client, "GET", path.format(odd), headers=client.admin())
        assert_refusal(answer, 404, *found_nothing)


@pytest.mark.parametrize("odd", ODD_IDS, ids=lambda odd: odd[:24])
def test_a_mint_for_an_odd_id_is_not_found_and_makes_nothing(client: Api, odd: str) -> None:
    before = rows(client, "SELECT COUNT(*) FROM credit_lots")
    path = f"/admin/billing/accounts/{odd}/mint"
    answer = send(client, "POST", path, b'{"amountMicro":"5000000"}', client.admin())
    assert_refusal(answer, 404, "not_found", "account_not_found")
    assert rows(client, "SELECT COUNT(*) FROM credit_lots") == before


def test_a_long_random_id_is_not_found_either(client: Api) -> None:
    """PostgreSQL cannot index a long text that does not compress."""
    odd = "".join(unique("") for _ in range(400))
    path = f"/admin/billing/accounts/{odd}/mint"
    answer = send(client, "POST", path, b'{"amountMicro":"5000000"}', client.admin())
    assert_refusal(answer, 404, "not_found")


@pytest.mark.parametrize(
    "query",
    [
        "limit=101",
        "limit=0",
        "limit=-1",
        "limit=ten",
        "limit=",
        "limit=%00",
        "limit=1e1",
        f"limit={'9' * 5000}",
        "offset=-1",
        "offset=1000001",
        "offset=x",
        "entryType=unknown",
        "entryType=",
        "entryType=deposit%00",
        "poolId=unknown",
        "poolId=",
        "poolId=general%00",
        "poolId=campaign:%F0%9F%92%B0",
        f"cursor={'x' * 201}",
    ],
    ids=lambda query: query[:24],
)
def test_a_bad_query_is_refused_with_the_name_of_its_field(client: Api, query: str) -> None:
    """Behaviour 133."""
    account = client.funded_account(0)
    for base, headers in (
        ("/api/internal/accounts", client.s2s()),
        ("/admin/billing/accounts", client.admin()),
    ):
        answer = send(client, "GET", f"{base}/{account}/history?{query}", headers=headers)
        body = assert_refusal(answer, 400, "validation_error")
        assert [fault["field"] for fault in body["details"]] == [query.partition("=")[0]]


def cursor(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().replace("=", "%3D")


@pytest.mark.parametrize(
    "offered",
    [
        "nonsense",
        "%00",
        "%ff",
        "",
        "====",
        cursor(b"nonsense"),
        cursor(b"2026-01-01 00:00:00"),
        cursor(b"2026-01-01T00:00:00Z|x"),
        cursor(b"2026-13-01 00:00:00|x"),
        cursor(b"2026-01-01 00:00:00|a\x00b"),
        cursor(b"2026-01-01 00:00:00|\xed\xa0\x80"),
        cursor(b"\xff|x"),
        cursor(b"|"),
    ],
)
def test_a_cursor_that_is_not_ours_is_refused(client: Api, offered: str) -> None:
    account = client.funded_account(0)
    path = f"/api/internal/accounts/{account}/history?cursor={offered}"
    answer = send(client, "GET", path, headers=client.s2s())
    assert_refusal(answer, 400, "invalid_cursor")


@pytest.mark.parametrize("query", ["limit=101", "limit=0", "cursor=%00", "cursor=", "limit=x"])
def test_a_bad_page_of_accounts_is_refused(client: Api, query: str) -> None:
    answer = send(client, "GET", f"/admin/billing/accounts?{query}", headers=client.admin())
    body = assert_refusal(answer, 400, "validation_error")
    assert [fault["field"] for fault in body["details"]] == [query.partition("=")[0]]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope",
        "/api/internal",
        "/api/internal/nope",
        "/api/internal/reserve/",
        "/api/internal/reservations/",
        "/api/internal/accounts/a/b/c",
        "/admin/billing/nope",
        "/api/billing/nope",
        "/api/internal/accounts/..%2Fsys-commons/balance",
        "/%00",
        "/%ff",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_route_is_not_found(client: Api, method: str, path: str) -> None:
    answer = send(client, method, path, headers=client.s2s())
    assert_refusal(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/internal/reserve", "POST"),
        ("PUT", "/api/internal/finalize", "POST"),
        ("DELETE", "/api/internal/reservations/x", "GET"),
        ("PATCH", "/admin/billing/accounts", "POST"),
        ("GET", "/admin/billing/accounts/x/mint", "POST"),
        ("POST", "/api/internal/health", "GET"),
        ("POST", "/api/billing/balance", "GET"),
        ("BREW", "/api/internal/reserve", "POST"),
    ],
)
def test_a_wrong_method_is_told_which_are_right(
    client: Api, method: str, path: str, allowed: str
) -> None:
    answer = send(client, method, path, headers=client.s2s())
    assert_refusal(answer, 405, "method_not_allowed")
    assert allowed in answer[1]["allow"]


def test_a_request_id_is_given_back_when_it_is_harmless(client: Api) -> None:
    for offered, is_kept in (("trace-1.2:3_4", True), ("x" * 65, False), ("a b", False)):
        answer = client.get("/api/internal/health", headers={"X-Request-Id": offered})
        assert (answer.headers["X-Request-Id"] == offered) is is_kept


def test_the_api_is_alive_after_all_that(client: Api) -> None:
    assert client.get("/api/internal/health", headers={}).json()["status"] == "ok"
