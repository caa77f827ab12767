"""Tokens: every fault is one and the same 401, and a good token opens its own door only."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.front_door import insert_payment, send, snapshot
from tests.harness import SECRETS, Api, Databases, running_api, unique, wait_until

Claims = dict[str, Any]
KINDS = ("s2s", "admin", "member")
DOORS = {
    "s2s": "/api/internal/accounts/sys-commons/balance",
    "admin": "/admin/billing/accounts/sys-commons",
    "member": "/api/billing/balance",
}
SECRET_NAMES = {
    "s2s": "BILLING_INTERNAL_JWT_SECRET",
    "admin": "BILLING_ADMIN_JWT_SECRET",
    "member": "BILLING_MEMBER_JWT_SECRET",
}
LIVES = {"s2s": 300, "admin": 3600, "member": 3600}
PREVIOUS = {f"{name}_PREV": f"previous-{name}-" + "p" * 32 for name in SECRET_NAMES.values()}


@pytest.fixture
def client(api: Api) -> Api:
    """The API with a caller of this test's own, so that tests share no rate limit."""
    return replace(api, subject=unique("caller"))


def standard(kind: str) -> Claims:
    """Return the claims of a good token, a minute old at most."""
    now = int(time.time())
    return {"iat": now, "exp": now + 60} | {
        "s2s": {"iss": "loa-finn", "aud": "arrakis-internal", "sub": unique("tenant")},
        "admin": {
            "iss": "arrakis-admin",
            "aud": "arrakis-billing-admin",
            "sub": unique("admin"),
            "scopes": ["billing:read"],
        },
        "member": {"iss": "arrakis", "aud": "arrakis-billing", "sub": "sys-commons"},
    }[kind]


def packed(part: object) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def sign(claims: object, secret: str, header: object = None, digest: str = "sha256") -> str:
    """Make a token by hand, so that it can be as wrong as an attacker likes."""
    signed = f"{packed(header or {'alg': 'HS256', 'typ': 'JWT'})}.{packed(claims)}"
    mark = hmac.new(secret.encode(), signed.encode(), getattr(hashlib, digest)).digest()
    return f"{signed}.{packed(mark)}"


