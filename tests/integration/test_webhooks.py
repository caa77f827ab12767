"""The receiver's front door: what is stored, what is refused, and with which status."""

import http.client
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from sqlalchemy import text

from deploy.local.servers import free_port
from tests.harness import granian, service, service_environment, unique
from tests.receiver import PATHS, Receiver, notice, own_payment_id, sign


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def receiver(request: pytest.FixtureRequest, receivers: Callable[[str], Receiver]) -> Receiver:
    """The real receiver, on each kind of database."""
    return receivers(request.param)


def test_a_signed_notice_is_stored_once_and_its_repeat_is_called_one(receiver: Receiver) -> None:
    body = notice(payment_id=own_payment_id())
    before = receiver.stored()
    first, second = receiver.deliver(body), receiver.deliver(body)
    assert (first.status_code, first.json()) == (200, {"received": True, "duplicate": False})
    assert (second.status_code, second.json()) == (200, {"received": True, "duplicate": True})
    assert receiver.stored() == before + 1


def test_another_status_or_amount_of_a_payment_is_another_notice(receiver: Receiver) -> None:
    payment_id = own_payment_id()
    bodies = [
        notice(payment_id=payment_id),
        notice(payment_id=payment_id, payment_status="partially_paid", actually_paid=1),
        notice(payment_id=payment_id, payment_status="partially_paid", actually_paid=2),
    ]
    answers = [receiver.deliver(body).json()["duplicate"] for body in bodies]
    assert answers == [False, False, False]


def test_the_raw_body_is_kept_to_the_byte(receiver: Receiver) -> None:
    payment_id = own_payment_id()
    body = notice(payment_id=payment_id, order_description="Würze & <Spice>")
    receiver.deliver(body)
    with receiver.database.reading() as tx:
        row = tx.first(
            text("SELECT raw_body, status FROM webhook_events WHERE provider_payment_id = :id"),
            id=str(payment_id),
        )
    assert row is not None
    assert (bytes(row.raw_body), row.status) == (body, "waiting")


@pytest.mark.parametrize("path", PATHS)
def test_both_paths_are_served(receiver: Receiver, path: str) -> None:
    body = notice(payment_id=own_payment_id())
    answer = requests.post(
        receiver.url + path,
        data=body,
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "x-nowpayments-sig": sign(body),
        },
        timeout=10,
    )
    assert answer.status_code == 200


def test_a_notice_signed_with_the_previous_secret_is_accepted(receiver: Receiver) -> None:
    body = notice(payment_id=own_payment_id())
    signature = sign(body, "previous-" + "p" * 32)
    assert receiver.deliver(body, **{"x-nowpayments-sig": signature}).status_code == 200


