"""Malformed requests: each gets its exact refusal as JSON, and none changes anything."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.front_door import balance, hold, ledger, send, snapshot
from tests.harness import Api, unique

MIB = 1024 * 1024
BAD_AMOUNTS: list[Any] = [
    "-1", "1.5", "007", "+1", " 1", "1 ", "1e3", "1_000", "0x10", "", "NaN", "9" * 17, "1" * 51,
    "\u0661", "\uff11", "1\u00b2", "1\u0000", "1\n", "\u00a01", 5, 5.0, -1, True, None, [], {},
]  # fmt: skip
BAD_IDS: list[Any] = ["", "x" * 129, "a\u0000b", 5, 1.5, True, None, [], {"id": "x"}]
BAD_RESERVES: list[tuple[str, Any]] = [
    *(("estimatedCostMicro", amount) for amount in [*BAD_AMOUNTS, "0"]),
    *(("accountId", value) for value in BAD_IDS if value is not None),
    *(("poolId", v) for v in ["", "General", "unknown", "campaign:", "general\n", "sys:x", 5, []]),
    *(("ttlSeconds", value) for value in [0, -1, 86_401, "5", True, 1.5, 10**30, []]),
    *(("requestId", value) for value in ["", "x" * 256, "a\u0000b", 5, []]),
    *(("description", value) for value in ["x" * 501, "a\u0000b", 5, []]),
    *(("metadata", value) for value in [[], "text", 5, True, {"a": "x" * 4089}]),
    *(("metadata", value) for value in [{"a": "\u20ac" * 1400}, {"\u20ac" * 1400: 1}]),
    ("entityType", "alien"),
    ("entityId", ""),
    ("entityId", "x" * 256),
]  # fmt: skip
BAD_FINALIZES: list[tuple[str, Any]] = [
    *(("actualCostMicro", amount) for amount in BAD_AMOUNTS),
    *(("reservationId", value) for value in BAD_IDS),
    *(("accountId", value) for value in BAD_IDS if value is not None),
]
BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \n",
    "cut off": b'{"accountId": "a',
    "no JSON": b"accountId=a&estimatedCostMicro=1",
    "array": b"[]",
    "null": b"null",
    "true": b"true",
    "number": b"5",
    "text": b'"text"',
    "NaN": b"NaN",
    "NaN in a field": b'{"metadata":{"a":NaN}}',
    "Infinity in an ignored field": b'{"traceId":-Infinity}',
    "a key given twice": b'{"accountId":"a","accountId":"b"}',
    "two values": b'{"a":1}{"b":2}',
    "trailing comma": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "byte order mark": b'\xef\xbb\xbf{"a":1}',
    "NUL": b"\x00",
    "not UTF-8": b"\xff\xfe\x00",
    "not UTF-8 within": b'{"accountId":"\xff"}',
    "lone surrogate": b'{"accountId":"\\ud800","x":"\\udfff"}',
    "lone surrogate in an ignored field": b'{"traceId":"\\ud800"}',
    "deep array": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "deep in an ignored field": b'{"traceId":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "long digits": b'{"traceId":' + b"9" * 100_000 + b"",
}


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


@pytest.fixture(scope="module")
def account(api: Api) -> str:
    """An account with 10 M, of which 1 M is held."""
    return api.funded_account(10_000_000)


@pytest.fixture(scope="module")
def reservation(api: Api, account: str) -> str:
    """The hold on that account."""
    return hold(replace(api, subject=unique("caller")), account, 1_000_000, ttlSeconds=86_400)


@pytest.fixture
def untouched(client: Api, account: str, reservation: str) -> Iterator[None]:
    """Check that the test has changed no row of the account."""
    before = snapshot(client, account)
    yield
    assert snapshot(client, account) == before


def named(case: tuple[str, Any]) -> str:
    return f"{case[0]}={json.dumps(case[1])[:24]}"


def refusal(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Check the form that every refusal has, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert body["requestId"] == answer.headers["X-Request-Id"]
    assert body["error"]
    assert body["message"]
    return body


def assert_names_field(answer: requests.Response, field: str) -> None:
    body = refusal(answer, 400, "validation_error")
    assert body["error"] == "Validation Error"
    assert {fault["field"] for fault in body["details"]} == {field}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", BAD_RESERVES, ids=named)
def test_a_reserve_with_a_bad_field_is_refused_with_its_name(
    client: Api, account: str, case: tuple[str, Any]
) -> None:
    field, value = case
    body: dict[str, Any] = {"accountId": account, "estimatedCostMicro": "1", field: value}
    if field.startswith("entity"):
        body = {"entityType": "agent", "entityId": "x", "estimatedCostMicro": "1", field: value}
    sent = client.post("/api/internal/reserve", data=json.dumps(body))
    assert_names_field(sent, field)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", BAD_FINALIZES, ids=named)
def test_a_finalize_with_a_bad_field_is_refused_with_its_name(
    client: Api, reservation: str, case: tuple[str, Any]
) -> None:
    """Behaviours 120, 128 and 129."""
    field, value = case
    body = {"reservationId": reservation, "actualCostMicro": "1", field: value}
    assert_names_field(client.internal("finalize", body), field)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("operation", "body", "field"),
    [
        ("reserve", {"accountId": "a"}, "estimatedCostMicro"),
        ("reserve", {"estimatedCostMicro": "1"}, "body"),
        ("reserve", {"estimatedCostMicro": "1", "entityType": "agent"}, "body"),
        ("reserve", {"estimatedCostMicro": "1", "entityId": "a"}, "body"),
        ("finalize", {"actualCostMicro": "1"}, "reservationId"),
        ("finalize", {"reservationId": "a"}, "actualCostMicro"),
        ("release", {}, "reservationId"),
        ("release", {"reservationId": 5}, "reservationId"),
        ("payments", {"accountId": "a", "amountUsd": "25.00"}, "payCurrency"),
        ("payments", {"accountId": "a", "amountUsd": 25, "payCurrency": "btc"}, "amountUsd"),
        ("payments", {"accountId": "a", "amountUsd": "0.00", "payCurrency": "btc"}, "amountUsd"),
        ("payments", {"accountId": "a", "amountUsd": "-5", "payCurrency": "btc"}, "amountUsd"),
        (
            "payments",
            {"accountId": "a", "amountUsd": "10000.01", "payCurrency": "btc"},
            "amountUsd",
        ),
        ("payments", {"accountId": "a", "amountUsd": "5", "payCurrency": "b/c"}, "payCurrency"),
    ],
)
def test_a_missing_or_impossible_field_is_named(
    client: Api, operation: str, body: dict[str, Any], field: str
) -> None:
    assert_names_field(client.internal(operation, body), field)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize(
    "route", ["reserve", "finalize", "release", "payments", "mint", "accounts"]
)
def test_a_body_that_is_no_json_object_is_refused(
    client: Api, account: str, route: str, name: str
) -> None:
    if route in ("mint", "accounts"):
        path = f"/admin/billing/accounts{f'/{account}/mint' if route == 'mint' else ''}"
        answer = client.post(path, data=BAD_BODIES[name], headers=client.admin())
    else:
        answer = client.post(f"/api/internal/{route}", data=BAD_BODIES[name])
    assert_names_field(answer, "body")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "chunked"])
@pytest.mark.parametrize("size", [MIB + 1, 2 * MIB])
def test_a_body_above_a_mebibyte_is_too_large(client: Api, size: int, *, is_chunked: bool) -> None:
    body = b'{"traceId":"' + b"x" * (size - 14) + b'"}'
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    status, headers, told = send(
        client,
        "POST",
        "/api/internal/reserve",
        pieces if is_chunked else body,
        {**client.s2s(), **({"Transfer-Encoding": "chunked"} if is_chunked else {})},
    )
    assert (status, headers["content-type"]) == (413, "application/json")
    assert json.loads(told)["code"] == "body_too_large"
    assert json.loads(told)["requestId"]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "chunked"])
def test_a_body_of_just_a_mebibyte_is_read(client: Api, account: str, *, is_chunked: bool) -> None:
    start = f'{{"accountId":"{account}","estimatedCostMicro":"100000000000","traceId":"'.encode()
    body = start + b"x" * (MIB - len(start) - 2) + b'"}'
    status, _, told = send(
        client,
        "POST",
        "/api/internal/reserve",
        iter([body[:1000], body[1000:]]) if is_chunked else body,
        {**client.s2s(), **({"Transfer-Encoding": "chunked"} if is_chunked else {})},
    )
    assert (status, json.loads(told)["code"]) == (402, "insufficient_credits")


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("head", "is_whole"),
    [("Content-Length: 500", True), ("Transfer-Encoding: chunked", False)],
    ids=["shorter than its length", "chunks without an end"],
)
def test_a_body_that_is_cut_off_is_refused_or_closed(
    client: Api, account: str, head: str, *, is_whole: bool
) -> None:
    body = json.dumps({"accountId": account, "estimatedCostMicro": "1"})
    piece = body if is_whole else f"{len(body):x}\r\n{body[:-1]}"
    authorization = client.s2s()["Authorization"]
    address = urlsplit(client.url)
    with socket.create_connection((address.hostname or "", address.port or 0), 10) as raw:
        raw.sendall(
            f"POST /api/internal/reserve HTTP/1.1\r\nHost: {address.netloc}\r\n{head}\r\n"
            f"Authorization: {authorization}\r\n\r\n{piece}".encode()
        )
        raw.shutdown(socket.SHUT_WR)
        told = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert told == b"" or told.split()[1] == b"400", told
    assert client.get("/api/internal/health").status_code == 200


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "key",
    [b"", b" ", b"x" * 256, b"x" * 300, b"k\xe9y", "k\u00e9y".encode(), b"\xff", b"a\tb"],
    ids=repr,
)
@pytest.mark.parametrize("operation", ["reserve", "finalize"])
def test_a_bad_idempotency_key_is_refused(
    client: Api, account: str, reservation: str, operation: str, key: bytes
) -> None:
    body = {
        "accountId": account,
        "estimatedCostMicro": "1",
        "reservationId": reservation,
        "actualCostMicro": "1",
    }
    headers: Any = {**client.s2s(), "Idempotency-Key": key}
    path = f"/api/internal/{operation}"
    status, _, told = send(client, "POST", path, json.dumps(body).encode(), headers)
    assert (status, json.loads(told)["code"]) == (400, "invalid_idempotency_key")


def test_a_payment_above_ten_thousand_dollars_is_told_the_most(client: Api) -> None:
    body = {"accountId": "sys-commons", "amountUsd": "10001", "payCurrency": "btc"}
    told = refusal(client.internal("payments", body), 400, "validation_error")
    assert told["details"] == [{"field": "amountUsd", "message": "Maximum top-up is $10,000"}]


def test_a_key_of_255_characters_is_good(client: Api) -> None:
    account, key = client.funded_account(), unique("key").ljust(255, "x")
    body = {"accountId": account, "estimatedCostMicro": "1"}
    first = client.internal("reserve", body, key)
    assert client.internal("reserve", body, key).content == first.content


def test_metadata_of_four_kilobytes_is_kept_with_the_entry(client: Api) -> None:
    account = client.funded_account()
    body = {"accountId": account, "estimatedCostMicro": "1", "metadata": {"a": "x" * 4088}}
    assert client.internal("reserve", body).status_code == 200
    assert balance(client, account) == (9_999_999, 1, 0)
    assert len(ledger(client, account)) == 2
