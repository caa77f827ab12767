"""The receiver against everything that is no notice: bytes, mutations, odd headers and framing.

Never a 5xx but 503, never a reset of a well-framed request, and nothing stored unless authentic.
"""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.receiver import PATHS, Receiver, notice, own_payment_id, sign

FUZZING = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
REFUSED = {400, 401, 413, 415}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def receiver(
    request: pytest.FixtureRequest, receivers: Callable[[str], Receiver]
) -> Iterator[Receiver]:
    """The real receiver, on each kind of database; alive at the end."""
    running = receivers(request.param)
    yield running
    answer = running.deliver(notice(payment_id=own_payment_id()))
    assert (answer.status_code, answer.json()["duplicate"]) == (200, False)


def refuses(receiver: Receiver, answer: requests.Response, before: int) -> None:
    assert answer.status_code in REFUSED, (answer.status_code, answer.text)
    assert answer.json()["code"]
    assert receiver.stored() == before


@FUZZING
@given(body=st.binary(max_size=300), signature=st.text("0123456789abcdefXYZ ", max_size=140))
def test_random_bytes_with_random_signatures_are_refused(
    receiver: Receiver, body: bytes, signature: str
) -> None:
    before = receiver.stored()
    sent = receiver.deliver(body, **{"x-nowpayments-sig": signature.strip()})
    refuses(receiver, sent, before)


@FUZZING
@given(body=st.binary(max_size=300))
def test_signed_bytes_that_are_no_object_are_refused(receiver: Receiver, body: bytes) -> None:
    before = receiver.stored()
    answer = receiver.deliver(body)
    if answer.status_code == 200:
        assert isinstance(json.loads(body), dict)
    else:
        refuses(receiver, answer, before)


@FUZZING
@given(fields=st.dictionaries(st.text(max_size=12), JSON, max_size=6))
def test_any_signed_object_is_stored_or_refused_with_its_reason(
    receiver: Receiver, fields: dict[str, Any]
) -> None:
    """Not a payment notice, or one with odd values: 200 and kept, so that the sender stops."""
    before = receiver.stored()
    body = json.dumps({**fields, "salt": own_payment_id()}).encode()
    answer = receiver.deliver(body)
    if answer.status_code == 200:
        assert answer.json() == {"received": True, "duplicate": False}
        assert receiver.stored() == before + 1
    else:
        refuses(receiver, answer, before)


@FUZZING
@given(place=st.integers(0, 400), byte=st.integers(0, 255), data=st.data())
def test_a_notice_changed_anywhere_after_signing_is_refused(
    receiver: Receiver, place: int, byte: int, data: st.DataObject
) -> None:
    genuine = notice(payment_id=own_payment_id(), payment_status="finished", price_amount=25)
    spot = place % len(genuine)
    how = data.draw(st.sampled_from(["change", "insert", "delete", "truncate"]))
    changed = {
        "change": genuine[:spot] + bytes([byte]) + genuine[spot + 1 :],
        "insert": genuine[:spot] + bytes([byte]) + genuine[spot:],
        "delete": genuine[:spot] + genuine[spot + 1 :],
        "truncate": genuine[:spot],
    }[how]
    before = receiver.stored()
    answer = receiver.deliver(changed, **{"x-nowpayments-sig": sign(genuine)})
    if answer.status_code == 200:  # spelled otherwise, but the same text after sorting
        assert json.loads(changed) == json.loads(genuine)
    else:
        refuses(receiver, answer, before)


FRAMES = {
    "no length": "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\r\n",
    "negative length": "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    "two lengths": (
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"
    ),
    "length and chunked": (
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "broken chunk": (
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n"
    ),
    "two signatures": (
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        "x-nowpayments-sig: a\r\nx-nowpayments-sig: b\r\nContent-Length: 2\r\n\r\n{{}}"
    ),
    "non-ASCII signature": (
        "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        "x-nowpayments-sig: \xff\xfe\r\nContent-Length: 2\r\n\r\n{{}}"
    ),
    "another method": "PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": "hello\r\n\r\n",
}


@pytest.mark.parametrize("frame", FRAMES)
def test_odd_framing_is_refused_and_stores_nothing(receiver: Receiver, frame: str) -> None:
    before = receiver.stored()
    place = urlsplit(receiver.url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=5) as line:
        line.sendall(FRAMES[frame].format(path=PATHS[0]).encode("latin-1"))
        line.shutdown(socket.SHUT_WR)
        told = b"".join(iter(lambda: line.recv(4096), b""))
    assert not told or told.split(b" ", 2)[1][:1] == b"4", told[:200]
    assert receiver.stored() == before
