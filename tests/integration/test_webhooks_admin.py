"""Outgoing webhooks as admins and operators handle them: by API and by command."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from services.workers.work import Work
from tests.command import arrakis, told
from tests.front_door import rows
from tests.harness import SECRETS, Api, Databases, running_api, unique
from tests.scripted_provider import ScriptedProvider, answer, scripted
from tests.till import work_of
from tests.webhooks_out import verified

BASE = "/admin/billing/webhooks"


@pytest.fixture(scope="module")
def receiver() -> Iterator[ScriptedProvider]:
    with scripted(lambda _: answer(200)) as running:
        yield running


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def api(
    request: pytest.FixtureRequest,
    databases: Databases,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Api]:
    """The API as on a local stack: endpoints may be private."""
    log = tmp_path_factory.mktemp("api") / "api.log"
    url = databases.make(request.param)
    with running_api(url, redis_url, log, ARRAKIS_WEBHOOK_ALLOW_PRIVATE="true") as running:
        yield running


@pytest.fixture
def work(api: Api) -> Work:
    return work_of(api.database)


def post(api: Api, path: str = "", body: Any = None, **claims: Any) -> Any:
    return api.post(BASE + path, body, headers=api.admin(**claims))


def audited(api: Api, target: str) -> list[str]:
    found = rows(
        api,
        "SELECT action FROM admin_audit_log WHERE target_id = :target ORDER BY id",
        target=target,
    )
    return [row[0] for row in found]


def test_an_endpoint_is_added_tested_read_changed_and_removed(
    api: Api, work: Work, receiver: ScriptedProvider
) -> None:
    receiver.requests.clear()
    made = post(api, body={"url": receiver.url + "/hook", "eventTypes": ["alert.fired"]})
    assert made.status_code == 201
    secret, endpoint = made.json()["secret"], made.json()["endpointId"]
    assert secret.startswith("whsec_")
    tested = post(api, f"/{endpoint}/test")
    assert tested.status_code == 202
    while work.courier.deliver():
        pass
    [request] = receiver.requests
    assert verified(request, secret)["type"] == "webhook.test"
    shown = api.admin_get(f"webhooks/{endpoint}").json()
    [delivery] = shown["lastDeliveries"]
    assert (delivery["status"], delivery["eventId"]) == ("delivered", tested.json()["eventId"])
    assert "secret" not in shown
    assert api.admin_get(f"webhooks/{endpoint}/deliveries").json()["deliveries"] == [delivery]
    again = post(api, f"/deliveries/{delivery['deliveryId']}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "waiting")
    changed = api.patch(
        f"{BASE}/{endpoint}",
        {"isActive": False, "eventTypes": ["account.refunded"]},
        headers=api.admin(),
    ).json()
    assert (changed["status"], changed["eventTypes"]) == ("disabled", ["account.refunded"])
    assert post(api, f"/{endpoint}/test").json()["code"] == "webhook_disabled"
    renewed = post(api, f"/{endpoint}/rotate-secret").json()["secret"]
    assert renewed != secret
    removed = requests.delete(f"{api.url}{BASE}/{endpoint}", headers=api.admin(), timeout=10).json()
    assert removed["cancelled"] == 1
    assert api.admin_get(f"webhooks/{endpoint}").json()["code"] == "webhook_not_found"
    assert audited(api, endpoint) == [
        "webhook_create",
        "webhook_test",
        "webhook_delivery_retry",
        "webhook_change",
        "webhook_rotate_secret",
        "webhook_remove",
    ]


def test_what_cannot_be_is_refused_with_a_code(api: Api) -> None:
    before = rows(api, "SELECT COUNT(*) FROM notification_endpoints")
    for body, status, code in (
        ({}, 400, "validation_error"),
        ({"url": "https://a.example", "eventTypes": []}, 400, "validation_error"),
        ({"url": "ftp://127.0.0.1/"}, 400, "webhook_url_refused"),
        ({"url": "http://user@127.0.0.1/"}, 400, "webhook_url_refused"),
        ({"url": "http://nothing.invalid/"}, 400, "webhook_host_unknown"),
        ({"url": "http://127.0.0.1/", "eventTypes": ["no.such"]}, 400, "unknown_event_type"),
    ):
        refused = post(api, body=body)
        assert (refused.status_code, refused.json()["code"]) == (status, code), body
    assert rows(api, "SELECT COUNT(*) FROM notification_endpoints") == before
    assert audited(api, "-").count("webhook_url_refused") == 3
    read_only = post(api, body={"url": "http://127.0.0.1/"}, scopes=["billing:read"])
    assert read_only.status_code == 403
    assert post(api, "/whe_nothing/test").status_code == 404
    assert post(api, "/deliveries/nothing/retry").json()["code"] == "delivery_not_found"


def test_the_command_adds_tests_and_lists(databases: Databases) -> None:
    environment = {
        "DATABASE_URL": databases.make("sqlite"),
        "OUTGOING_WEBHOOK_SECRET": SECRETS["OUTGOING_WEBHOOK_SECRET"],
    }
    code, _, complaint = arrakis("webhook", "add", "https://169.254.169.254/x", **environment)
    assert (code, "webhook_url_refused" in complaint) == (2, True)
    private = {**environment, "ARRAKIS_WEBHOOK_ALLOW_PRIVATE": "true"}
    code, made = told("webhook", "add", "http://127.0.0.1:9/hook", **private)
    assert (code, made["secret"][:6]) == (0, "whsec_")
    code, output, _ = arrakis("webhook", "test", made["endpointId"], **environment)
    assert (code, "is on its way" in output) == (0, True)
    code, output, _ = arrakis("webhook", "list", **environment)
    assert (code, output.splitlines()[1].split()) == (
        0,
        [made["endpointId"], "active", "1", "http://127.0.0.1:9/hook"],
    )


def test_without_its_secret_the_feature_is_off_and_says_so(databases: Databases) -> None:
    url = databases.make("sqlite")
    code, _, complaint = arrakis("webhook", "add", "https://a.example", DATABASE_URL=url)
    assert code == 3
    assert "Outgoing webhooks are off: OUTGOING_WEBHOOK_SECRET is not set." in complaint


def test_the_audit_log_keeps_no_secret_that_a_url_may_hold(
    api: Api, receiver: ScriptedProvider
) -> None:
    at, author = receiver.url + "/hook", unique("author")
    made = post(api, body={"url": f"{at}?token=s3cret"}, sub=author)
    endpoint = made.json()["endpointId"]
    assert api.admin_get(f"webhooks/{endpoint}").json()["url"] == f"{at}?token=s3cret"
    changed = {"url": f"{at}/new?token=s3cret-2"}
    api.patch(f"{BASE}/{endpoint}", changed, headers=api.admin(sub=author)).raise_for_status()
    requests.delete(
        f"{api.url}{BASE}/{endpoint}", headers=api.admin(sub=author), timeout=10
    ).raise_for_status()
    refused = post(api, body={"url": "ftp://me:s3cret@a.example/x#s3cret"}, sub=author)
    assert refused.status_code == 400
    details = [
        json.loads(one)
        for (one,) in rows(
            api, "SELECT details FROM admin_audit_log WHERE actor_id = :a ORDER BY id", a=author
        )
    ]
    assert "s3cret" not in json.dumps(details)
    assert [one.get("url") for one in details] == [
        f"{at}?***",
        None,
        f"{at}/new?***",
        "ftp://***@a.example/x?***",
    ]
    assert details[1]["changes"]["url"] == {"old": f"{at}?***", "new": f"{at}/new?***"}