def test_keys_in_any_order_on_the_wire_are_accepted(receiver: Receiver) -> None:
    fields = {"payment_status": "waiting", "payment_id": own_payment_id(), "actually_paid": 0}
    signature = sign(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
    wire = json.dumps(fields).encode()
    assert receiver.deliver(wire, **{"x-nowpayments-sig": signature}).status_code == 200


def test_a_withdrawal_notice_is_stored_and_answered_200(receiver: Receiver) -> None:
    body = notice(id=unique("w"), payment_id=None, status="FINISHED")
    assert receiver.deliver(body).json() == {"received": True, "duplicate": False}
    assert receiver.deliver(body).json() == {"received": True, "duplicate": True}


GOOD = notice(payment_id=1)
REFUSED = {
    "missing signature": (GOOD, {"x-nowpayments-sig": ""}, 401),
    "truncated signature": (GOOD, {"x-nowpayments-sig": sign(GOOD)[:-1]}, 401),
    "wrong signature": (GOOD, {"x-nowpayments-sig": "0" * 128}, 401),
    "signature of another body": (GOOD, {"x-nowpayments-sig": sign(b"{}")}, 401),
    "signature not hexadecimal": (GOOD, {"x-nowpayments-sig": "g" * 128}, 401),
    "not JSON": (b"payment_id=1", {}, 400),
    "empty body": (b"", {}, 400),
    "array": (b"[1]", {}, 400),
    "duplicate keys": (b'{"payment_id":1,"payment_id":2}', {}, 400),
    "too deep": (b'{"a":' * 40 + b"1" + b"}" * 40, {}, 400),
    "not UTF-8": (b'{"payment_id":"\xff"}', {}, 400),
    "NaN": (b'{"payment_id":NaN}', {}, 400),
    "too large": (b'{"a":"' + b"x" * 70_000 + b'"}', {}, 413),
    "a form": (GOOD, {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "no content type": (GOOD, {"Content-Type": ""}, 415),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_an_authentic_notice_is_refused_and_not_stored(
    receiver: Receiver, case: str
) -> None:
    body, headers, status = REFUSED[case]
    before = receiver.stored()
    answer = receiver.deliver(body, **headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/json")
    assert answer.json()["code"]
    assert receiver.stored() == before


@pytest.mark.parametrize(("size", "status"), [(1_000, 200), (70_000, 413)])
def test_a_chunked_body_is_read_whole_or_refused(
    receiver: Receiver, size: int, status: int
) -> None:
    body = notice(payment_id=own_payment_id(), order_description="x" * size)
    connection = http.client.HTTPConnection(receiver.url.removeprefix("http://"), timeout=10)
    connection.request(
        "POST",
        PATHS[0],
        body=iter([body[:500], body[500:]]),
        headers={"Content-Type": "application/json", "x-nowpayments-sig": sign(body)},
        encode_chunked=True,
    )
    assert connection.getresponse().status == status
    connection.close()


def test_odd_values_in_an_authentic_notice_are_stored_and_never_a_fault(
    receiver: Receiver,
) -> None:
    odd = (
        notice(payment_id=own_payment_id(), payment_status="fini\x00shed"),
        notice(payment_id=own_payment_id(), payment_status="x" * 5_000),
        notice(payment_id="../../etc", payment_status="finished"),
        notice(payment_id=own_payment_id(), actually_paid="9" * 4_000),
        notice(payment_id=own_payment_id(), payment_status=["finished"]),
        notice(payment_id={"a": 1}, payment_status=None),
        notice(payment_id=own_payment_id(), order_id="\ud800"),
    )
    assert [receiver.deliver(body).status_code for body in odd] == [200] * len(odd)


def test_forged_notices_do_not_keep_the_genuine_one_out(receiver: Receiver) -> None:
    """Behaviour 170 (W45): nothing is counted against a payment before its signature is good."""
    body = notice(payment_id=own_payment_id(), payment_status="finished")
    forged = {receiver.deliver(body, **{"x-nowpayments-sig": "0" * 128}).status_code}
    for _ in range(20):
        forged.add(receiver.deliver(body, **{"x-nowpayments-sig": "0" * 128}).status_code)
    assert forged == {401}
    assert receiver.deliver(body).json() == {"received": True, "duplicate": False}


def test_a_database_that_is_away_is_a_503_so_that_the_provider_sends_again(
    redis_url: str, tmp_path: Path
) -> None:
    port = free_port()
    dead = f"postgresql+psycopg://postgres@127.0.0.1:{free_port()}/none"
    base = f"http://127.0.0.1:{port}"
    command = granian("services.webhooks.wsgi:app", port)
    environment = service_environment(dead, redis_url)
    with service(command, environment, f"{base}/metrics", tmp_path / "log"):
        body = notice(payment_id=1)
        headers = {"Content-Type": "application/json", "x-nowpayments-sig": sign(body)}
        answer = requests.post(base + PATHS[0], data=body, headers=headers, timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert requests.get(f"{base}/health", timeout=20).status_code == 503


def test_the_receiver_does_not_start_without_a_good_secret(redis_url: str, tmp_path: Path) -> None:
    environment = service_environment("sqlite:///x.db", redis_url, NOWPAYMENTS_IPN_SECRET="short")
    log = tmp_path / "log"
    with service(granian("services.webhooks.wsgi:app", free_port()), environment, None, log) as it:
        assert it.wait(20) != 0
    assert "NOWPAYMENTS_IPN_SECRET must have at least 32 bytes" in log.read_text()
