"""Each secret is rotated on running services, as docs/security.md tells: nobody is turned away.

First the new one signs beside the old one, then the old one opens nothing any more.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.notifications import endpoints
from shared.notifications.keys import Keys
from tests.harness import SECRETS, Api, Databases, running_api, unique
from tests.ledger import Ledger
from tests.receiver import notice, own_payment_id, running_receiver, sign
from tests.scripted_provider import answer, scripted
from tests.webhooks_out import KEYS, OPERATOR, Post, is_signed_with

TOKENS = {
    "s2s": "BILLING_INTERNAL_JWT_SECRET",
    "admin": "BILLING_ADMIN_JWT_SECRET",
    "member": "BILLING_MEMBER_JWT_SECRET",
}
IPN = "NOWPAYMENTS_IPN_SECRET"
ROTATED = (*TOKENS.values(), IPN)
NEW = {name: secrets.token_urlsafe(32) for name in ROTATED}
OLD = {name: SECRETS[name] for name in ROTATED}
# The steps of the procedure, as an operator sets them one after the other.
OVERLAP = {**NEW, **{f"{name}_PREV": OLD[name] for name in ROTATED}}
AFTER = {**NEW, **{f"{name}_PREV": "" for name in ROTATED}}


@dataclass
class Place:
    """The database that outlives each restart, and where the services log."""

    url: str
    redis_url: str
    logs: Path


@pytest.fixture
def place(databases: Databases, redis_url: str, tmp_path: Path) -> Iterator[Place]:
    return Place(databases.make("sqlite"), redis_url, tmp_path)


def answers(api: Api, values: dict[str, str]) -> dict[str, int]:
    """Call as each kind of caller, with tokens signed by *values*; return the statuses."""
    mine = replace(api, subject=unique("caller"))
    signed = {kind: {"secret": values[name]} for kind, name in TOKENS.items()}
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "s2s": ("/api/internal/accounts/sys-commons/balance", mine.s2s(**signed["s2s"])),
        "admin": ("/admin/billing/accounts/sys-commons", mine.admin(**signed["admin"])),
        "member": ("/api/billing/balance", mine.member("sys-commons", **signed["member"])),
    }
    return {kind: mine.get(path, headers=sent).status_code for kind, (path, sent) in calls.items()}


def test_the_secrets_of_services_admins_and_members_are_rotated(place: Place) -> None:
    let_in, refused = dict.fromkeys(TOKENS, 200), dict.fromkeys(TOKENS, 401)
    with running_api(place.url, place.redis_url, place.logs / "1.log") as api:
        assert (answers(api, OLD), answers(api, NEW)) == (let_in, refused)
    with running_api(place.url, place.redis_url, place.logs / "2.log", **OVERLAP) as api:
        assert (answers(api, OLD), answers(api, NEW)) == (let_in, let_in)
    with running_api(place.url, place.redis_url, place.logs / "3.log", **AFTER) as api:
        assert (answers(api, OLD), answers(api, NEW)) == (refused, let_in)


def test_the_secret_of_the_providers_notices_is_rotated(place: Place) -> None:
    def delivered(values: dict[str, str], settings: dict[str, str]) -> list[int]:
        log = place.logs / f"{unique('receiver')}.log"
        with running_receiver(place.url, place.redis_url, log, **settings) as receiver:
            bodies = [notice(payment_id=own_payment_id()) for _ in values]
            signed = [sign(body, values[at]) for body, at in zip(bodies, values, strict=True)]
            return [
                receiver.deliver(body, **{"x-nowpayments-sig": signature}).status_code
                for body, signature in zip(bodies, signed, strict=True)
            ]

    both = {"old": OLD[IPN], "new": NEW[IPN]}
    assert delivered(both, OVERLAP) == [200, 200]
    assert delivered(both, AFTER) == [401, 200]


def test_the_secret_of_outgoing_webhooks_is_rotated_without_a_receiver_noticing(
    databases: Databases,
) -> None:
    """Its owner verifies with the old secret until the new one has been taken over."""
    ledger, new = Ledger(databases.make("sqlite")), secrets.token_urlsafe(32)
    overlap, seen = Keys(new, KEYS.current), []
    with scripted(lambda _: answer(204)) as receiver, capture_logs():
        post = Post(ledger, receiver)
        made = post.endpoint()
        known = [made["secret"]]
        for keys in (KEYS, overlap, Keys(new)):
            if keys is overlap:
                with ledger.database.transaction() as tx:
                    renewed = endpoints.rotate_secret(tx, OPERATOR, keys, made["endpointId"])
                known.append(renewed["secret"])
            post.emit(unique("drift"))
            assert post.courier_with(keys).deliver() == 1
            seen.append([is_signed_with(receiver.requests[-1], one) for one in known])
    ledger.database.dispose()
    assert seen == [[True], [True, True], [False, True]]