def knock(client: Api, kind: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
    """Open the door of *kind* and return the status and body, with the request's id taken out."""
    headers = {} if authorization is None else {"Authorization": authorization}
    status, _, told = send(client, "GET", DOORS[kind], headers=headers)
    body: dict[str, Any] = json.loads(told)
    assert (body.pop("requestId", None) is not None) is (status != 200)
    return status, body


def assert_refused(client: Api, kind: str, authorization: str | None) -> None:
    assert knock(client, kind, authorization) == (
        401,
        {
            "error": "Unauthorized",
            "code": "unauthorized",
            "message": "Invalid or expired token.",
        },
    )


def assert_accepted(client: Api, kind: str, claims: Claims, secret: str | None = None) -> None:
    token = sign(claims, secret or SECRETS[SECRET_NAMES[kind]])
    status, body = knock(client, kind, f"Bearer {token}")
    assert (status, body["accountId"]) == (200, "sys-commons"), body


def without(*names: str) -> Callable[[Claims, int], Claims]:
    return lambda claims, _life: {k: v for k, v in claims.items() if k not in names}


def changed(**values: Any) -> Callable[[Claims, int], Claims]:
    return lambda claims, _life: {**claims, **values}


def timed(*, iat: int, exp: int) -> Callable[[Claims, int], Claims]:
    """Set times in seconds from now."""
    return lambda claims, _life: {
        **claims,
        "iat": int(time.time()) + iat,
        "exp": int(time.time()) + exp,
    }


FAULTS: dict[str, Callable[[Claims, int], Claims]] = {
    "another issuer": changed(iss="loa-fine"),
    "no issuer": without("iss"),
    "a list of issuers": changed(iss=["loa-finn", "arrakis-admin", "arrakis"]),
    "another audience": changed(aud="somebody-else"),
    "no audience": without("aud"),
    "a list without our audience": changed(aud=["a", "b"]),
    "a number as audience": changed(aud=5),
    "no exp": without("exp"),
    "no iat": without("iat"),
    "exp as text": lambda claims, _life: {**claims, "exp": str(claims["exp"])},
    "exp as a fraction": lambda claims, _life: {**claims, "exp": claims["exp"] + 0.5},
    "exp as true": changed(exp=True),
    "exp as null": changed(exp=None),
    "iat as text": lambda claims, _life: {**claims, "iat": str(claims["iat"])},
    "iat as a list": changed(iat=[1]),
    "exp 32 s ago": timed(iat=-100, exp=-32),
    "iat 35 s ahead": timed(iat=35, exp=60),
    "a second too long a life": lambda claims, life: {**claims, "exp": claims["iat"] + life + 1},
    "exp equal to iat": timed(iat=10, exp=10),
    "exp before iat": timed(iat=20, exp=10),
    "exp without end": changed(exp=float("inf")),
    "nbf ahead": lambda claims, _life: {**claims, "nbf": claims["iat"] + 50},
    "nbf without end": changed(nbf=float("inf")),
    "a number as subject": changed(sub=5),
    "a list as subject": changed(sub=["a"]),
    "a NUL in the subject": changed(sub="a\0b"),
    "a blank subject": changed(sub=" "),
    "a space before the subject, as if it were another person": changed(sub=" ann"),
    "a lone surrogate in the subject": changed(sub="\ud800"),
    "a subject of 256 characters": changed(sub="x" * 256),
    "padding to 5000 characters": changed(padding="x" * 5000),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_faulty_claim_is_refused_without_detail(client: Api, kind: str, fault: str) -> None:
    """Behaviours 122, 125, 127 and 135."""
    claims = FAULTS[fault](standard(kind), LIVES[kind])
    assert_refused(client, kind, f"Bearer {sign(claims, SECRETS[SECRET_NAMES[kind]])}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_header_is_refused_without_detail(client: Api, kind: str) -> None:
    """Behaviour 125."""
    good = sign(standard(kind), SECRETS[SECRET_NAMES[kind]])
    assert knock(client, kind, f"Bearer {good}")[0] == 200
    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer ",
        good,
        f"Basic {good}",
        f"Token {good}",
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer ..",
        f"Bearer {good}.x",
        f"Bearer {good[:-4]}",
        f"Bearer {good.rpartition('.')[0]}.",
        f"Bearer {good.rpartition('.')[0]}",
        f"Bearer {good}, Bearer {good}",
        "Bearer \xff\xfe",
        f"Bearer {'x' * 5000}",
    ):
        assert_refused(client, kind, authorization)


HEADERS: dict[str, tuple[object, str]] = {
    "HS384": ({"alg": "HS384"}, "sha384"),
    "HS512": ({"alg": "HS512"}, "sha512"),
    "HS512 signed with SHA-256": ({"alg": "HS512"}, "sha256"),
    "ES256 signed with the secret": ({"alg": "ES256"}, "sha256"),
    "lower case": ({"alg": "hs256"}, "sha256"),
    "no algorithm": ({"typ": "JWT"}, "sha256"),
    "an algorithm that is null": ({"alg": None}, "sha256"),
    "an extension that must be understood": ({"alg": "HS256", "crit": ["x"], "x": 1}, "sha256"),
    "a payload of its own": ({"alg": "HS256", "b64": False, "crit": ["b64"]}, "sha256"),
    "a header that is a list": (["HS256"], "sha256"),
    "a header that is no JSON": (b"HS256", "sha256"),
    "a header that is no UTF-8": (b"\xff\xfe", "sha256"),
    "a deeply nested header": (b"[" * 2_900, "sha256"),
    "a header of deep objects": (b'{"a":' * 580, "sha256"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_an_odd_jose_header_is_refused_without_detail(client: Api, header: str) -> None:
    offered, digest = HEADERS[header]
    for kind in KINDS:
        token = sign(standard(kind), SECRETS[SECRET_NAMES[kind]], offered, digest)
        assert_refused(client, kind, f"Bearer {token}")


def test_an_unsigned_token_is_refused(client: Api) -> None:
    for kind in KINDS:
        for algorithm in ("none", "None", "NONE"):
            unsigned = f"{packed({'alg': algorithm})}.{packed(standard(kind))}."
            assert_refused(client, kind, f"Bearer {unsigned}")


@pytest.mark.parametrize("payload", [b"nonsense", b"[]", b"5", b"null", b"[" * 2_500, b"\xff"])
def test_a_payload_that_is_no_object_is_refused(client: Api, payload: bytes) -> None:
    for kind in KINDS:
        assert_refused(client, kind, f"Bearer {sign(payload, SECRETS[SECRET_NAMES[kind]])}")


def test_a_token_is_refused_at_every_other_door(client: Api) -> None:
    """Behaviour 125."""
    for kind in KINDS:
        token = sign(standard(kind), SECRETS[SECRET_NAMES[kind]])
        for other in set(KINDS) - {kind}:
            assert_refused(client, other, f"Bearer {token}")
            signed_by_other = sign(standard(kind), SECRETS[SECRET_NAMES[other]])
            assert_refused(client, kind, f"Bearer {signed_by_other}")


def early_in_a_second() -> None:
    """Wait for the first half of a second: tests 1 s from a limit must not cross it on the way."""
    wait_until("the first half of a second", lambda: time.time() % 1 < 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_thirty_seconds_of_leeway_are_given(client: Api, kind: str) -> None:
    """Behaviours 122 and 127."""
    early_in_a_second()
    assert_accepted(client, kind, timed(iat=-100, exp=-29)(standard(kind), 0))
    assert_accepted(client, kind, timed(iat=29, exp=60)(standard(kind), 0))
    whole_life = timed(iat=0, exp=LIVES[kind])(standard(kind), 0)
    assert_accepted(client, kind, whole_life)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_needs_no_jti_and_may_be_used_again(client: Api, kind: str) -> None:
    claims = standard(kind)
    for _ in range(3):
        assert_accepted(client, kind, claims)
    with_jti = {**claims, "jti": unique("jti"), "extra": {"a": [1]}}
    for _ in range(2):
        assert_accepted(client, kind, with_jti)


@pytest.mark.parametrize("kind", KINDS)
def test_our_audience_may_be_one_of_several(client: Api, kind: str) -> None:
    claims = standard(kind)
    assert_accepted(client, kind, {**claims, "aud": ["somebody", claims["aud"]]})


def test_loa_finn_may_call_us_arrakis_and_need_not_name_a_tenant(client: Api) -> None:
    assert_accepted(client, "s2s", {**standard("s2s"), "aud": "arrakis"})
    assert_accepted(client, "s2s", without("sub")(standard("s2s"), 0))
    assert_accepted(client, "s2s", {**standard("s2s"), "sub": ""})


@pytest.mark.parametrize("kind", ["admin", "member"])
def test_an_admin_or_a_member_must_be_named(client: Api, kind: str) -> None:
    secret = SECRETS[SECRET_NAMES[kind]]
    assert_refused(client, kind, f"Bearer {sign(without('sub')(standard(kind), 0), secret)}")
    assert_refused(client, kind, f"Bearer {sign({**standard(kind), 'sub': ''}, secret)}")


def test_a_previous_secret_is_accepted_beside_the_current_one(
    databases: Databases, redis_url: str, tmp_path: Path
) -> None:
    """Behaviour 135."""
    url = databases.make("sqlite")
    with running_api(url, redis_url, tmp_path / "api.log", **PREVIOUS) as rotated:
        for kind, name in SECRET_NAMES.items():
            assert_accepted(rotated, kind, standard(kind))
            assert_accepted(rotated, kind, standard(kind), PREVIOUS[f"{name}_PREV"])
            forged = sign(standard(kind), "neither-the-one-nor-the-other-" + "x" * 32)
            assert_refused(rotated, kind, f"Bearer {forged}")
            wrong = {**standard(kind), "aud": "somebody-else"}
            assert_refused(rotated, kind, f"Bearer {sign(wrong, PREVIOUS[f'{name}_PREV'])}")


def test_a_previous_secret_is_refused_where_none_is_set(client: Api) -> None:
    for kind, name in SECRET_NAMES.items():
        forged = sign(standard(kind), PREVIOUS[f"{name}_PREV"])
        assert_refused(client, kind, f"Bearer {forged}")


@pytest.mark.parametrize(
    "scopes", [[], ["billing:read"], ["billing:approve"], "billing:read", 5, {}]
)
def test_an_admin_without_the_scope_is_forbidden_to_write(client: Api, scopes: object) -> None:
    account = client.funded_account()
    before = snapshot(client, account)
    refused = client.post(
        f"/admin/billing/accounts/{account}/mint",
        {"amountMicro": "1"},
        headers=client.admin(scopes=scopes),
    )
    assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
    assert snapshot(client, account) == before


def test_an_admin_without_the_scope_is_forbidden_to_read(client: Api) -> None:
    for scopes in ([], ["billing:write"], ["Billing:Read"], [None]):
        refused = client.get(DOORS["admin"], headers=client.admin(scopes=scopes))
        assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")


def test_the_scope_to_read_is_enough_for_a_head_request(client: Api) -> None:
    address, headers = client.url + DOORS["admin"], client.admin(scopes=["billing:read"])
    assert requests.head(address, headers=headers, timeout=30).status_code == 200


def test_scopes_may_come_as_one_text(client: Api) -> None:
    headers = client.admin(scopes=None, scope="billing:write billing:read")
    assert client.get(DOORS["admin"], headers=headers).status_code == 200


def test_a_member_sees_their_own_account_only(client: Api) -> None:
    account, other = client.funded_account(5_000), client.funded_account(7_000)
    mine = client.member(account)
    assert client.get("/api/billing/balance", headers=mine).json()["availableMicro"] == "5000"
    told = client.get("/api/billing/history", headers=mine).json()
    assert (told["accountId"], len(told["entries"])) == (account, 1)
    asked = client.get("/api/billing/balance", headers=mine, params={"accountId": other})
    assert asked.json()["accountId"] == account
    nobody = client.get("/api/billing/balance", headers=client.member(unique("nobody")))
    assert (nobody.status_code, nobody.json()["code"]) == (404, "account_not_found")


def test_a_member_sees_their_own_payments_only(client: Api) -> None:
    account, other = client.funded_account(0), client.funded_account(0)
    payment = insert_payment(client, account)
    shown = client.get(f"/api/billing/payments/{payment}", headers=client.member(account))
    assert (shown.status_code, shown.json()["accountId"]) == (200, account)
    hidden = client.get(f"/api/billing/payments/{payment}", headers=client.member(other))
    missing = client.get(f"/api/billing/payments/{unique('cp')}", headers=client.member(other))
    assert hidden.status_code == missing.status_code == 404
    assert {**hidden.json(), "requestId": ""} == {**missing.json(), "requestId": ""}


def test_a_token_that_was_accepted_is_refused_once_its_time_is_over(client: Api) -> None:
    """The signature of a token is remembered, its times are not."""
    ends = {"iat": int(time.time()) - 60, "exp": int(time.time()) - 27}  # thirty seconds of leeway
    token = f"Bearer {sign(standard('s2s') | ends, SECRETS[SECRET_NAMES['s2s']])}"
    assert knock(client, "s2s", token)[0] == 200
    wait_until("the end of the token", lambda: knock(client, "s2s", token)[0] == 401)
    assert_refused(client, "s2s", token)
