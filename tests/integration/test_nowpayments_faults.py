"""The NOWPayments client when the provider fails: time, repeats, the circuit breaker, the log."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.local.servers import free_port
from shared.clock import system_clock
from shared.payments.providers.calls import Limits
from shared.payments.providers.exchange import BODY_BYTES_MAX
from shared.payments.providers.nowpayments import OutcomeUnknown, ProviderAway
from shared.payments.providers.outcomes import NotReached
from tests.scripted_provider import (
    DRIPS,
    QUICK,
    Client,
    Reply,
    Request,
    ScriptedProvider,
    answer,
    created,
    hang,
    hang_up,
    scripted,
    shown,
    takes_at_most,
)


def usual(request: Request) -> Reply:
    if request.method == "POST":
        return answer(201, created(request, 1))
    return answer(200, shown(7))


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(usual) as server:
        yield server


@pytest.fixture
def client(provider: ScriptedProvider) -> Client:
    return Client(provider.url, limits=QUICK)


def truncated(handler: Any) -> None:
    answer(200, b'{"payment_id": 7, "payment_sta', Content_Length="900")(handler)


def endless(handler: Any) -> None:
    answer(200, b" " * (BODY_BYTES_MAX + 1))(handler)


REDIRECTS = [answer(status, Location="/status") for status in (301, 302, 303, 307, 308)]
PASSING: dict[str, Reply] = {
    "500": answer(500, {"message": "oh"}),
    "503": answer(503, b"<html>"),
    "429": answer(429, {"message": "Too many requests"}),
    "hang": hang,
    "hang up": hang_up,
    "truncated": truncated,
    "too long": endless,
    **{f"drip of {name}": reply for name, reply in DRIPS.items()},
}
LASTING: dict[str, Reply] = {
    "HTML": answer(200, b"<html><body>Welcome!</body></html>"),
    "nothing": answer(200, b""),
    "a list": answer(200, []),
    "too deep": answer(200, b"[" * 100_000),
    "not UTF-8": answer(200, b'{"payment_id": 7, "payment_status": "\xff"}'),
    "truncated JSON": answer(200, b'{"payment_id": 7, "payment_sta'),
    "compressed": answer(200, b"\x1f\x8b\x08", Content_Encoding="gzip"),
    **{f"redirect {number}": reply for number, reply in enumerate(REDIRECTS)},
    "a redirect that is no address": answer(302, b" " * 9_999, Location="http://["),
    "wait a minute": answer(503, Retry_After="60"),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_read_survives_two_passing_faults(
    provider: ScriptedProvider, client: Client, name: str
) -> None:
    provider.replies = [PASSING[name]] * 2
    with takes_at_most(5):
        reading = client.nowpayments.read_payment("7")
    assert reading is not None
    assert len(provider.requests) == 3
    assert len(client.pauses) == 2
    assert all(0 <= pause <= 2 for pause in client.pauses)


@pytest.mark.parametrize("name", PASSING)
def test_a_read_that_fails_three_times_is_given_up(
    provider: ScriptedProvider, client: Client, name: str
) -> None:
    provider.replies = [PASSING[name]] * 3
    with takes_at_most(6), pytest.raises(ProviderAway) as away:
        client.nowpayments.read_payment("7")
    assert (len(provider.requests), len(client.pauses)) == (3, 2)
    assert (away.value.code, away.value.retry_after_seconds) == ("provider_unavailable", 30)


@pytest.mark.parametrize("name", LASTING)
def test_a_read_is_not_repeated_when_that_cannot_help(
    provider: ScriptedProvider, client: Client, name: str
) -> None:
    provider.replies = [LASTING[name]]
    with pytest.raises(ProviderAway):
        client.nowpayments.read_payment("7")
    assert (len(provider.requests), client.pauses) == (1, [])


UNKNOWN = {
    name: reply
    for name, reply in {**PASSING, **LASTING, "late": answer(408, {"message": "late"})}.items()
    if name != "429"
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_creation_is_sent_once_whatever_comes_back(
    provider: ScriptedProvider, client: Client, name: str
) -> None:
    provider.replies = [UNKNOWN[name]]
    with takes_at_most(4), pytest.raises(OutcomeUnknown):
        client.create()
    assert (len(provider.requests), client.pauses) == (1, [])


def test_a_creation_answered_for_another_order_is_unknown(
    provider: ScriptedProvider, client: Client
) -> None:
    other = created(Request("POST", "", {}, {}, b'{"price_amount":1,"order_id":"cp_0"}'), 1)
    provider.replies = [answer(201, other)]
    with pytest.raises(OutcomeUnknown):
        client.create()


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_creation_that_is_not_taken_now_may_come_again(
    provider: ScriptedProvider, client: Client, status: int
) -> None:
    provider.replies = [answer(status, Retry_After="120"), answer(status, Retry_After="soon")]
    for seconds in (120, 30):
        with pytest.raises(ProviderAway) as away:
            client.create()
        assert away.value.retry_after_seconds == seconds
    assert (len(provider.requests), client.pauses) == (2, [])


def test_a_pause_that_the_provider_asks_for_is_made_if_it_is_short(
    provider: ScriptedProvider,
) -> None:
    client = Client(provider.url, limits=Limits())
    provider.replies = [answer(429, Retry_After="5"), answer(503, Retry_After="3")]
    client.nowpayments.read_payment("7")
    assert client.pauses == [5, 3]
    client.pauses.clear()
    provider.replies = [answer(429, Retry_After="6")]
    with pytest.raises(ProviderAway) as away:
        client.nowpayments.read_payment("7")
    assert (away.value.retry_after_seconds, client.pauses) == (6, [])


def test_all_tries_of_a_read_together_have_a_limit(provider: ScriptedProvider) -> None:
    limits = Limits(connect_seconds=1.0, answer_seconds=0.4, total_seconds=0.6)
    client = Client(provider.url, limits=limits)
    provider.replies = [hang] * 3
    with takes_at_most(3), pytest.raises(ProviderAway):
        client.nowpayments.read_payment("7")
    assert len(provider.requests) < 3


# Behaviour 93: "fetch failed" is retried once.


def test_behaviour_93_a_creation_is_tried_twice_if_no_connection_was_made() -> None:
    port = free_port()
    with ExitStack() as running:
        servers: list[ScriptedProvider] = []

        def begin(_seconds: float) -> None:
            servers.append(running.enter_context(scripted(usual, port)))

        client = Client(f"http://127.0.0.1:{port}", sleep=begin)
        assert client.create().provider_payment_id == "5000000001"
        assert len(servers[0].requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{free}",
        "http://provider.invalid",
        "http://127.0.0.1:99999",
        "ftp://127.0.0.1",
        "http://[",
    ],
)
def test_behaviour_93_a_creation_that_reaches_nobody_is_tried_no_third_time(url: str) -> None:
    client = Client(url.replace("{free}", str(free_port())))
    with pytest.raises(NotReached) as away:
        client.create()
    assert (len(client.pauses), away.value.retry_after_seconds) == (1, 30)
    with pytest.raises(NotReached):
        client.nowpayments.read_payment("7")
    assert len(client.pauses) == 3
    assert not client.nowpayments.status()


def test_a_key_that_no_header_can_carry_sends_nothing(provider: ScriptedProvider) -> None:
    for key in ("key\nwith-more", "\u0142"):
        with pytest.raises(NotReached):
            Client(provider.url, api_key=key).create()
    assert provider.requests == []


@pytest.fixture
def secure(tmp_path: Path, provider: ScriptedProvider) -> tuple[ScriptedProvider, Path]:
    """The provider over TLS, with a certificate that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider of the tests")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now = system_clock()
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(here, critical=False)
        .sign(key, SHA256())
    )
    both = tmp_path / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    provider.socket = context.wrap_socket(provider.socket, server_side=True)
    provider.url = provider.url.replace("http:", "https:")
    return provider, both


def test_a_server_with_a_wrong_certificate_is_told_nothing(
    secure: tuple[ScriptedProvider, Path],
) -> None:
    with pytest.raises(NotReached):
        Client(secure[0].url).create()
    assert secure[0].requests == []


def test_over_tls_the_answer_has_its_time_too(
    secure: tuple[ScriptedProvider, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, certificate = secure
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    client = Client(provider.url, limits=QUICK)
    assert client.create().status == "waiting"
    provider.replies = list(DRIPS.values())
    for _ in DRIPS:
        with takes_at_most(3), pytest.raises(OutcomeUnknown):
            client.create()
